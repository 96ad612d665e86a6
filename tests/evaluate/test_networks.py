from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor

from feat_fed.errors import CheckpointError, ConfigError, DataError
from feat_fed.evaluate import videomae
from feat_fed.evaluate.i3d import I3D
from feat_fed.evaluate.networks import load_network
from feat_fed.evaluate.random_network import RandomVideoNetwork
from feat_fed.evaluate.videomae import VideoMAE, VideoMAEShape
from feature_files import (
    StandInI3D,
    StandInInception,
    save_program,
    seeded,
    sha256_of,
    videos,
)

TINY = VideoMAEShape(width=24, depth=2, heads=3, hidden=40, num_classes=5, num_frames=16)


@pytest.fixture(scope="module")
def i3d_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict with the names and shapes of the published one, and random numbers."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        state = I3D().state_dict()
        for name, tensor in state.items():
            if name.endswith(("running_var", "bn.weight")):
                tensor.uniform_(0.8, 1.2)
            elif name.endswith(("running_mean", "bias")):
                tensor.normal_(0, 0.1)
    path = tmp_path_factory.mktemp("weights") / "i3d_pretrained_400.pt"
    torch.save(state, path)
    return path


def pixels(count: int, *, frames: int = 16, size: tuple[int, int] = (40, 40)) -> Tensor:
    return torch.from_numpy(np.stack(videos(count, frames=frames, size=size)))


def i3d_by_hand(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The architecture as a list of what happens, on published names."""

    def padded(x: Tensor, kernel: tuple, stride: tuple) -> Tensor:
        pads = []
        for size, k, s in zip(x.shape[2:], kernel, stride, strict=True):
            total = max((-(-size // s) - 1) * s + k - size, 0)  # TensorFlow's SAME
            pads = [total // 2, total - total // 2, *pads]
        return nnf.pad(x, pads)

    def unit(name: str, x: Tensor, stride: tuple = (1, 1, 1)) -> Tensor:
        weight = state[f"{name}.conv3d.weight"]
        x = nnf.conv3d(padded(x, tuple(weight.shape[2:]), stride), weight, stride=stride)
        mean, var, gain, bias = (
            state[f"{name}.bn.{each}"][:, None, None, None]
            for each in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / (var + 1e-5).sqrt() * gain + bias).relu()

    def pool(x: Tensor, kernel: tuple, stride: tuple) -> Tensor:
        return nnf.max_pool3d(padded(x, kernel, stride), kernel, stride)

    def mixed(name: str, x: Tensor) -> Tensor:
        one = unit(f"{name}.b1b", unit(f"{name}.b1a", x))
        two = unit(f"{name}.b2b", unit(f"{name}.b2a", x))
        three = unit(f"{name}.b3b", pool(x, (3, 3, 3), (1, 1, 1)))
        return torch.cat([unit(f"{name}.b0", x), one, two, three], dim=1)

    x = pool(unit("Conv3d_1a_7x7", x, (2, 2, 2)), (1, 3, 3), (1, 2, 2))
    x = unit("Conv3d_2c_3x3", unit("Conv3d_2b_1x1", x))
    x = mixed("Mixed_3c", mixed("Mixed_3b", pool(x, (1, 3, 3), (1, 2, 2))))
    x = pool(x, (3, 3, 3), (2, 2, 2))
    for each in "bcdef":
        x = mixed(f"Mixed_4{each}", x)
    x = mixed("Mixed_5c", mixed("Mixed_5b", pool(x, (2, 2, 2), (2, 2, 2))))
    x = nnf.avg_pool3d(x, (2, 7, 7), stride=1)
    logits = nnf.conv3d(x, state["logits.conv3d.weight"], state["logits.conv3d.bias"])
    return logits.squeeze(3).squeeze(3).mean(dim=2)


def test_i3d_takes_the_published_state_dict_and_computes_its_logits(i3d_file: Path) -> None:
    state = torch.load(i3d_file)
    assert len(state) == 344
    assert state["Mixed_5c.b2b.conv3d.weight"].shape == (128, 48, 3, 3, 3)
    network = load_network("i3d-state-dict", i3d_file, sha256_of(i3d_file))
    clip = pixels(1, frames=9, size=(50, 70))
    frames = clip[0].permute(0, 3, 1, 2).float()
    sized = nnf.interpolate(frames, size=(224, 224), mode="bilinear", align_corners=False)
    expected = i3d_by_hand(state, (2 * sized / 255 - 1).transpose(0, 1)[None])
    torch.testing.assert_close(network.features(clip, "squash"), expected, rtol=1e-3, atol=1e-4)


def test_a_wrapped_state_dict_is_unwrapped(i3d_file: Path, tmp_path: Path) -> None:
    wrapped = tmp_path / "wrapped.pt"
    torch.save({"model": torch.load(i3d_file), "epoch": 3}, wrapped)
    assert load_network("i3d-state-dict", wrapped).name == "i3d-state-dict"


def test_an_old_file_without_counters_is_taken(i3d_file: Path, tmp_path: Path) -> None:
    state = torch.load(i3d_file)
    old = {name: each for name, each in state.items() if not name.endswith("_tracked")}
    torch.save(old, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert load_network("i3d-state-dict", tmp_path / "old.pt").takes == "clips"


def test_i3d_needs_nine_frames(i3d_file: Path) -> None:
    network = load_network("i3d-state-dict", i3d_file)
    with pytest.raises(DataError, match="clips of 9 or more frames, and these have 8"):
        network.features(pixels(1, frames=8), "squash")


def videomae_by_hand(state: dict[str, Tensor], video: Tensor, heads: int) -> Tensor:
    """One clip in float64: loops over tubes and heads, softmax written out."""
    state = {name: tensor.double() for name, tensor in state.items()}
    video = video.double()
    tokens = []
    for t in range(0, video.shape[1], 2):
        for y in range(0, video.shape[2], 14):
            for x in range(0, video.shape[3], 14):
                tube = video[:, t : t + 2, y : y + 14, x : x + 14].flatten()
                weight = state["patch_embed.proj.weight"].flatten(1)
                tokens.append(weight @ tube + state["patch_embed.proj.bias"])
    x = torch.stack(tokens)
    length, width = x.shape
    for position in range(length):
        for column in range(width):
            angle = torch.tensor(position / 10000 ** (2 * (column // 2) / width))
            x[position, column] += angle.cos() if column % 2 else angle.sin()

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    for block in (f"blocks.{index}" for index in range(depth)):
        q, k, v = (norm(x, f"{block}.norm1") @ state[f"{block}.attn.qkv.weight"].T).chunk(3, -1)
        q, v = q + state[f"{block}.attn.q_bias"], v + state[f"{block}.attn.v_bias"]
        mixed = []
        for qh, kh, vh in zip(*(each.chunk(heads, -1) for each in (q, k, v)), strict=True):
            mixed.append((qh @ kh.T / qh.shape[1] ** 0.5).softmax(-1) @ vh)
        attn = torch.cat(mixed, -1) @ state[f"{block}.attn.proj.weight"].T
        x = x + attn + state[f"{block}.attn.proj.bias"]
        hidden = norm(x, f"{block}.norm2") @ state[f"{block}.mlp.fc1.weight"].T
        hidden = hidden + state[f"{block}.mlp.fc1.bias"]
        hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
        x = x + hidden @ state[f"{block}.mlp.fc2.weight"].T + state[f"{block}.mlp.fc2.bias"]
    return norm(x.mean(0), "fc_norm")


def test_videomae_computes_what_its_paper_says() -> None:
    shape = VideoMAEShape(
        width=24, depth=2, heads=3, hidden=40, num_classes=5, num_frames=4, size_px=28
    )
    network = seeded(VideoMAE, shape)
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            if name.endswith("bias"):
                tensor.normal_(0, 0.3)
        video = torch.rand(3, 4, 28, 28)
        expected = videomae_by_hand(network.state_dict(), video, heads=3)
        torch.testing.assert_close(network(video[None])[0].double(), expected, rtol=1e-4, atol=1e-5)


def test_the_giant_has_the_published_names_and_shapes() -> None:
    with torch.device("meta"):
        state = VideoMAE().state_dict()
    assert len(state) == 2 + 40 * 13 + 4
    assert state["patch_embed.proj.weight"].shape == (1408, 3, 2, 14, 14)
    assert state["blocks.39.attn.qkv.weight"].shape == (4224, 1408)
    assert state["blocks.0.mlp.fc1.weight"].shape == (6144, 1408)
    # In half precision, they are what the published file of 2,023,804,201 bytes holds.
    assert 2_023_000_000 < 2 * sum(each.numel() for each in state.values()) < 2_023_804_201


def test_videomae_is_loaded_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(videomae, "GIANT", TINY)
    path = tmp_path / "vit_g.pth"
    module = seeded(VideoMAE, TINY).half()
    torch.save({"module": module.state_dict()}, path)
    network = load_network("videomae-g", path, sha256_of(path))
    clip = pixels(2, size=(256, 256))
    found = network.features(clip, "squash")
    frames = clip[1].permute(0, 3, 1, 2).float() / 255
    sized = nnf.interpolate(frames, size=(224, 224), mode="bilinear", align_corners=False)
    with torch.no_grad():
        expected = module.float().eval()(sized.transpose(0, 1)[None])
    torch.testing.assert_close(found[1:], expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(DataError, match="exactly 16 frames, and these have 8"):
        network.features(pixels(1, frames=8), "squash")


def test_the_random_network_is_the_same_everywhere() -> None:
    """Its weights are to the bit; what it computes is to the rounding of sums."""
    network = load_network("random")
    assert network.sha256 == "ba1a00024214109ee426df2397dcd69ef5e254ac9c029bd313548da4da7d9d18"
    noise = np.random.RandomState(0).randint(0, 256, (1, 4, 32, 32, 3)).astype(np.uint8)
    found = network.features(torch.from_numpy(noise), "squash")
    assert found.shape == (1, 48)
    some = torch.tensor([1.3771622, 1.2313746, 0.6847071, 0.3961718])
    torch.testing.assert_close(found[0, [0, 13, 26, 39]], some, rtol=1e-4, atol=0)


def test_building_it_leaves_the_random_numbers_of_others_alone() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(1)
    np.random.seed(1)
    RandomVideoNetwork()
    assert (torch.rand(1), np.random.rand()) == expected


def test_a_program_is_asked_as_the_reference_asks_it(tmp_path: Path) -> None:
    module = seeded(StandInI3D)
    sha256 = save_program(tmp_path / "i3d.pt", module)
    network = load_network("i3d-torchscript", tmp_path / "i3d.pt", sha256)
    clip = pixels(2, size=(40, 60))
    with torch.no_grad():
        expected = module(
            clip.permute(0, 4, 1, 2, 3), rescale=True, resize=True, return_features=True
        )
        torch.testing.assert_close(network.features(clip, "squash"), expected)
    assert not torch.allclose(network.features(clip, "crop"), expected)
    assert network.sha256 == sha256


def test_inception_gives_features_and_logits_without_a_bias(tmp_path: Path) -> None:
    module = seeded(StandInInception)
    sha256 = save_program(tmp_path / "inception.pt", module)
    network = load_network("inception", tmp_path / "inception.pt", sha256)
    frames = pixels(1)[0]
    images = frames.permute(0, 3, 1, 2)
    with torch.no_grad():
        torch.testing.assert_close(
            network.features(frames, "squash"), module(images, return_features=True)
        )
        torch.testing.assert_close(
            network.logits(frames).softmax(1), module(images, no_output_bias=True)
        )


@pytest.mark.parametrize(
    ("name", "file", "digest"),
    [
        ("i3d-torchscript", "i3d_torchscript.pt", "SHA-256 should be bec6519f66ea534e"),
        ("i3d-state-dict", "i3d_pretrained_400.pt", "no SHA-256 of it is published: state"),
        ("inception", "inception-2015-12-05.pt", "SHA-256 should be f58cb9b6ec323ed6"),
        ("videomae-g", "vit_g_hybrid_pt_1200e_ssv2_ft.pth", "SHA-256 should be 5a210a92f035dff3"),
    ],
)
def test_without_a_file_the_message_says_what_to_fetch(name: str, file: str, digest: str) -> None:
    for path in (None, Path("nowhere.pt")):
        with pytest.raises(ConfigError) as caught:
            load_network(name, path)
        told = str(caught.value)
        assert f"{name} needs {file}" in told
        assert digest in told
        assert "https://" in told


def test_a_program_is_not_opened_without_its_digest_or_with_another(tmp_path: Path) -> None:
    path = tmp_path / "i3d.pt"
    save_program(path, seeded(StandInI3D))
    with pytest.raises(ConfigError, match="a program of whoever made it; give its SHA-256"):
        load_network("i3d-torchscript", path)
    with pytest.raises(ConfigError, match=f"has SHA-256 {sha256_of(path)} and not {'0' * 64}"):
        load_network("i3d-torchscript", path, "0" * 64)


def test_a_state_dict_with_another_digest_is_not_opened(i3d_file: Path) -> None:
    with pytest.raises(ConfigError, match="it was not opened"):
        load_network("i3d-state-dict", i3d_file, "0" * 64)


class Trap:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("trap-was-sprung"),))


def test_a_pickle_that_runs_code_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Trap()}, "trap.pt")
    with pytest.raises(CheckpointError, match="is not a file of weights") as refused:
        load_network("i3d-state-dict", Path("trap.pt"))
    assert "weights_only" not in str(refused.value)  # no advice to run it
    assert not Path("trap-was-sprung").exists()


def test_files_of_other_kinds_are_told_apart(i3d_file: Path, tmp_path: Path) -> None:
    text = tmp_path / "page.pt"
    text.write_text("<html>moved</html>")
    with pytest.raises(CheckpointError, match="is not a TorchScript file"):
        load_network("i3d-torchscript", i3d_file, sha256_of(i3d_file))
    with pytest.raises(CheckpointError, match="is not a TorchScript file"):
        load_network("inception", text, sha256_of(text))
    with pytest.raises(CheckpointError, match="is not a file of weights"):
        load_network("i3d-state-dict", text)
    save_program(text, seeded(StandInI3D))
    with pytest.raises(CheckpointError, match="is a TorchScript file and no state dict"):
        load_network("i3d-state-dict", text)
    torch.save({"logits.conv3d.weight": torch.zeros(1)}, text)
    with pytest.raises(CheckpointError, match=r"Conv3d_1a_7x7.conv3d.weight is missing"):
        load_network("i3d-state-dict", text)
    torch.save([1, 2], text)
    with pytest.raises(CheckpointError, match="holds no state dict"):
        load_network("videomae-g", text)


def test_a_program_of_another_interface_is_named(tmp_path: Path) -> None:
    sha256 = save_program(tmp_path / "x.pt", seeded(StandInInception))
    network = load_network("i3d-torchscript", tmp_path / "x.pt", sha256)
    with pytest.raises(DataError, match="i3d-torchscript failed on clips of this shape, or has"):
        network.features(pixels(1), "squash")
    sha256 = save_program(tmp_path / "y.pt", torch.nn.Identity())
    network = load_network("i3d-torchscript", tmp_path / "y.pt", sha256)
    with pytest.raises(DataError, match="i3d-torchscript"):
        network.features(pixels(1), "squash")

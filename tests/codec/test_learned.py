"""Learned codecs: what their library computes, at unit scale, from verified files alone."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from monai.networks.nets import AutoencoderKL as MonaiAutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor

from feat_fed.codec import VideoCodec, build_codec
from feat_fed.codec.files import weights_files, weights_hash
from feat_fed.config import CodecConfig
from feat_fed.data import read_clip
from feat_fed.data.frames import square_video
from feat_fed.errors import ConfigError
from learned_weights import MONAI, monai_file
from shared_files import media


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def kl_folder(folder: Path, **changes: Any) -> Path:
    torch.manual_seed(0)
    network = AutoencoderKL(
        **{
            "block_out_channels": (4, 8),
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "norm_num_groups": 2,
            "scaling_factor": 0.5,
            "shift_factor": 0.25,
        }
        | changes
    )
    network.save_pretrained(folder)
    return folder


def tiny_state(numbered: dict[int, Tensor | tuple[Tensor, Tensor] | int]) -> dict[str, Tensor]:
    """Name a convolution's kernel (with its bias, if it has one), or a block's (of so many)."""
    state: dict[str, Tensor] = {}
    for place, what in numbered.items():
        if isinstance(what, int):
            for layer in (0, 2, 4):
                state[f"{place}.conv.{layer}.weight"] = noise(what, what, 3, 3) / what
                state[f"{place}.conv.{layer}.bias"] = noise(what)
        elif isinstance(what, Tensor):
            state[f"{place}.weight"] = what
        else:
            state[f"{place}.weight"], state[f"{place}.bias"] = what
    return state


def tiny_folder(folder: Path, latent: int = 5) -> Path:
    """Halve twice: a family member that nobody trained."""
    folder.mkdir(exist_ok=True)
    wide = noise(4, 4, 3, 3)
    encoder = {0: (noise(4, 3, 3, 3), noise(4)), 1: 4, 2: wide, 3: wide, 4: 4}
    decoder = {1: (noise(4, latent, 3, 3), noise(4)), 3: 4, 5: wide, 6: 4, 8: wide.flip(0), 9: 4}
    encoder[5] = (noise(latent, 4, 3, 3), noise(latent))
    decoder[10] = (noise(3, 4, 3, 3), noise(3))
    pool = {"0.weight": noise(8, 4, 1, 1), "1.weight": noise(8), "1.bias": noise(8)}
    pool["3.weight"] = noise(4, 8, 1, 1)
    torch.save(
        tiny_state(encoder) | {f"4.pool.{name}": each for name, each in pool.items()},
        folder / "some_encoder.pth",
    )
    save_file(tiny_state(decoder), folder / "some_decoder.safetensors")
    return folder


def config_of(kind: str, weights: Path, **changes: Any) -> CodecConfig:
    sizes = {
        "tiny": {"latent_channels": 5, "downscale": 4},
        "autoencoder-kl": {"latent_channels": 4, "downscale": 2},
        "monai-kl": {"monai": MONAI},
    }
    sha256 = weights_hash(weights_files(kind, weights))
    fields = {"kind": kind, "weights": weights, "weights_sha256": sha256}
    return CodecConfig.model_validate(fields | sizes[kind] | changes)


MAKERS: dict[str, Callable[[Path], Path]] = {
    "tiny": tiny_folder,
    "autoencoder-kl": kl_folder,
    "monai-kl": monai_file,
}


@pytest.fixture(params=list(MAKERS))
def config(request: pytest.FixtureRequest, tmp_path: Path) -> CodecConfig:
    return config_of(request.param, MAKERS[request.param](tmp_path / "weights"))


def test_shapes_parts_and_ranges(config: CodecConfig) -> None:
    codec = build_codec(config)
    video = noise(2, 3, 3, 32, 40)
    latent = codec.encode(video)
    assert latent.mean.shape[1:] == codec.latent_shape(3, 32, 40)
    assert codec.latent_channels == config.channels == latent.mean.shape[2]
    assert (latent.logvar is not None) == codec.has_logvar == (config.kind != "tiny")
    torch.testing.assert_close(codec.encode(video[1:, 2:]).mean, latent.mean[1:, 2:])
    decoded = codec.decode(100 * latent.mean)
    assert decoded.shape == video.shape and decoded.abs().max() <= 1
    assert codec.flip_signs is None and codec.to("cpu") is codec
    with pytest.raises(ConfigError, match=f"33 x 32 px does not divide by {config.step_px}"):
        codec.encode(noise(1, 1, 3, 33, 32))


def test_scale_and_shift_move_latents_and_not_frames(config: CodecConfig) -> None:
    plain = build_codec(config.model_copy(update={"shift": (0.0,), "scale": (1.0,)}))
    shift, scale = torch.linspace(-1, 1, config.channels), torch.linspace(0.5, 2, config.channels)
    update = {"shift": tuple(shift.tolist()), "scale": tuple(scale.tolist())}
    scaled, video = build_codec(config.model_copy(update=update)), noise(1, 2, 3, 16, 16)
    raw, z = plain.encode(video), scaled.encode(video)
    by_channel = (slice(None), None, None)
    torch.testing.assert_close(z.mean * scale[by_channel] + shift[by_channel], raw.mean)
    torch.testing.assert_close(scaled.decode(z.mean), plain.decode(raw.mean), atol=1e-3, rtol=0)
    if raw.logvar is not None and z.logvar is not None:
        torch.testing.assert_close(z.logvar + 2 * scale.log()[by_channel], raw.logvar)
    assert plain.fingerprint != scaled.fingerprint


def test_fingerprints_follow_the_weights_and_not_where_they_lie(
    config: CodecConfig, tmp_path: Path
) -> None:
    assert config.weights
    moved = tmp_path / "elsewhere" / config.weights.name
    moved.parent.mkdir()
    config.weights.rename(moved)
    codec = build_codec(config, weights=moved)
    other = config.model_copy(update={"weights_sha256": "0" * 64})
    assert codec.fingerprint == build_codec(config_of(config.kind, moved)).fingerprint
    assert codec.fingerprint.startswith(config.kind)
    with pytest.raises(ConfigError, match=f"has the SHA-256 {config.weights_sha256} and .* 0000"):
        build_codec(other, weights=moved)


def test_weights_that_are_not_there_are_asked_of_nobody(
    config: CodecConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(ConfigError, match="are not there"):
        build_codec(config, weights=Path("stabilityai/sd-vae-ft-mse"))
    with pytest.raises(ConfigError, match=r"site sets codec_weights, a study codec\.weights"):
        build_codec(config.model_copy(update={"weights": None}))


def test_other_sizes_than_the_study_s_are_told(tmp_path: Path) -> None:
    kl = kl_folder(tmp_path / "kl", latent_channels=8)
    with pytest.raises(ConfigError, match=r"latents of 8 channels and 2 px .* says 4 channels"):
        build_codec(config_of("autoencoder-kl", kl))
    tiny = tiny_folder(tmp_path / "tiny")
    with pytest.raises(ConfigError, match=r"5 channels and 4 px a latent pixel, .* and 8 px"):
        build_codec(config_of("tiny", tiny, downscale=8))


def test_diffusers_autoencoder_is_the_library_s(tmp_path: Path) -> None:
    folder = kl_folder(tmp_path)
    codec = build_codec(config_of("autoencoder-kl", folder))
    network = AutoencoderKL.from_pretrained(folder, low_cpu_mem_usage=False)
    video = noise(1, 2, 3, 16, 16)
    with torch.no_grad():
        moments = network.encode(video[0]).latent_dist
        decoded = network.decode(moments.mean).sample.clamp(-1, 1)
    z = codec.encode(video)
    assert z.logvar is not None
    torch.testing.assert_close(z.mean[0], (moments.mean - 0.25) * 0.5)
    torch.testing.assert_close(z.logvar.exp()[0], moments.var * 0.25)
    torch.testing.assert_close(codec.decode(z.mean)[0], decoded)


@pytest.mark.parametrize("unit_range", [False, True])
@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("nest", [None, "state_dict"])
def test_monai_autoencoder_is_the_library_s(
    tmp_path: Path, colours: int, unit_range: bool, nest: str | None
) -> None:
    built = MONAI.model_copy(update={"in_channels": colours, "unit_range": unit_range})
    path = monai_file(tmp_path, nest, built)
    codec = build_codec(config_of("monai-kl", path, monai=built))
    network = MonaiAutoencoderKL(
        spatial_dims=2, out_channels=colours, **built.model_dump(exclude={"unit_range"})
    )
    state = torch.load(path, weights_only=True)
    network.load_state_dict(state[nest] if nest else state)
    grey = noise(1, 2, 1, 16, 16)
    seen = grey[0].expand(-1, colours, -1, -1)
    with torch.no_grad():
        mean, sigma = network.eval().encode((seen + 1) / 2 if unit_range else seen)
        decoded = network.decode(mean).expand(-1, 3, -1, -1)
    z = codec.encode(grey.expand(-1, -1, 3, -1, -1))
    assert z.logvar is not None
    torch.testing.assert_close(z.mean[0], mean)
    torch.testing.assert_close((z.logvar[0] / 2).exp(), sigma)
    expected = (decoded * 2 - 1 if unit_range else decoded).clamp(-1, 1)
    torch.testing.assert_close(codec.decode(z.mean)[0], expected)


def test_tiny_autoencoder_by_hand(tmp_path: Path) -> None:
    """The layers of :func:`tiny_folder` written out, as the family is described."""
    folder = tiny_folder(tmp_path)
    e = torch.load(folder / "some_encoder.pth", weights_only=True)
    d = load_file(folder / "some_decoder.safetensors")

    def conv(state: dict[str, Tensor], at: str, x: Tensor, stride: int = 1) -> Tensor:
        weight, bias = state[f"{at}.weight"], state.get(f"{at}.bias")
        return torch.nn.functional.conv2d(x, weight, bias, stride, padding=weight.shape[-1] // 2)

    def block(state: dict[str, Tensor], at: int, x: Tensor) -> Tensor:
        if f"{at}.pool.0.weight" in state:
            y = conv(state, f"{at}.pool.0", x).reshape(len(x), 4, -1)
            y = (y - y.mean(2, keepdim=True)) / (y.var(2, keepdim=True, correction=0) + 1e-5).sqrt()
            y = y.reshape(len(x), 8, *x.shape[2:]) * state[f"{at}.pool.1.weight"][:, None, None]
            y = (y + state[f"{at}.pool.1.bias"][:, None, None]).relu()
            x = x + conv(state, f"{at}.pool.3", y)
        y = conv(state, f"{at}.conv.2", conv(state, f"{at}.conv.0", x).relu()).relu()
        return (conv(state, f"{at}.conv.4", y) + x).relu()

    def twice(x: Tensor) -> Tensor:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    video = noise(1, 2, 3, 16, 16)
    x = block(e, 1, conv(e, "0", (video[0] + 1) / 2))
    z = conv(e, "5", block(e, 4, conv(e, "3", conv(e, "2", x, 2), 2)))
    y = block(d, 3, conv(d, "1", 3 * torch.tanh(z / 3)).relu())
    y = block(d, 6, conv(d, "5", twice(y)))
    decoded = conv(d, "10", block(d, 9, conv(d, "8", twice(y)))) * 2 - 1
    codec = build_codec(config_of("tiny", folder))
    torch.testing.assert_close(codec.encode(video).mean[0], z)
    torch.testing.assert_close(codec.decode(z[None])[0], decoded.clamp(-1, 1), atol=1e-4, rtol=1e-4)


def spoil_json(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def spoil_state(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    state = torch.load(path, weights_only=True)
    torch.save(change(state), path)


def drop_tensor(folder: Path) -> None:
    path = folder / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    del state["encoder.conv_in.weight"]
    save_file(state, path, {"format": "pt"})


FAULTS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "no config": ("autoencoder-kl", lambda w: (w / "config.json").unlink(), "needs config.json"),
    "no encoder": ("tiny", lambda w: (w / "some_encoder.pth").unlink(), r"holds 0 files \*encoder"),
    "two encoders": (
        "tiny",
        lambda w: shutil.copy(w / "some_encoder.pth", w / "my_encoder.pth"),
        r"holds 2 files \*encoder",
    ),
    "class": (
        "autoencoder-kl",
        lambda w: spoil_json(w, _class_name="AutoencoderTiny"),
        "configures 'AutoencoderTiny', where AutoencoderKL was expected",
    ),
    "json": ("autoencoder-kl", lambda w: (w / "config.json").write_text("{"), "cannot be read"),
    "shapes": (
        "autoencoder-kl",
        lambda w: spoil_json(w, block_out_channels=[4, 16]),
        "cannot be read as AutoencoderKL",
    ),
    "tensor": ("autoencoder-kl", drop_tensor, "lack encoder.conv_in.weight and 0 others"),
    "cut": (
        "autoencoder-kl",
        lambda w: (w / "diffusion_pytorch_model.safetensors").write_bytes(b"cut"),
        "cannot be read as AutoencoderKL",
    ),
    "keys": (
        "monai-kl",
        lambda w: spoil_state(w, lambda s: {f"module.{n}": each for n, each in s.items()}),
        "another architecture than the study's codec; different are decoder",
    ),
    "list": ("monai-kl", lambda w: spoil_state(w, list), "holds no state dict"),
    "more": ("monai-kl", lambda w: spoil_state(w, lambda s: {**s, "epoch": 3}), "other things"),
    "pickle": ("monai-kl", lambda w: torch.save(Evil(), w), "cannot be read as weights"),
    "text": ("monai-kl", lambda w: w.write_text("weights"), "cannot be read as weights"),
    "names": (
        "tiny",
        lambda w: torch.save({"conv.weight": noise(1)}, w / "some_encoder.pth"),
        "not numbered by layer",
    ),
    "layer": (
        "tiny",
        lambda w: spoil_state(w / "some_encoder.pth", lambda s: {**s, "6.gain": noise(2)}),
        "its layer 6 is unknown",
    ),
    "halves": (
        "tiny",
        lambda w: (
            shutil.copy(w / "some_encoder.pth", w / "a_decoder.pth")
            and (w / "some_decoder.safetensors").unlink()
        ),
        "no decoder of a tiny autoencoder: it goes from 3 channels to 5",
    ),
}


class Evil:
    """Runs a command when an unsafe reader unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return subprocess.check_call, (["touch", "ran"],)


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_with_weights_is_told(
    tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    kind, spoil, message = FAULTS[fault]
    weights = MAKERS[kind](tmp_path / "weights")
    spoil(weights)
    with pytest.raises(ConfigError, match=message):
        build_codec(config_of(kind, weights))
    assert not (tmp_path / "ran").exists()


def test_hash_is_what_sha256sum_says(tmp_path: Path) -> None:
    file = monai_file(tmp_path / "monai")
    assert weights_hash([file]) == hashlib.sha256(file.read_bytes()).hexdigest()
    files = weights_files("autoencoder-kl", kl_folder(tmp_path / "kl"))
    names = [path.name for path in files]
    assert names == ["config.json", "diffusion_pytorch_model.safetensors"]
    listed = subprocess.run(["sha256sum", *names], cwd=files[0].parent, stdout=-1, check=True)
    assert weights_hash(files) == hashlib.sha256(listed.stdout).hexdigest()


@pytest.fixture(scope="module")
def taef2() -> VideoCodec:
    folder = media("weights")
    sha256 = weights_hash(weights_files("tiny", folder))
    return build_codec(CodecConfig(kind="tiny", weights=folder, weights_sha256=sha256))


@pytest.mark.parametrize(
    ("name", "least_db"),
    [
        ("endo/rvim_endo.mp4", 31),
        ("lung_us/Reg_Image_181206_crop.mp4", 31),
        ("us_phantom/sonosite-anon-eye1-video.mp4", 31.5),
    ],
)
def test_real_weights_code_real_clips(taef2: VideoCodec, name: str, least_db: float) -> None:
    frames = read_clip(media(name), num_frames=2).frames_THWC
    video = square_video(frames, size_px=128)[None]
    z = taef2.encode(video).mean
    psnr_db = 10 * torch.log10(4 / (taef2.decode(z) - video).square().mean())
    assert least_db < psnr_db < 36
    assert 0.5 < z.std() < 1.2 and z.mean().abs() < 0.2

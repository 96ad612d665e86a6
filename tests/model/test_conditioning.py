"""Class labels and the pass without token mixing; both leave the plain network as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_file
from torch import Tensor

from feat_fed.config import DiffusionConfig, SamplerConfig
from feat_fed.config.model import WKVMode
from feat_fed.diffusion import Schedule, sample_latents, training_losses
from feat_fed.errors import CheckpointError
from feat_fed.model import (
    FEAT,
    FEATConfig,
    fingerprint,
    read_weights,
    state_schema,
    to_published,
    write_weights,
)

FIXTURES = Path(__file__).parent / "fixtures"
PLAIN = FEATConfig(in_channels=2, hidden_size=16, num_trios=3, num_heads=2, mlp_ratio=1)
CLASSES = PLAIN.model_copy(update={"num_classes": 3})


def opened(config: FEATConfig) -> FEAT:
    """Return a network in which noise on every weight leaves nothing gated off."""
    torch.manual_seed(0)
    model = FEAT(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.double()


def clip(clips: int = 2) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(clips, 3, 2, 4, 4).double(), torch.arange(clips) * 300


# An unconditional model is what it was: file, fingerprint, output, loss and samples.


def test_a_file_from_before_there_were_classes_still_loads() -> None:
    weights = read_weights(FIXTURES / "weights_v1.safetensors", kind="global")
    assert weights.model.num_classes == 0
    model = FEAT(weights.model)
    model.load_state_dict(weights.tensors)
    io = load_file(FIXTURES / "weights_v1_io.safetensors")
    torch.testing.assert_close(model(io["z"], io["t"]).detach(), io["y"], rtol=0, atol=2e-5)
    terms = training_losses(
        model, io["z"], io["t"], io["noise"], Schedule.linear(DiffusionConfig())
    )
    for found, name in ((terms.mse_B, "mse"), (terms.vlb_B, "vlb"), (terms.total_B, "total")):
        torch.testing.assert_close(found.detach(), io[name], rtol=1e-5, atol=0)
    for kind in ("ddpm", "ddim", "dpm-solver++", "unipc"):
        sampler = SamplerConfig.model_validate({"kind": kind, "steps": 10})
        z = sample_latents(
            model,
            shape_FCHW=(3, 2, 4, 4),
            sampler=sampler,
            diffusion=DiffusionConfig(),
            seeds=[5, 6],
        )
        torch.testing.assert_close(z, io[f"sample.{kind}"], rtol=0, atol=1e-4)


def test_the_default_fingerprint_is_the_first_one() -> None:
    expected = "5f0211d5379e36d9fd1da2b4b960c0ac2758748e760ad83228f6efbc8851eaf6"
    assert fingerprint(FEATConfig()) == expected


def test_classes_add_one_tensor_and_another_fingerprint() -> None:
    assert state_schema(CLASSES).keys() - state_schema(PLAIN).keys() == {"label.weight"}
    assert state_schema(CLASSES)["label.weight"].shape == (4, 16)
    sizes = [PLAIN.model_copy(update={"num_classes": n}) for n in (0, 1, 3)]
    assert len({fingerprint(each) for each in sizes}) == 3


def test_weights_with_and_without_classes_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    model = FEAT(CLASSES)
    write_weights(path, model.state_dict(), kind="ema", model=CLASSES)
    assert read_weights(path, model=CLASSES).model.num_classes == 3
    with pytest.raises(CheckpointError, match="num_classes 3, not 0"):
        read_weights(path, model=PLAIN)
    with pytest.raises(CheckpointError, match="3 classes has no published form"):
        to_published(model)


# Labels.


def test_a_label_is_added_to_the_timestep_s_embedding() -> None:
    """So a network with a class is the plain one whose embedding has another bias."""
    model, plain = opened(CLASSES), FEAT(PLAIN).double()
    z, t = clip(1)
    shared = {name: each for name, each in model.state_dict().items() if name != "label.weight"}
    for label in range(4):
        plain.load_state_dict(shared)
        with torch.no_grad():
            plain.time.mlp[2].bias.add_(model.label.weight[label])
        torch.testing.assert_close(model(z, t, torch.tensor([label])), plain(z, t))


def test_no_label_is_the_last_class() -> None:
    model = opened(CLASSES)
    z, t = clip()
    assert torch.equal(model(z, t), model(z, t, torch.tensor([3, 3])))


def test_a_label_reaches_its_own_clip_and_learns_from_it() -> None:
    model = opened(CLASSES)
    z, t = clip()
    y, other = model(z, t, torch.tensor([0, 1])), model(z, t, torch.tensor([0, 2]))
    assert torch.equal(y[0], other[0])
    assert not torch.allclose(y[1], other[1])
    y.square().sum().backward()
    assert model.label.weight.grad.abs().sum(1).gt(0).tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    "config,labels,message",
    [
        (PLAIN, torch.tensor([0, 0]), "built without class labels"),
        (CLASSES, torch.tensor([0, 4]), "from 0 to 4; this model's classes are 0 to 2, and 3"),
        (CLASSES, torch.tensor([-1, 0]), "from -1 to 0"),
        (CLASSES, torch.tensor([0]), r"one int64 class a clip, \(2,\)"),
        (CLASSES, torch.tensor([0.0, 1.0]), "labels are torch.float32"),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    config: FEATConfig, labels: Tensor, message: str
) -> None:
    z, t = clip()
    with pytest.raises(ValueError, match=message):
        FEAT(config).double()(z, t, labels)


# WKV as the identity.


def mixed_without_wkv(mixer: torch.nn.Module, h_BFHWC: Tensor, guide_BFHWC: Tensor) -> Tensor:
    """Return the mixer's output, written out, with the values in the place of WKV's result."""
    C = h_BFHWC.shape[-1]
    h = h_BFHWC.flatten(0, 1).permute(0, 3, 1, 2)
    h = h + F.conv2d(h, mixer.conv.weight, padding=1, groups=C)
    x = h.permute(0, 2, 3, 1).reshape(h_BFHWC.shape)
    if hasattr(mixer, "frame_conv"):
        over_frames = x.permute(0, 2, 3, 4, 1).flatten(0, 2)
        moved = F.conv1d(over_frames, mixer.frame_conv.weight[..., 0], padding=1, groups=C)
        B, frames, H, W, _ = x.shape
        x = x + moved.view(B, H, W, C, frames).permute(0, 4, 1, 2, 3)
    _, v, r = (x @ weight.T for weight in mixer.kvr.weight.chunk(3))
    y = v + mixer.alpha[0] * guide_BFHWC
    y = y + mixer.alpha[1] * (guide_BFHWC - v)
    return (torch.sigmoid(r) * y) @ mixer.output.weight.T


@pytest.mark.parametrize("which", ["spatial", "temporal"])
def test_without_mixing_a_block_passes_its_values_on(which: str) -> None:
    block = getattr(opened(PLAIN).trios[0], which)
    torch.manual_seed(2)
    x, guide = torch.randn(2, 2, 3, 2, 4, 16).double()
    time_BC = torch.randn(2, 16).double()
    shift1, scale1, gate1, shift2, scale2, gate2 = block.adaln(time_BC)[:, None, None, None].chunk(
        6, -1
    )
    mixed = mixed_without_wkv(block.mixer, block.norm1(x) * (1 + scale1) + shift1, guide)
    expected = x + block.gamma1 * gate1 * mixed
    fed = block.feed_forward(block.norm2(expected) * (1 + scale2) + shift2)
    expected = expected + block.gamma2 * gate2 * fed
    torch.testing.assert_close(block(x, time_BC, guide, True), expected)
    assert not torch.allclose(block(x, time_BC, guide), expected)


def test_wkv_is_not_run_in_the_chosen_trios_and_is_in_the_others() -> None:
    model = opened(PLAIN)
    z, t = clip()
    plain, without = model(z, t), model(z, t, identity_trios=(1,))
    assert torch.equal(model(z, t, identity_trios=()), plain)
    assert not torch.allclose(plain, without)

    def refuse(*_: Tensor, **__: object) -> Tensor:
        raise AssertionError("WKV was run")

    for block in (model.trios[1].spatial, model.trios[1].temporal):
        block.mixer.wkv = refuse
    assert torch.equal(model(z, t, identity_trios=(1,)), without)
    with pytest.raises(AssertionError, match="WKV was run"):
        model(z, t, identity_trios=(0, 2))


def test_frames_beside_the_video_change_nothing_in_it_without_mixing_either() -> None:
    model = opened(PLAIN)
    z, t = clip()
    y = model(z, t, num_image_frames=1, identity_trios=(1,))
    torch.testing.assert_close(y[:, :2], model(z[:, :2], t, identity_trios=(1,)))


def test_recomputing_a_trio_remembers_that_it_does_not_mix() -> None:
    model = opened(PLAIN)
    z, t = clip()
    gradients = []
    for model.gradient_checkpointing in (False, True):
        model.zero_grad()
        model(z, t, num_image_frames=1, identity_trios=(1,)).square().sum().backward()
        assert model.trios[1].spatial.mixer.decay.grad is None
        gradients.append(model.trios[0].spatial.mixer.decay.grad)
    torch.testing.assert_close(*gradients)


def test_a_trio_that_is_not_there_is_named() -> None:
    for trio in (3, -1):
        with pytest.raises(ValueError, match=f"identity_trios holds {trio}; .* 0 to 2"):
            FEAT(PLAIN).double()(*clip(), identity_trios=(trio,))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize(("wkv", "checkpointing"), [("paper", True), ("published", False)])
def test_compiles_into_one_graph(wkv: WKVMode, checkpointing: bool) -> None:
    model = opened(FEATConfig(hidden_size=16, num_heads=2, num_trios=2, num_classes=2, wkv=wkv))
    model.gradient_checkpointing = checkpointing
    z, t, labels = torch.randn(1, 3, 4, 6, 4).double(), torch.tensor([7]), torch.tensor([1])
    results = []
    for network in (torch.compile(model, fullgraph=True, backend="aot_eager"), model):
        y = network(z, t, labels, 1)
        results.append([y, *torch.autograd.grad(y.square().sum(), list(model.parameters()))])
    torch.compiler.reset()
    torch.testing.assert_close(*results)

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from feat_fed.config.model import WKVMode
from feat_fed.model import FEAT, FEATConfig, load_published, state_schema, to_published
from shared_files import of_recorded, oracle

FIXTURE = Path(__file__).parent / "fixtures" / "feat_tiny.safetensors"
TINY = FEATConfig(in_channels=2, hidden_size=16, num_trios=2, num_heads=2, mlp_ratio=2)
MODES: list[tuple[WKVMode, str]] = [("paper", "paper"), ("published", "kernel")]


def opened(noise: float) -> FEAT:
    """Return a network in which noise on every weight leaves nothing gated off."""
    torch.manual_seed(0)
    model = FEAT(TINY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return model


@pytest.fixture
def model() -> FEAT:
    return opened(0.2)


def clip(*shape: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(shape), torch.randint(0, 1000, shape[:1])


def deviation(found: Tensor | None, expected: Tensor) -> float:
    assert found is not None
    return float((found.detach() - expected).abs().max() / expected.std())


@pytest.mark.parametrize("mode,name", MODES)
def test_equals_the_published_network(mode: WKVMode, name: str) -> None:
    model = load_published(load_file(oracle("tiny_state_dict.safetensors")), num_heads=4, wkv=mode)
    io = load_file(oracle("tiny_io.safetensors"))
    assert deviation(model(io["x"], io["t"]), io[f"y_{name}_f32"]) < of_recorded(torch.float32)

    x = io["x"].double().requires_grad_()
    y = model.double()(x, io["t"])
    y.backward(io["gy"].double())
    assert deviation(y, io[f"y_{name}_f64"]) < of_recorded(torch.float64)
    assert deviation(x.grad, io[f"gx_{name}_f64"]) < of_recorded(torch.float64)


@pytest.mark.parametrize("mode,name", MODES)
def test_parameter_gradients_equal_the_published_ones(mode: WKVMode, name: str) -> None:
    state = load_file(oracle("tiny_state_dict.safetensors"))
    model = load_published(state, num_heads=4, wkv=mode).double()
    io = load_file(oracle("tiny_io.safetensors"))
    model(io["x"].double(), io["t"]).backward(io["gy"].double())
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.data = parameter.grad
    found = to_published(model)
    expected = load_file(oracle(f"tiny_grads_{name}_f64.safetensors"))
    assert all(not found[name].any() for name in found.keys() - expected.keys())
    for key, gradient in expected.items():
        assert (found[key] - gradient).abs().max() < of_recorded(
            torch.float64
        ) * gradient.abs().max(), key


@pytest.mark.parametrize("mode", ["paper", "published"])
def test_equals_the_recorded_network(mode: WKVMode) -> None:
    state = load_file(FIXTURE)
    io = {key: state.pop(key) for key in list(state) if key.startswith("io.")}
    model = load_published(state, num_heads=2, wkv=mode)
    assert deviation(model(io["io.z"], io["io.t"]), io[f"io.y_{mode}"].float()) < of_recorded(
        torch.float32
    )
    z = io["io.z"].double().requires_grad_()
    y = model.double()(z, io["io.t"])
    y.backward(io["io.gy"].double())
    assert deviation(y, io[f"io.y_{mode}"]) < of_recorded(torch.float64)
    assert deviation(z.grad, io[f"io.gz_{mode}"]) < of_recorded(torch.float64)


@pytest.mark.parametrize(
    "config,published,never_trained",
    [
        (FEATConfig(), 158_100_624, 23_040),
        (FEATConfig(hidden_size=1024, num_heads=16), 629_201_112, 46_080),
    ],
)
def test_sizes_are_the_published_ones(
    config: FEATConfig, published: int, never_trained: int
) -> None:
    size = sum(math.prod(spec.shape) for spec in state_schema(config).values())
    assert size == published - never_trained


def test_every_parameter_gets_a_gradient_and_none_is_a_scalar(model: FEAT) -> None:
    z, t = clip(2, 4, 2, 8, 8)
    model(z, t).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
        assert parameter.ndim > 0, name


def test_a_new_network_is_its_skip() -> None:
    model = FEAT(TINY)
    z, t = clip(1, 3, 2, 4, 4)
    expected = torch.einsum("oc,bfchw->bfohw", model.skip.weight, z)
    expected += model.skip.bias[:, None, None]
    torch.testing.assert_close(model(z, t), expected)


def test_each_projection_is_drawn_by_xavier() -> None:
    torch.manual_seed(0)
    mixer = FEAT(FEATConfig(hidden_size=64, num_trios=1, num_heads=2)).trios[0].spatial.mixer
    for weight in (*mixer.kvr.weight.chunk(3), mixer.output.weight):
        assert weight.detach().abs().max() == pytest.approx(math.sqrt(6 / 128), rel=0.01)


@pytest.mark.parametrize("shape", [(1, 1, 2, 4, 4), (2, 3, 2, 6, 10), (1, 17, 2, 2, 2)])
def test_any_resolution_and_length(model: FEAT, shape: tuple[int, ...]) -> None:
    y = model(*clip(*shape))
    assert y.shape == (*shape[:2], 4, *shape[3:])
    assert y.isfinite().all()


def test_clips_of_a_batch_are_independent(model: FEAT) -> None:
    z, t = clip(3, 4, 2, 8, 8)
    alone = torch.cat([model(z[i : i + 1], t[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(model(z, t), alone, rtol=1e-4, atol=1e-5)


def test_image_frames_and_video_do_not_touch(model: FEAT) -> None:
    z, t = clip(1, 6, 2, 8, 8)
    y = model(z, t, num_image_frames=2)
    torch.testing.assert_close(y[:, :4], model(z[:, :4], t), rtol=1e-4, atol=1e-5)
    changed = z.clone()
    changed[:, 4] += 1
    again = model(changed, t, num_image_frames=2)
    torch.testing.assert_close(again[:, [0, 1, 2, 3, 5]], y[:, [0, 1, 2, 3, 5]])
    assert not torch.allclose(model(z, t), y)


def test_gradient_checkpointing_changes_nothing(model: FEAT) -> None:
    z, t = clip(1, 4, 2, 8, 8)
    gradients = []
    for model.gradient_checkpointing in (False, True):
        model.zero_grad()
        model(z, t).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_bfloat16_autocast_stays_close() -> None:
    model = opened(0.05)
    z, t = clip(2, 4, 2, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y = model(z, t)
    assert y.dtype == torch.float32
    y.square().mean().backward()
    assert all(each.grad.isfinite().all() for each in model.parameters())
    assert (y - model(z, t)).std() < 0.02 * y.std()


@pytest.mark.parametrize(
    "shape,t,options,message",
    [
        ((1, 2, 2, 8), 1, {}, r"latents are \(B, F, C, H, W\)"),
        ((1, 2, 3, 8, 8), 1, {}, "3 channels; this model takes 2"),
        ((1, 2, 2, 7, 8), 1, {}, "7x8 do not divide into patches of 2x2"),
        ((2, 2, 2, 8, 8), 1, {}, r"one timestep a clip, \(2,\)"),
        ((1, 2, 2, 8, 8), 1, {"num_image_frames": 2}, "at least one of the 2 frames"),
        ((1, 2, 2, 8, 8), 1, {"num_image_frames": -1}, "num_image_frames is -1"),
        ((1, 2, 2, 8, 8), 1, {"labels": torch.zeros(1)}, "without class labels"),
    ],
)
def test_refuses_what_does_not_fit(
    model: FEAT, shape: tuple[int, ...], t: int, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(shape), torch.zeros(t), **options)

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from feat_fed.errors import CheckpointError
from feat_fed.model import FEAT, FEATConfig, load_published, to_published

FIXTURE = Path(__file__).parent / "fixtures" / "feat_tiny.safetensors"
NEVER_TRAINED = {"blocks.0.att.dwconv1d.weight", "restormers.0.attn.alpha"}


@pytest.fixture
def state() -> dict[str, Tensor]:
    state = {k: v for k, v in load_file(FIXTURE).items() if not k.startswith("io.")}
    for name in NEVER_TRAINED:
        state[name] = torch.randn_like(state[name])
    return state


def test_in_and_out_is_lossless(state: dict[str, Tensor]) -> None:
    out = to_published(load_published(state, num_heads=2), like=state)
    assert out.keys() == state.keys()
    assert all(torch.equal(out[name], state[name]) for name in state)


def test_what_never_trained_is_zero_without_a_source(state: dict[str, Tensor]) -> None:
    out = to_published(load_published(state, num_heads=2))
    assert {name for name in out if not torch.equal(out[name], state[name])} == NEVER_TRAINED
    assert not any(out[name].any() for name in NEVER_TRAINED)


def test_the_configuration_is_read_off_the_tensors(state: dict[str, Tensor]) -> None:
    assert load_published(state, num_heads=2).config == FEATConfig(
        in_channels=2, hidden_size=8, num_trios=1, num_heads=2, mlp_ratio=2, wkv="published"
    )


def test_the_table_has_the_published_number_of_tensors() -> None:
    config = FEATConfig(hidden_size=8, num_heads=1)
    assert len(to_published(FEAT(config))) == 498


def test_other_heads_are_refused(state: dict[str, Tensor]) -> None:
    with pytest.raises(CheckpointError, match=r"num_heads is 4, .*temperature has 2 heads"):
        load_published(state, num_heads=4)
    state["restormers.0.attn.temperature"] = torch.ones(3, 1, 1)
    with pytest.raises(CheckpointError, match="hidden_size 8 is not a multiple of num_heads 3"):
        load_published(state, num_heads=3)


def test_no_kind_of_fault_hides_another_and_strange_names_are_tamed(
    state: dict[str, Tensor],
) -> None:
    for name in [name for name in state if name.startswith("blocks.0.")]:
        state["\x1b[2J" + "x" * 500 + name] = state.pop(name)
    with pytest.raises(CheckpointError) as caught:
        load_published(state, num_heads=2)
    message = str(caught.value)
    assert message.count(" is missing") == message.count(" is unknown") == 8
    assert message.count("more like it") == 2
    assert "\x1b" not in message and "x" * 90 not in message


def test_missing_unknown_and_misshapen_tensors_are_named(state: dict[str, Tensor]) -> None:
    state["module.extra"] = state.pop("res_conv.bias")
    state["blocks.1.gamma1"] = torch.zeros(3)
    with pytest.raises(CheckpointError) as caught:
        load_published(state, num_heads=2)
    message = str(caught.value)
    assert "res_conv.bias is missing" in message
    assert "module.extra is unknown" in message
    assert "blocks.1.gamma1 is (3,), not (8,)" in message


def test_a_wrapped_file_is_refused(state: dict[str, Tensor]) -> None:
    with pytest.raises(CheckpointError, match=r"attn.temperature.*top level"):
        load_published({f"module.{name}": tensor for name, tensor in state.items()}, num_heads=2)

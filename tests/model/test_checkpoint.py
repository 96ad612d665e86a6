from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from feat_fed.errors import CheckpointError
from feat_fed.model import (
    FEAT,
    FEATConfig,
    fingerprint,
    mismatches,
    read_weights,
    state_schema,
    write_weights,
)

TINY = FEATConfig(in_channels=2, hidden_size=8, num_trios=1, num_heads=2, mlp_ratio=1)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return FEAT(TINY).state_dict()


@pytest.fixture
def path(tmp_path: Path, state: dict[str, Tensor]) -> Path:
    path = tmp_path / "w.safetensors"
    write_weights(path, state, kind="ema", model=TINY, metadata={"round": "7"})
    return path


def test_round_trip(path: Path, state: dict[str, Tensor]) -> None:
    weights = read_weights(path, kind="ema", model=TINY)
    assert (weights.kind, weights.model, weights.metadata) == ("ema", TINY, {"round": "7"})
    assert weights.tensors.keys() == state.keys()
    assert all(torch.equal(weights.tensors[name], state[name]) for name in state)
    FEAT(TINY).load_state_dict(weights.tensors)


def test_a_truncated_file_is_refused(path: Path) -> None:
    data = path.read_bytes()
    for size in (0, 4, 8, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(CheckpointError, match="truncated"):
            read_weights(path)


def test_one_flipped_bit_anywhere_is_noticed(path: Path) -> None:
    data = path.read_bytes()
    for place in [*range(0, len(data), len(data) // 97), len(data) - 1]:
        damaged = bytearray(data)
        damaged[place] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"w\.safetensors"):
            read_weights(path)


@pytest.mark.parametrize("content", [b"", b"not safetensors at all" * 9])
def test_foreign_bytes_are_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not safetensors"):
        read_weights(path)


def test_foreign_safetensors_are_refused(path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, path)
    with pytest.raises(CheckpointError, match="not a weights file of feat-fed"):
        read_weights(path)
    save_file(state, path, {"feat_fed": '{"schema_version": 2}', "sha256": ""})
    with pytest.raises(CheckpointError, match="cannot read: schema_version"):
        read_weights(path)


def test_wrong_kind_wrong_model_and_absence_are_refused(path: Path) -> None:
    with pytest.raises(CheckpointError, match="'ema' weights, not 'global'"):
        read_weights(path, kind="global")
    other = TINY.model_copy(update={"num_heads": 4, "wkv": "published"})
    with pytest.raises(CheckpointError, match="num_heads 2, not 4, wkv paper, not published"):
        read_weights(path, model=other)
    with pytest.raises(CheckpointError, match="there is no weights file"):
        read_weights(path.with_name("absent"))


def test_a_refused_write_leaves_the_old_file(path: Path, state: dict[str, Tensor]) -> None:
    before = path.read_bytes()
    for wrong in ({}, state | {"more": torch.zeros(1)}, state | {"skip.bias": torch.zeros(5)}):
        with pytest.raises(CheckpointError, match="not the model's"):
            write_weights(path, wrong, kind="ema", model=TINY)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_is_made_and_one_that_cannot_be_is_named(
    path: Path, state: dict[str, Tensor]
) -> None:
    write_weights(path.parent / "new" / "w.safetensors", state, kind="ema", model=TINY)
    assert read_weights(path.parent / "new" / "w.safetensors", kind="ema").model == TINY
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_weights(path / "w.safetensors", state, kind="ema", model=TINY)


def test_the_schema_is_the_model_s(state: dict[str, Tensor]) -> None:
    assert mismatches(state, state_schema(TINY)) == []
    assert list(state_schema(TINY)) == list(state)


def test_mismatches_are_told_apart(state: dict[str, Tensor]) -> None:
    wrong = dict(state)
    del wrong["skip.weight"]
    wrong |= {"skip.bias": torch.zeros(4, dtype=torch.float16), "x" * 1000: torch.zeros(1)}
    assert mismatches(wrong, state_schema(TINY)) == [
        "skip.weight is missing",
        "1 tensors do not belong to the model",
        "skip.bias is float16 [4], not float32 [4]",
    ]


def test_the_fingerprint_tells_models_apart() -> None:
    others = [TINY.model_copy(update=each) for each in ({"wkv": "published"}, {"num_heads": 4})]
    assert len({fingerprint(each) for each in (TINY, *others)}) == 3
    assert fingerprint(TINY) == fingerprint(TINY.model_copy())

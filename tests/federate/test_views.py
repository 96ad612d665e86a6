import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load, save

from feat_fed.federate.views import tensor_views

TENSORS = {
    "a": torch.randn(3, 5),
    "b": torch.randn(7).to(torch.bfloat16),
    "c": torch.tensor(3),
    "d": torch.zeros(2, 0, 4),
    "e": torch.tensor([True, False, True]),
    "f": torch.randn(2, 2, dtype=torch.float64),
    "g": torch.tensor([-1, 2, 3], dtype=torch.int8),
}


def file_of(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_it_reads_what_the_library_writes_and_copies_nothing() -> None:
    data = save(TENSORS, {"about": "kept apart"})
    views = tensor_views(data)
    assert views.keys() == TENSORS.keys()
    for name, each in TENSORS.items():
        assert views[name].dtype == each.dtype
        assert torch.equal(views[name], each)
    places = [each.data_ptr() for each in views.values() if each.numel()]
    whole = np.frombuffer(data, dtype=np.uint8).ctypes.data
    assert all(whole < place < whole + len(data) for place in places)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        b"\xff" * 64,
        file_of([1]),
        file_of(b"{"),
        file_of(b"[" * 100_000),
        file_of({"a": entry("F32", [2], 0, 8)}, bytes(4)),
        file_of({"a": entry("F32", [2], 0, 8)}, bytes(12)),
        file_of({"a": entry("F32", [2], 4, 12)}, bytes(12)),
        file_of({"a": entry("F32", [3], 0, 8)}, bytes(8)),
        file_of({"a": entry("F32", [-2], 0, -8)}),
        file_of({"a": entry("F32", [-1, -2], 0, 8)}, bytes(8)),
        file_of({"a": entry("F9", [2], 0, 8)}, bytes(8)),
        file_of({"a": entry("I8", [1], 0, 1), "b": entry("F32", [1], 1, 5)}, bytes(5)),
        file_of({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 0, 4)}, bytes(4)),
        file_of({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 8, 12)}, bytes(12)),
        file_of({"a": entry("F32", [2**62, 4], 0, 0)}),
        file_of({"a": {"dtype": "F32", "shape": ["1"], "data_offsets": [0, 4]}}, bytes(4)),
        file_of({"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}}, bytes(4)),
    ],
)
def test_what_is_no_such_file_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"header|tensor|longer"):
        tensor_views(data)


@given(place=st.integers(0, 600), byte=st.integers(0, 255), cut=st.integers(0, 40))
def test_a_damaged_file_is_read_as_by_the_library_or_refused(
    place: int, byte: int, cut: int
) -> None:
    data = bytearray(save({name: TENSORS[name] for name in "abcfg"}))
    data[place % len(data)] = byte
    damaged = bytes(data[: len(data) - cut // 10])
    try:
        views = tensor_views(damaged)
    except ValueError:
        return
    try:
        theirs = load(damaged)
    except SafetensorError as error:
        raise AssertionError(f"the library refuses it: {error}") from error
    assert views.keys() == theirs.keys()
    for name, each in theirs.items():
        ours = views[name]
        assert (ours.dtype, ours.shape) == (each.dtype, each.shape)
        assert torch.equal(ours.reshape(-1).view(torch.uint8), each.reshape(-1).view(torch.uint8))

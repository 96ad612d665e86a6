"""What comes out of Flower's parts with one copy is what comes out with three."""

from __future__ import annotations

import os
from types import ModuleType

import pytest
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.app.message.arraychunk import ArrayChunk
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_all_nested_objects,
    get_object_id,
)
from flwr.superlink.grid import http_grid

from feat_fed.inflating import inflate_within
from feat_fed.wire import weights_record

CHUNK = 5 * 1024**2
MOST_BYTES = 4 * CHUNK


@pytest.fixture(autouse=True)
def one_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = dict(inflatable_utils.inflatable_class_registry)
    monkeypatch.setattr(inflatable_utils, "inflatable_class_registry", registry)
    name = "inflate_object_from_contents"
    for module in (inflatable_utils, http_grid):
        monkeypatch.setattr(module, name, getattr(module, name))
        inflate_within(lambda: MOST_BYTES, caller=module)


def parts_of(content: InflatableObject) -> dict[str, bytes]:
    return {name: each.deflate() for name, each in get_all_nested_objects(content).items()}


@pytest.mark.parametrize(
    "buckets",
    [
        [b"", b"short"],
        [os.urandom(CHUNK), os.urandom(2 * CHUNK + 1)],
        [bytes(3 * CHUNK)],  # chunks that are alike are one part
    ],
)
def test_arrays_are_what_they_were(buckets: list[bytes]) -> None:
    content = RecordDict({"arrays": weights_record(buckets)})
    made = inflatable_utils.inflate_object_from_contents(content.object_id, parts_of(content))
    assert isinstance(made, RecordDict)
    arrays = made["arrays"]
    assert isinstance(arrays, ArrayRecord)
    assert [arrays[name].data for name in sorted(arrays)] == buckets
    assert {type(each) for each in arrays.values()} == {Array}
    assert made.object_id == content.object_id  # it can be sent on


def test_an_array_that_names_another_chunk_is_refused() -> None:
    content = Array(dtype="bytes", shape=(3,), stype="x", data=b"abc")
    parts = parts_of(content)
    named = parts[content.object_id]
    stray = ArrayChunk(memoryview(b"def"))
    parts[stray.object_id] = stray.deflate()
    changed = named.replace(named[6:70], named[6:70] + b"," + stray.object_id.encode())
    name = get_object_id(changed)
    parts[name] = changed
    with pytest.raises(ValueError, match="other chunks"):
        inflatable_utils.inflate_object_from_contents(name, parts)


def test_a_part_of_another_kind_is_no_chunk() -> None:
    registry = inflatable_utils.inflatable_class_registry
    content = Array(dtype="bytes", shape=(3,), stype="x", data=b"abc").deflate()
    with pytest.raises(ValueError, match="no chunk"):
        registry["ArrayChunk"].inflate(content)
    with pytest.raises(ValueError, match="do not match"):
        registry["Array"].inflate(ArrayChunk(memoryview(b"abc")).deflate())


@pytest.mark.parametrize("module", [inflatable_utils, http_grid])
def test_a_part_that_is_named_again_and_again_fills_no_memory(module: ModuleType) -> None:
    content = RecordDict({"arrays": weights_record([bytes(5 * CHUNK)])})
    parts = parts_of(content)
    assert sum(map(len, parts.values())) < 2 * CHUNK  # they are zeros, in one part
    with pytest.raises(ValueError, match="it may have"):
        module.inflate_object_from_contents(content.object_id, parts)


def test_what_is_in_several_arrays_counts_for_each() -> None:
    content = RecordDict({"arrays": weights_record([bytes(3 * CHUNK), b"x" + bytes(2 * CHUNK)])})
    with pytest.raises(ValueError, match="it may have"):
        inflatable_utils.inflate_object_from_contents(content.object_id, parts_of(content))


@pytest.mark.parametrize("records", [1, 1000])
def test_an_array_under_many_names_counts_for_each(records: int) -> None:
    array = Array(dtype="bytes", shape=(3,), stype="x", data=bytes(CHUNK // 2))
    names = 1000 // records + 10
    arrays = ArrayRecord({str(each): array for each in range(names)})
    content = RecordDict({str(each): arrays for each in range(records)})
    parts = parts_of(content)
    assert sum(map(len, parts.values())) < CHUNK
    with pytest.raises(ValueError, match="it may have"):
        inflatable_utils.inflate_object_from_contents(content.object_id, parts)

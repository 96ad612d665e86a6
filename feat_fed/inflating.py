"""Flower's parts into messages, with one copy of their bytes and a bound on all of them.

Flower 1.41 copies the body out of each part, adds it to an array that grows, and copies that. And
a part may name another as often as it likes, as a model does that has many zeros: a few megabytes
that came would be any number in memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from types import ModuleType
from typing import cast

from flwr.app import Array, ArrayRecord, RecordDict
from flwr.app.message.arraychunk import ArrayChunk
from flwr.supercore.constant import HEAD_BODY_DIVIDER
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_object_body,
    get_object_head_values_from_object_content,
)


class _Chunk(ArrayChunk):
    @classmethod
    def inflate(
        cls, object_content: bytes, children: dict[str, InflatableObject] | None = None
    ) -> ArrayChunk:
        """Return a chunk that is a view of its part."""
        kind, _, _ = get_object_head_values_from_object_content(object_content)
        if kind != ArrayChunk.__qualname__ or children:
            raise ValueError("a part that is no chunk of an array")
        start = object_content.find(HEAD_BODY_DIVIDER) + len(HEAD_BODY_DIVIDER)
        return ArrayChunk(data=memoryview(object_content)[start:])


class _Array(Array):
    @classmethod
    def inflate(
        cls, object_content: bytes, children: dict[str, InflatableObject] | None = None
    ) -> Array:
        """Return an array whose bytes are its chunks' one after the other."""
        told = json.loads(get_object_body(object_content, Array))
        _, ids, _ = get_object_head_values_from_object_content(object_content)
        chunks = cast(Mapping[str, ArrayChunk], children or {})
        order = [ids[place] for place in told["arraychunk_ids"]]
        if set(order) != chunks.keys():
            raise ValueError("an array of other chunks than it names")
        return Array(
            dtype=told["dtype"],
            shape=tuple(told["shape"]),
            stype=told["stype"],
            data=b"".join(chunks[each].data for each in order),
        )


def inflate_within(most_bytes: Callable[[], int], *, caller: ModuleType) -> None:
    """Let Flower inflate messages so in this process, and refuse those over a bound.

    What Flower's functions raise then is a :class:`ValueError`, as for other parts that are none.

    Parameters
    ----------
    most_bytes
        Returns the bound, for one message.
    caller
        Flower's module that inflates them, by a name that it has of Flower's function.
    """
    registry = inflatable_utils.inflatable_class_registry
    registry[ArrayChunk.__qualname__] = _Chunk
    registry[Array.__qualname__] = _Array
    inflate = inflatable_utils.inflate_object_from_contents

    @wraps(inflate)
    def bounded(
        object_id: str,
        object_contents: dict[str, bytes],
        *,
        keep_object_contents: bool = False,
        objects: dict[str, InflatableObject] | None = None,
    ) -> InflatableObject:
        if objects is None:
            size, most = _inflated_bytes(object_id, object_contents), most_bytes()
            if size > most:
                raise ValueError(f"a message of {size} bytes; it may have {most}")
        return inflate(
            object_id,
            object_contents,
            keep_object_contents=keep_object_contents,
            objects={} if objects is None else objects,
        )

    caller.inflate_object_from_contents = bounded  # type: ignore[attr-defined]


def _inflated_bytes(root: str, contents: Mapping[str, bytes]) -> int:
    """Return how large a message will be, a part that is named twice counted twice."""
    sizes: dict[str, int] = {}

    def size_of(name: str) -> int:
        if name not in sizes:
            content = contents[name]
            sizes[name] = len(content) + sum(map(size_of, _named_in(content)))
        return sizes[name]

    return size_of(root)


def _named_in(content: bytes) -> Iterable[str]:
    """Return the parts that a part is made of, as often as it names them."""
    kind, ids, _ = get_object_head_values_from_object_content(content)
    if kind == Array.__qualname__:
        return [
            ids[place] for place in json.loads(get_object_body(content, Array))["arraychunk_ids"]
        ]
    for record in (ArrayRecord, RecordDict):
        if kind == record.__qualname__:
            return list(json.loads(get_object_body(content, record)).values())
    return ids

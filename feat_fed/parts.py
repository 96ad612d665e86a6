"""Parts of Flower's messages, handed from one process to another of this machine as files.

Flower 1.41 sends each part (5 MiB of weights) from SuperLink to ServerApp and from SuperNode to
executor over HTTP, as it does from server to site, and holds it in memory at the end. Here it is a
file in a folder that both know: who has the part writes it under its id, which is its SHA-256, and
tells the other by a request without content. What comes over the wire from the other side is
verified by Flower's store before it becomes a file.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from flwr.proto.message_pb2 import (
    ObjectTree,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.object_store import object_store_factory
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
from flwr.supercore.runtime import RuntimeHttpClient

from feat_fed.atomic import write_bytes_atomically

PARTS_FOLDER = "FEAT_FED_PARTS"
"""Environment variable of the processes that share a folder of parts."""

_ID = re.compile(r"[0-9a-f]{64}")


class PartFolder:
    """Files named by the ids of the parts in them; each is whole.

    As a context, for who starts the processes, it is empty at first and gone at the end.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def of_environment(cls) -> PartFolder | None:
        """Return the folder that this process shares with its neighbour, if there is one."""
        folder = os.environ.get(PARTS_FOLDER)
        return cls(Path(folder)) if folder else None

    def __enter__(self) -> Self:
        self.empty()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def environment(self) -> Mapping[str, str]:
        """Of the processes that share it."""
        return {PARTS_FOLDER: str(self._folder.resolve())}

    def empty(self) -> None:
        """Remove what is in it; for a store that starts with nothing."""
        shutil.rmtree(self._folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # then nothing can be written into it either
            self._folder.mkdir(parents=True, mode=0o700)  # weights, of single sites even

    def write(self, object_id: str, content: bytes) -> bool:
        """Write a part; return whether it is there now."""
        if not _ID.fullmatch(object_id):
            return False
        try:
            write_bytes_atomically(self._path(object_id), content, mode=0o600, durable=False)
        except OSError:  # a full disk, say: it goes the other way
            return False
        return True

    def has(self, object_id: str) -> bool:
        """Return whether a part is there."""
        return bool(_ID.fullmatch(object_id)) and self._path(object_id).exists()

    def read(self, object_id: str) -> bytes | None:
        """Return a part, or None if it is not there or cannot be read."""
        if not _ID.fullmatch(object_id):
            return None
        try:
            return self._path(object_id).read_bytes()
        except OSError:
            return None

    def drop(self, object_id: str) -> None:
        """Remove a part, if it is there."""
        if _ID.fullmatch(object_id):
            with contextlib.suppress(OSError):  # the folder goes with the process
                self._path(object_id).unlink()

    def _path(self, object_id: str) -> Path:
        return self._folder / object_id


class PartStore(InMemoryObjectStore):
    """Flower's store in memory, in which the content of parts is in a folder.

    A part without content is one that the neighbour has put into the folder. That it is the part
    it is named after is the neighbour's word, which runs as the same user.
    """

    def __init__(self, folder: PartFolder, *, verify: bool = True) -> None:
        super().__init__(verify=verify)
        self._folder = folder

    def preregister(self, run_id: int, object_tree: ObjectTree) -> list[str]:
        """Announce a message's parts; return which of them are missing.

        Raises
        ------
        ValueError
            If one is named with other parts below it than elsewhere (:func:`is_of_one_form`).
        """
        with self.lock_store:
            if not is_of_one_form(object_tree, self):
                raise ValueError("a part is named again with other parts below it")
            return super().preregister(run_id, object_tree)

    def put(self, object_id: str, object_content: bytes) -> None:
        """Store a part."""
        if object_content:
            super().put(object_id, object_content)
            in_file = self._folder.write(object_id, object_content)
        elif not (in_file := self._folder.has(object_id)):
            raise ValueError(f"part {object_id} is neither in the request nor in the folder")
        with self.lock_store:
            entry = self.store.get(object_id)
            if entry is None:  # it was deleted meanwhile
                self._folder.drop(object_id)
            elif in_file:
                entry.content, entry.is_available = b"", True

    def get(self, object_id: str) -> bytes | None:
        """Return a part's content; empty while it is on its way, None where there is no such."""
        with self.lock_store:
            entry = self.store.get(object_id)
            if entry is None:
                return None
            if entry.content or not entry.is_available:
                return entry.content
        return self._folder.read(object_id)

    def delete(self, object_id: str) -> None:
        """Delete a part and those below it that no other one names."""
        known = object_id in self
        super().delete(object_id)
        if known and object_id not in self:
            self._folder.drop(object_id)


def is_of_one_form(tree: ObjectTree, store: InMemoryObjectStore) -> bool:
    """Return whether each part has the same parts below it wherever it is named, and in the store.

    Flower 1.41 keeps those of the first time. What is below it elsewhere would be stored and never
    deleted; and a few parts that name each other twice are a tree of any size when it is read.
    """
    below: dict[str, list[str]] = {}
    for node in iterate_object_tree(tree):
        children = [each.object_id for each in node.children]
        held = store.store.get(node.object_id)
        if below.setdefault(node.object_id, children) != children:
            return False
        if held is not None and list(held.child_object_ids) != children:
            return False
    return True


def store_parts_in(folder: PartFolder | None) -> None:
    """Let the stores that Flower makes in this process keep parts in a folder, if there is one."""
    if folder is None:
        return

    def made() -> PartStore:
        return PartStore(folder)

    object_store_factory.InMemoryObjectStore = made  # type: ignore[attr-defined, assignment]


@dataclass(frozen=True)
class _Read:
    """What Flower reads of an answer with a part, without the copies of a protobuf message."""

    object_content: bytes
    object_found: bool = True
    object_available: bool = True


def share_parts(client: RuntimeHttpClient, folder: PartFolder | None) -> None:
    """Let a client of the neighbour's Runtime API find and leave parts in a folder, if any."""
    if folder is None:
        return
    pull, push = client.PullObject, client.PushObject

    def pull_object(request: PullObjectRequest) -> PullObjectResponse | _Read:
        content = folder.read(request.object_id)
        return pull(request) if content is None else _Read(content)

    def push_object(request: PushObjectRequest) -> PushObjectResponse:
        if folder.write(request.object_id, request.object_content):
            request.ClearField("object_content")
        return push(request)

    client.PullObject = pull_object  # type: ignore[method-assign, assignment]
    client.PushObject = push_object  # type: ignore[method-assign]

"""Parts of Flower's messages, handed from one process to another of this machine as files.

Flower 1.41 sends each part (5 MiB of weights) from SuperLink to ServerApp and from SuperNode to
executor over HTTP, as it does from server to site, and holds it in memory at the end. Here it is a
file in a folder that both know: who has the part writes it under its id, which is its SHA-256, and
tells the other by a request without content. The SuperLink's and the SuperNode's side of it is
:mod:`feat_fed.part_store`.
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
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
    PushObjectResponse,
)
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

"""One line of a chained log: its place, its time, its event, and the hash that chains it.

::

    {"sequence":7,"at":"2026-01-31T12:00:00.123456Z","previous":"<hash>","event":{...},"hash":"<hash>"}

``hash`` is the SHA-256 of the line's bytes before ``,"hash":`` and a closing brace, so that it can
be checked with any tool; ``previous`` is the hash of the line before, or zeros.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from typing import Any

from pydantic import Field, SerializeAsAny, ValidationError

from feat_fed.audit.events import Sha256
from feat_fed.config.base import StrictModel

NOTHING = "0" * 64
"""The hash before the first line."""

_TAIL = re.compile(rb',"hash":"([0-9a-f]{64})"\}\Z')
_TIME = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$"


class Head(StrictModel):
    """Where a log ends: what to note elsewhere, to see later that nothing was cut off."""

    sequence: int = Field(ge=1)
    hash: Sha256


class Line(StrictModel):
    """A line whose own hash is right."""

    sequence: int = Field(ge=1)
    at: str = Field(pattern=_TIME)
    previous: Sha256
    event: dict[str, Any] = Field(description="of a kind that this version may not know")
    hash: Sha256

    @property
    def head(self) -> Head:
        """Of a log that ends here."""
        return Head(sequence=self.sequence, hash=self.hash)

    def follows(self, before: Head | None) -> bool:
        """Whether this is the line after ``before``."""
        if before is None:
            return self.sequence == 1 and self.previous == NOTHING
        return self.sequence == before.sequence + 1 and self.previous == before.hash


class _Body(StrictModel):
    sequence: int
    at: str
    previous: str
    event: SerializeAsAny[StrictModel]


def write_line(event: StrictModel, *, after: Head | None) -> tuple[bytes, Head]:
    """Return a line with its line feed, and the head that it makes."""
    body = _Body(
        sequence=after.sequence + 1 if after else 1,
        at=dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        previous=after.hash if after else NOTHING,
        event=event,
    )
    text = body.model_dump_json(exclude_none=True).encode()
    digest = hashlib.sha256(text).hexdigest()
    line = text[:-1] + f',"hash":"{digest}"}}\n'.encode()
    return line, Head(sequence=body.sequence, hash=digest)


def read_line(raw: bytes) -> Line | None:
    """Return a line (without its line feed), or None if it is damaged."""
    tail = _TAIL.search(raw)
    if tail is None or hashlib.sha256(raw[: tail.start()] + b"}").hexdigest() != tail[1].decode():
        return None
    try:
        return Line.model_validate_json(raw)
    except ValidationError:
        return None

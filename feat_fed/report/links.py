"""What goes over the wire between the server and each site, as the server's door measures it."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError

from feat_fed.atomic import write_bytes_atomically
from feat_fed.config.base import StrictModel

LINKS_FILE = "links.json"

_ENOUGH_BYTES = 100_000
"""Of a leg, to know its speed."""


class Link(StrictModel):
    """Traffic of messages' parts with one site; down is to the site."""

    down_bytes: int = Field(0, ge=0)
    down_sec: float = Field(0.0, ge=0, description="in which at least one part was on its way")
    up_bytes: int = Field(0, ge=0)
    up_sec: float = Field(0.0, ge=0)

    def since(self, before: Link) -> Link:
        """Return what came after ``before``, an earlier state of the same count."""
        return Link(
            down_bytes=max(0, self.down_bytes - before.down_bytes),
            down_sec=max(0.0, self.down_sec - before.down_sec),
            up_bytes=max(0, self.up_bytes - before.up_bytes),
            up_sec=max(0.0, self.up_sec - before.up_sec),
        )

    def sec_for(self, *, down_bytes: int, up_bytes: int) -> float:
        """Return how long so many bytes would take; 0 where too little was seen to tell."""
        legs = (
            (down_bytes, self.down_bytes, self.down_sec),
            (up_bytes, self.up_bytes, self.up_sec),
        )
        return sum(size * sec / seen for size, seen, sec in legs if seen >= _ENOUGH_BYTES)


class Links(StrictModel):
    """All sites' traffic since the run began; while there is some, written every 0.2 s or so."""

    sites: dict[str, Link] = Field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the file; one that is absent or damaged counts as nothing."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (FileNotFoundError, ValidationError):
            return cls()

    def write(self, path: Path) -> None:
        """Replace the file."""
        write_bytes_atomically(path, self.model_dump_json().encode(), durable=False)

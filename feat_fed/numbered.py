"""Tensor files of a folder that are told apart by a round's number: ``PREFIX-0003.safetensors``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class NumberedFiles:
    """Those with one prefix; anything else in the folder, which need not exist, is no concern."""

    folder: Path
    prefix: str

    def path(self, number: int) -> Path:
        """Name a round's file, whether it exists or not."""
        return self.folder / f"{self.prefix}-{number:04d}.safetensors"

    def numbers(self) -> list[int]:
        """Return the rounds that have a file, in order."""
        names = (each.name for each in self.folder.glob(f"{self.prefix}-*.safetensors"))
        matches = (re.fullmatch(r".+-(\d+)\.safetensors", name) for name in names)
        return sorted(int(match[1]) for match in matches if match)

    def remove(self, *, but: tuple[int | None, ...] = ()) -> None:
        """Remove the files of all rounds but some."""
        for number in self.numbers():
            if number not in but:
                self.path(number).unlink(missing_ok=True)

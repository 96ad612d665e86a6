"""Which files below the configured paths may be clips."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from feat_fed.data.reading.reader import is_dicom
from feat_fed.data.reading.video import VIDEO_SUFFIXES
from feat_fed.errors import ClipError, DataError


@dataclass(frozen=True)
class FoundFile:
    """A file and its path below the folder that was configured (its name, for a single file)."""

    path: Path
    relative: Path


def find_clips(paths: Sequence[Path]) -> tuple[list[FoundFile], int]:
    """Search folders deep and return candidates in a stable order, and how many are no clip.

    A candidate has a video's suffix, or DICOM's suffix or prefix. Hidden files, hidden folders
    and DICOMDIR are none of them. Links are followed; a file that is reached twice counts once,
    below the first of ``paths`` that reaches it.

    Raises
    ------
    DataError
        When one of ``paths`` does not exist or cannot be searched.
    """
    candidates: list[FoundFile] = []
    seen: set[Path] = set()
    skipped = 0
    for root in paths:
        for path in sorted(_files_below(root), key=Path.is_symlink):  # a file before links to it
            real = path.resolve()
            if real in seen:
                continue
            seen.add(real)
            if may_be_clip(path):
                relative = path.relative_to(root) if path != root else Path(path.name)
                candidates.append(FoundFile(path, relative))
            else:
                skipped += 1
    return candidates, skipped


def may_be_clip(path: Path) -> bool:
    """Tell by name, and for DICOM by content, whether a file is worth probing."""
    dangling = path.is_symlink() and not path.exists()
    if path.name.startswith(".") or path.name == "DICOMDIR" or not (path.is_file() or dangling):
        return False
    try:
        return path.suffix.lower() in VIDEO_SUFFIXES or is_dicom(path)
    except ClipError:
        return False


def _files_below(root: Path) -> Iterator[Path]:
    if not root.exists():
        raise DataError(f"{root} does not exist; correct data.paths")
    if not root.is_dir():
        yield root
        return
    entered: set[Path] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=_unsearchable):
        real = Path(folder).resolve()
        if real in entered:  # a link back to a folder above
            subfolders.clear()
            continue
        entered.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield from (Path(folder) / name for name in sorted(names))


def _unsearchable(error: OSError) -> None:
    raise DataError(f"{error.filename} cannot be searched: {error.strerror}") from error

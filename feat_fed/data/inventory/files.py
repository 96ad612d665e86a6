"""Which files below the configured paths may be clips."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from feat_fed.data.reading.clip import Source
from feat_fed.data.reading.pictures import PICTURE_SUFFIXES, picture_sequences
from feat_fed.data.reading.reader import is_dicom
from feat_fed.data.reading.video import VIDEO_SUFFIXES
from feat_fed.errors import ClipError, DataError


@dataclass(frozen=True)
class FoundClip:
    """A file that may be a clip, or numbered pictures of a folder.

    Parameters
    ----------
    relative
        Path of its first file below the folder that was configured (the name of a file that was
        configured itself).
    state
        Sizes and times of change of its files, as a text that differs when they do.
    size_bytes
        Of all its files.
    """

    source: Source = field(repr=False)
    relative: Path = field(repr=False)
    state: str = field(repr=False)
    size_bytes: int

    @property
    def name(self) -> str:
        """Return what tells this clip from any other on this machine: a path."""
        path = self.source[0].absolute()
        if len(self.source) == 1:
            return str(path)
        return str(path.with_name(re.sub(r"\d+(?=\D*$)", "#", path.stem) + path.suffix)) + os.sep


Known = Callable[[FoundClip], bool]
"""Tells that a file is a candidate, from an earlier look at it as it is now."""


def find_clips(
    paths: Sequence[Path], *, known: Known = lambda found: False
) -> tuple[list[FoundClip], int]:
    """Search folders deep and return candidates in a stable order, and how many are no clip.

    A candidate has a video's suffix, or DICOM's suffix or prefix; pictures of a folder whose
    names differ in a number are one. Hidden files, hidden folders and DICOMDIR are none of
    them. Links are followed; a file that is reached twice counts once, below the first of
    ``paths`` that reaches it. A file that is ``known`` is not opened.

    Raises
    ------
    DataError
        When one of ``paths`` does not exist or cannot be searched.
    """
    candidates: list[FoundClip] = []
    pictures: dict[Path, FoundClip] = {}
    seen: set[tuple[int, int]] = set()
    skipped = 0
    for root in paths:
        for path in sorted(_files_below(root), key=Path.is_symlink):  # a file before links to it
            status = _status(path)
            if status and (status.st_dev, status.st_ino) in seen:
                continue
            if status:
                seen.add((status.st_dev, status.st_ino))
            found = _found(path, root, status)
            if path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith("."):
                pictures[path] = found
            elif known(found) or may_be_clip(path):
                candidates.append(found)
            else:
                skipped += 1
    for source in picture_sequences(pictures):
        if len(source) > 1:
            candidates.append(_sequence([pictures[path] for path in source]))
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


def _found(path: Path, root: Path, status: os.stat_result | None) -> FoundClip:
    relative = path.relative_to(root) if path != root else Path(path.name)
    state = f"{status.st_size} {status.st_mtime_ns}" if status else "gone"
    return FoundClip((path,), relative, state, status.st_size if status else 0)


def _status(path: Path) -> os.stat_result | None:
    """Return what a regular file's folder says of it; ``None`` for a link to nowhere and such."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def _sequence(pictures: list[FoundClip]) -> FoundClip:
    """Make one clip of pictures in order."""
    return FoundClip(
        source=tuple(each.source[0] for each in pictures),
        relative=pictures[0].relative,
        state="\n".join(f"{each.relative.name} {each.state}" for each in pictures),
        size_bytes=sum(each.size_bytes for each in pictures),
    )


def _files_below(root: Path) -> Iterator[Path]:
    if not root.exists():
        raise DataError(f"{root} does not exist; correct data.paths")
    if not root.is_dir():
        yield root
        return
    entered: set[Path] = set()

    def unsearchable(error: OSError) -> None:  # the folder's own name may be a patient's
        raise DataError(
            f"a folder below {root} cannot be searched: {error.strerror}; find it with "
            f"`find {root} -type d ! -readable -o -type d ! -executable`"
        ) from None

    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=unsearchable):
        real = Path(folder).resolve()
        if real in entered:  # a link back to a folder above
            subfolders.clear()
            continue
        entered.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield from (Path(folder) / name for name in sorted(names))

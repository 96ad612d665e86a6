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
        Sizes and times of change of its files and of their permissions, as a text that differs
        when they do.
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
        entries = [_entry(path) for path in files_below(root)]
        for entry in sorted(entries, key=lambda each: each.is_link):  # a file before links to it
            path, status = entry.path, entry.status
            if status and (status.st_dev, status.st_ino) in seen:
                continue
            if status:
                seen.add((status.st_dev, status.st_ino))
            found = _found(entry, root)
            if path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith("."):
                pictures[path] = found
            elif known(found) or _may_be_clip(entry):
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
    """Tell by name, and for DICOM by content, whether a file is worth probing.

    A file that cannot be opened is: nobody knows what is in it, and a person must be told.
    """
    return _may_be_clip(_entry(path))


@dataclass(frozen=True)
class _Entry:
    """A name in a folder; no ``status`` where nothing is told of what it leads to."""

    path: Path
    is_link: bool
    status: os.stat_result | None


def _entry(path: Path) -> _Entry:
    """Ask for a file's status once, and of a link for what it leads to."""
    is_link, status = False, None
    try:
        status = path.lstat()
        if is_link := stat.S_ISLNK(status.st_mode):
            status = None
            status = path.stat()
    except OSError:  # a folder that may be listed, not entered; a link to nowhere
        pass
    return _Entry(path, is_link, status)


def _may_be_clip(entry: _Entry) -> bool:
    path, status = entry.path, entry.status
    if path.name.startswith(".") or path.name == "DICOMDIR":
        return False
    if status and not stat.S_ISREG(status.st_mode):  # a pipe would wait for ever
        return False
    try:
        return path.suffix.lower() in VIDEO_SUFFIXES or is_dicom(path)
    except ClipError:
        return True


def _found(entry: _Entry, root: Path) -> FoundClip:
    path, status = entry.path, entry.status
    relative = path.relative_to(root) if path != root else Path(path.name)
    if status is None:
        return FoundClip((path,), relative, "gone", 0)
    # The last changes with the permissions, and with any change that resets the other two.
    state = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
    return FoundClip((path,), relative, state, status.st_size)


def _sequence(pictures: list[FoundClip]) -> FoundClip:
    """Make one clip of pictures in order."""
    return FoundClip(
        source=tuple(each.source[0] for each in pictures),
        relative=pictures[0].relative,
        state="\n".join(f"{each.relative.name} {each.state}" for each in pictures),
        size_bytes=sum(each.size_bytes for each in pictures),
    )


def files_below(root: Path) -> Iterator[Path]:
    """Yield the files below a folder that is no hidden one, or the file itself.

    Raises
    ------
    DataError
        When ``root`` does not exist or cannot be searched.
    """
    try:
        is_folder = stat.S_ISDIR(root.stat().st_mode)
    except FileNotFoundError:
        raise DataError(
            f"{root} does not exist; correct the path (data.paths of a "
            "site's file, data of a simulation)"
        ) from None
    except OSError as error:
        raise DataError(f"{root} cannot be reached: {error.strerror}") from None
    if not is_folder:
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

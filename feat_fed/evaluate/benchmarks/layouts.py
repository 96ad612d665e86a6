"""From a benchmark's folder to its videos, in each way that they may lie there."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from feat_fed.data.inventory.files import files_below, find_clips
from feat_fed.data.reading.clip import Source
from feat_fed.data.reading.pictures import PICTURE_SUFFIXES, picture_order
from feat_fed.data.reading.video import VIDEO_SUFFIXES
from feat_fed.errors import DataError
from feat_fed.evaluate.benchmarks.description import Benchmark, Layout, VideoList


@dataclass(frozen=True)
class FoundVideo:
    """A video of a benchmark.

    Parameters
    ----------
    name
        Path below the folder; of a folder of frames, the folder's.
    split
        As a list or manifest says, in lower case; empty where nothing says.
    patient
        As a manifest says; empty where it does not.
    """

    name: str
    source: Source = field(repr=False)
    split: str = ""
    patient: str = field(default="", repr=False)


def find_videos(benchmark: Benchmark, root: Path) -> tuple[Layout, Path, list[FoundVideo]]:
    """Return the first layout that gives videos, where they are, and the videos in order.

    Raises
    ------
    DataError
        When none does, or a list or folder cannot be used.
    """
    if not root.exists():
        raise DataError(f"{root} does not exist; give where the real videos are ({benchmark.name})")
    if benchmark.layouts == ("manifest",):
        return "manifest", root.parent, listed_in_manifest(root)
    if not root.is_dir():
        raise DataError(
            f"{root} is no folder; give the one that holds the real videos ({benchmark.name})"
        )
    folders = [root / each for each in benchmark.below if (root / each).is_dir()]
    for layout in benchmark.layouts:
        for folder in folders:
            found = _in_list(folder, benchmark) if layout == "list" else _FINDERS[layout](folder)
            if found:
                return layout, folder, found
    looked_for = "; ".join(_WORDS[each] for each in benchmark.layouts)
    raise DataError(f"{root} holds no video (benchmark {benchmark.name}: {looked_for})")


def frame_folders(root: Path) -> list[FoundVideo]:
    """Return every folder below ``root`` that holds pictures; they are its frames, in order.

    Raises
    ------
    DataError
        When a folder holds neither pictures nor folders, or cannot be entered.
    """

    def unreadable(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from None

    found: list[FoundVideo] = []
    empty: list[Path] = []
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=unreadable):
        subfolders[:] = sorted(each for each in subfolders if not each.startswith("."))
        here = Path(folder)
        if here == root:
            continue
        frames = [here / each for each in names if _is_picture(each)]
        if frames:
            found.append(FoundVideo(here.relative_to(root).as_posix(), picture_order(frames)))
        elif not subfolders:
            empty.append(here)
    if found and empty:
        raise DataError(f"{empty[0]} holds no picture; fetch its frames, or remove it")
    return found


def video_files(root: Path) -> list[FoundVideo]:
    """Return the video files below a folder, sorted; other files are passed over."""
    return [
        FoundVideo(path.relative_to(root).as_posix(), (path,))
        for path in files_below(root)
        if path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".")
    ]


def readable_clips(root: Path) -> list[FoundVideo]:
    """Return all that may be a clip below a folder: videos, DICOM, numbered pictures."""
    clips, _ = find_clips([root])
    return [
        FoundVideo(
            (each.relative if len(each.source) == 1 else each.relative.parent).as_posix(),
            each.source,
        )
        for each in clips
    ]


def listed_in_manifest(path: Path) -> list[FoundVideo]:
    """Read a CSV with the columns ``path`` (below its own folder), and ``split`` and ``patient``.

    A path may be a file, or a folder of frames.

    Raises
    ------
    DataError
        When the file is no such CSV, or names what is not there.
    """
    rows = _rows(path, ("path",))
    found = []
    for number, row in enumerate(rows, start=2):
        target = path.parent / row["path"]
        source: Source = (target,)
        if target.is_dir():
            source = picture_order(each for each in target.iterdir() if _is_picture(each.name))
        if not source or not source[0].is_file():
            raise DataError(f"{path}, line {number}: {row['path']} is no file and holds no frames")
        split, patient = (row.get("split") or "").lower(), row.get("patient") or ""
        found.append(FoundVideo(row["path"], source, split, patient))
    if not found:
        raise DataError(f"{path} names no video")
    return found


def _in_list(root: Path, benchmark: Benchmark) -> list[FoundVideo]:
    """Return the videos that the benchmark's own CSV names, those that are missing as well."""
    listing = benchmark.video_list
    if listing is None or not (root / listing.file).is_file():
        return []
    return [
        FoundVideo(name, (root / listing.folder / name,), row[listing.split].strip().lower())
        for row in _rows(root / listing.file, (listing.name, listing.split))
        for name in [_with_suffix(row[listing.name].strip(), listing)]
    ]


def _with_suffix(name: str, listing: VideoList) -> str:
    return name if Path(name).suffix else name + listing.suffix


def _rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [each for each in columns if each not in (reader.fieldnames or ())]
            if missing:
                raise DataError(
                    f"{path} has no column {missing[0]!r} (it has: "
                    f"{', '.join(reader.fieldnames or ()) or 'nothing'})"
                )
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}") from None
    for number, row in enumerate(rows, start=2):
        if any(not row.get(each) for each in columns):
            raise DataError(f"{path}, line {number}: {', '.join(columns)} must not be empty")
    return rows


def _is_picture(name: str) -> bool:
    return Path(name).suffix.lower() in PICTURE_SUFFIXES and not name.startswith(".")


_FINDERS: dict[Layout, Callable[[Path], list[FoundVideo]]] = {
    "frames": frame_folders,
    "videos": video_files,
    "any": readable_clips,
}
_WORDS: dict[Layout, str] = {
    "frames": "folders of frames",
    "videos": "video files",
    "list": "the list of its videos",
    "any": "videos, DICOM files, folders of numbered frames",
}

"""A benchmark is opened only where it is what it says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from feat_fed.errors import ConfigError, DataError
from feat_fed.evaluate.benchmarks.description import ALL, Benchmark, Layout
from feat_fed.evaluate.benchmarks.layouts import FoundVideo, find_videos
from feat_fed.evaluate.clips import FileClips

_SHOWN = 3
_PARTIAL = "complete the copy, or say --partial, and the numbers will say so too"


def open_benchmark(
    benchmark: Benchmark, root: Path, *, split: str | None = None, partial: bool = False
) -> FileClips:
    """Check a copy of a benchmark against its description and return its videos.

    Parameters
    ----------
    root
        The benchmark's folder, or one above it; of a manifest, the file.
    split
        One of :attr:`Benchmark.all_splits`, or of the manifest's; the benchmark's default if None.
    partial
        Take a copy that lacks videos or frames. The name says so: "(partial: 12 of 210)".

    Raises
    ------
    DataError
        When the copy is not what the description says, or a file cannot be read.
    ConfigError
        When there is no such split.
    """
    layout, folder, found = find_videos(benchmark, root)
    _check_names(benchmark, root, found, partial=partial)
    _check_counts(benchmark, root, layout, found, partial=partial)
    present = [each for each in found if all(path.exists() for path in each.source)]
    if layout == "list":
        _check_list(benchmark, root, found, present, partial=partial)
    if layout == "frames":
        _check_frames_list(benchmark, folder, present, partial=partial)
    wanted = split or benchmark.default_split
    whole, chosen = (_of_split(benchmark, each, wanted) for each in (found, present))
    expected = len(whole) if layout == "list" else _expected(benchmark, wanted)
    name = benchmark.name if wanted == ALL else f"{benchmark.name}/{wanted}"
    if expected is not None and len(chosen) < expected:
        name += f" (partial: {len(chosen)} of {expected})"
    clips = FileClips(
        name,
        [each.source for each in chosen],
        [each.name for each in chosen],
        patients=[each.patient for each in chosen],
    )
    if layout in ("frames", "list"):
        _check_sizes(benchmark, clips)
    return clips


def _of_split(benchmark: Benchmark, found: Sequence[FoundVideo], wanted: str) -> list[FoundVideo]:
    if wanted == ALL:
        return list(found)
    if wanted in benchmark.splits:
        names = set(benchmark.splits[wanted])
        return [each for each in found if _last(each.name) in names]
    said = sorted({each.split for each in found if each.split})
    chosen = [each for each in found if each.split == wanted.lower()]
    if not chosen:
        there = ", ".join(dict.fromkeys((*benchmark.all_splits, *said)))
        raise ConfigError(f"{benchmark.name} has no split {wanted!r}; it has: {there}")
    return chosen


def _expected(benchmark: Benchmark, split: str) -> int | None:
    if split == ALL:
        return len(benchmark.videos) or benchmark.num_videos
    return len(benchmark.splits.get(split, ())) or None


def _check_names(
    benchmark: Benchmark, root: Path, found: Sequence[FoundVideo], *, partial: bool
) -> None:
    if not benchmark.videos:
        return
    names = Counter(_last(each.name) for each in found)
    if strangers := names.keys() - set(benchmark.videos):
        raise DataError(
            f"{root} is not {benchmark.name}: {_some(strangers)} are none of its "
            f"{len(benchmark.videos)} videos"
        )
    if twice := [name for name, count in names.items() if count > 1]:
        raise DataError(f"{root} holds {_some(twice)} of {benchmark.name} more than once")
    missing = set(benchmark.videos) - names.keys()
    if missing and not partial:
        raise DataError(
            f"{root} is not the whole of {benchmark.name}: of {len(benchmark.videos)} videos "
            f"{len(names)} were found, {_some(missing)} are missing; {_PARTIAL}"
        )


def _check_counts(
    benchmark: Benchmark,
    root: Path,
    layout: Layout,
    found: Sequence[FoundVideo],
    *,
    partial: bool,
) -> None:
    counts = [("videos", benchmark.num_videos, len(found))]
    if layout == "frames":
        counts.append(("frames", benchmark.num_frames, sum(len(each.source) for each in found)))
    for what, expected, there in counts:
        if expected is None or there == expected or (there < expected and partial):
            continue
        if there > expected:
            raise DataError(
                f"{root} is not {benchmark.name}: it has {expected} {what}, and {there} were "
                "found; give the folder of this benchmark alone"
            )
        raise DataError(
            f"{root} is not the whole of {benchmark.name}: it has {expected} {what}, and {there} "
            f"were found; {_PARTIAL}"
        )


def _check_list(
    benchmark: Benchmark,
    root: Path,
    found: Sequence[FoundVideo],
    present: Sequence[FoundVideo],
    *,
    partial: bool,
) -> None:
    """Compare the CSV with what is known of it, and what is there with the CSV."""
    splits = Counter(each.split for each in found)
    for split, expected in benchmark.split_counts.items():
        if splits[split] != expected:
            raise DataError(
                f"{root} is not {benchmark.name}: its split {split!r} has {expected} videos, and "
                f"the list names {splits[split]}; fetch the list again"
            )
    if missing := {each.name for each in found} - {each.name for each in present}:
        if not partial:
            raise DataError(
                f"{root} is not the whole of {benchmark.name}: the list names {len(found)} "
                f"videos, and {len(present)} are there ({_some(missing)} missing); {_PARTIAL}"
            )
        if not present:
            raise DataError(f"{root} has the list of {benchmark.name}, and none of its videos")


def _check_frames_list(
    benchmark: Benchmark, folder: Path, found: Sequence[FoundVideo], *, partial: bool
) -> None:
    """Compare frames with the text file that names them, by folder and file name.

    Such lists hold paths of the machine that wrote them, and may name the list itself.
    """
    path = folder / (benchmark.frames_list or "")
    if benchmark.frames_list is None or not path.is_file():
        return
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    listed = {_last(line, 2) for line in lines if line.strip() and _last(line) != path.name}
    there = {_last(str(frame), 2) for each in found for frame in each.source}
    missing, strangers = listed - there, there - listed
    if strangers or (missing and not partial):
        raise DataError(
            f"{path} names {len(listed)} frames, and {len(there)} are there: "
            + "; ".join(
                [f"{_some(missing)} missing"] * bool(missing)
                + [f"{_some(strangers)} not named"] * bool(strangers)
            )
            + (f"; {_PARTIAL}" if not strangers else "; make list and frames anew")
        )


def _check_sizes(benchmark: Benchmark, clips: FileClips) -> None:
    if benchmark.frame_size_px is None:
        return
    height_px, width_px = benchmark.frame_size_px
    for index in range(len(clips)):
        if (found := clips.size_px(index)) != benchmark.frame_size_px:
            raise DataError(
                f"{clips.label(index)} has frames of {found[0]} x {found[1]} pixels; those of "
                f"{benchmark.name} have {height_px} x {width_px}: prepare the copy as "
                f"{benchmark.sources[0] if benchmark.sources else 'its description'} says"
            )


def _last(path: str, parts: int = 1) -> str:
    return "/".join(path.strip().replace("\\", "/").rsplit("/", parts)[-parts:])


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = len(ordered) - _SHOWN
    return ", ".join(ordered[:_SHOWN]) + (f" and {more} more" if more > 0 else "")

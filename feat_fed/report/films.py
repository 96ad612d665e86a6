"""Sample clips of several rounds for a page: few enough that the page stays small."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import av
from av.error import FFmpegError
from PIL import Image

from feat_fed.report.evaluation_folder import EvaluationFolder
from feat_fed.report.page import data_url
from feat_fed.report.run_store import SampleFiles
from feat_fed.report.series import evenly

MOST_FILMS = 6
LARGEST_BYTES = 6_000_000
"""Of all films of a page together."""

_STILL_QUALITY = 80


@dataclass(frozen=True)
class Film:
    """One round's sample clips, as addresses of their own."""

    round: int
    film: str
    """MP4."""
    still: str
    """JPEG of the frame in the middle, for paper and for who wants nothing to move."""


@dataclass(frozen=True)
class Films:
    """Some rounds' films, in order, and how many more there are."""

    shown: tuple[Film, ...]
    left_out: int


def films_by_round(folder: EvaluationFolder) -> Films:
    """Choose among the rounds' films: the first, the last, and some evenly in between.

    So few that they are no more than :data:`LARGEST_BYTES` together; a round whose film cannot be
    read counts as left out.
    """
    named = {
        each: SampleFiles.under(folder.samples(each)).mp4 for each in folder.rounds_with_samples()
    }
    sizes = {number: path.stat().st_size for number, path in named.items() if path.is_file()}
    rounds = sorted(sizes)
    for most in range(min(MOST_FILMS, len(rounds)), 0, -1):
        indices = evenly(len(rounds), most=most) if most > 1 else [-1]
        chosen = [rounds[index] for index in indices]
        if sum(sizes[number] for number in chosen) <= LARGEST_BYTES:
            made = (_film(number, named[number]) for number in chosen)
            shown = tuple(each for each in made if each is not None)
            return Films(shown, len(rounds) - len(shown))
    return Films((), len(rounds))


def _film(number: int, path: Path) -> Film | None:
    try:
        content = path.read_bytes()
        with av.open(io.BytesIO(content), "r") as container:
            frames = list(container.decode(video=0))
    except (OSError, FFmpegError):
        return None
    if not frames:
        return None
    still = data_url(_jpeg(frames[len(frames) // 2]), "image/jpeg")
    return Film(number, data_url(content, "video/mp4"), still)


def _jpeg(frame: av.VideoFrame) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(frame.to_ndarray(format="rgb24"))
    image.save(buffer, format="JPEG", quality=_STILL_QUALITY)
    return buffer.getvalue()

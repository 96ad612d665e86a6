"""What a site's data are, as a page for the hospital: it stays there.

The page shows pictures and, where it is asked to, paths. :func:`data_counts` is the part that
a machine may read: it holds numbers and fixed words only.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Literal

from feat_fed.atomic import write_bytes_atomically
from feat_fed.config import RulesConfig
from feat_fed.report.page import data_url, render
from feat_fed.report.units import NOTHING

Outcome = Literal["usable", "review", "excluded"]

_OUTCOMES: tuple[Outcome, ...] = ("usable", "review", "excluded")
_MOST_PICTURES = 300
"""Of clips that wait for a person; a page with more is too large to be looked at."""
_MOST_EXAMPLES = 24


@dataclass(frozen=True)
class ClipFacts:
    """One clip, or one file that is none, as the site's manifest has it.

    Parameters
    ----------
    clip, patient
        Keyed pseudonyms, in hexadecimal; ``patient`` is ``None`` where the file was not read.
    reason
        Why it is not used, a fixed phrase; empty for a usable clip.
    side
        Of the split by patient.
    sheet
        JPEG: the frame as it was and as training sees it.
    path
        Where the file lies, if the reader of the page shall see that.
    """

    clip: str
    outcome: Outcome
    reason: str
    patient: str | None
    side: Literal["training", "held out"] | None
    modality: str | None
    encoding: str | None
    frames: int | None
    fps: float | None
    height_px: int | None
    width_px: int | None
    sheet: bytes | None = None
    path: str | None = None


@dataclass(frozen=True)
class SiteDataFacts:
    """All that the page tells."""

    site: str
    rules: RulesConfig
    clips: tuple[ClipFacts, ...]
    other_files: int


@dataclass(frozen=True)
class Bar:
    """One line of a distribution; ``share`` is of its longest."""

    label: str
    count: int
    share: float


def write_data_page(facts: SiteDataFacts, path: Path) -> None:
    """Write the page, and the counts beside it as JSON."""
    write_bytes_atomically(path, render("data.html.j2", _page(facts)).encode())
    counts = json.dumps(data_counts(facts), indent=2) + "\n"
    write_bytes_atomically(path.with_suffix(".json"), counts.encode())


def data_counts(facts: SiteDataFacts) -> dict[str, object]:
    """Return numbers only: clips, patients, and how many are excluded for what."""
    usable = _with(facts, "usable")
    return {
        "clips": {outcome: len(_with(facts, outcome)) for outcome in _OUTCOMES},
        "patients": {
            side: len({each.patient for each in usable if each.side == side})
            for side in ("training", "held out")
        },
        "frames": sum(each.frames or 0 for each in usable),
        "excluded": dict(Counter(each.reason for each in _with(facts, "excluded")).most_common()),
        "review": dict(Counter(each.reason for each in _with(facts, "review")).most_common()),
        "other_files": facts.other_files,
    }


def _page(facts: SiteDataFacts) -> dict[str, object]:
    usable, waiting = _with(facts, "usable"), _with(facts, "review")
    return {
        "site": facts.site,
        "counts": data_counts(facts),
        "usable": usable,
        "waiting": waiting,
        "pictures": [_picture(each) for each in waiting[:_MOST_PICTURES]],
        "examples": [_picture(each) for each in _one_a_patient(usable)],
        "excluded": sorted(_with(facts, "excluded"), key=lambda each: (each.reason, each.clip)),
        "with_paths": any(each.path for each in facts.clips),
        "distributions": _distributions(usable),
        "rules": [
            (name, getattr(facts.rules, name), field.description)
            for name, field in RulesConfig.model_fields.items()
        ],
        "written_at": datetime.now(UTC).isoformat(),
        "nothing": NOTHING,
    }


def _with(facts: SiteDataFacts, outcome: Outcome) -> list[ClipFacts]:
    return [each for each in facts.clips if each.outcome == outcome]


def _one_a_patient(clips: Iterable[ClipFacts]) -> list[ClipFacts]:
    """Return up to :data:`_MOST_EXAMPLES` clips with a sheet, of as many patients as can be."""
    turns: Counter[str | None] = Counter()
    ordered: list[tuple[int, int, ClipFacts]] = []
    for clip in clips:
        if clip.sheet is not None:
            ordered.append((turns[clip.patient], len(ordered), clip))
            turns[clip.patient] += 1
    return [clip for _, _, clip in sorted(ordered, key=lambda each: each[:2])[:_MOST_EXAMPLES]]


def _picture(clip: ClipFacts) -> tuple[ClipFacts, str | None]:
    return clip, data_url(clip.sheet, "image/jpeg") if clip.sheet else None


def _distributions(clips: Sequence[ClipFacts]) -> dict[str, list[Bar]]:
    of_patient = Counter(each.patient for each in clips)
    shorter = [
        min(each.height_px, each.width_px)
        for each in clips
        if each.height_px is not None and each.width_px is not None
    ]
    return {
        "Modality": _named(each.modality or "video file" for each in clips),
        "Encoding": _named(each.encoding or "unknown" for each in clips),
        "Frames a clip": _binned((each.frames for each in clips), (32, 64, 128, 256, 1024)),
        "Frames a second": _binned((each.fps for each in clips), (10, 20, 30, 50)),
        "Shorter side, px": _binned(shorter, (128, 256, 512, 720, 1080)),
        "Clips a patient": _binned(of_patient.values(), (2, 5, 10, 50)),
    }


def _named(labels: Iterable[str]) -> list[Bar]:
    return _bars(Counter(labels).most_common())


def _binned(values: Iterable[float | None], edges: tuple[int, ...]) -> list[Bar]:
    """Count values below the first edge, from each edge to the next, and from the last on."""
    values = list(values)
    known = Counter(bisect_right(edges, each) for each in values if each is not None)
    inner = [f"{low} to {high - 1}" for low, high in pairwise(edges)]
    labels = [f"below {edges[0]}", *inner, f"{edges[-1]} or more"]
    found = [(label, known[index]) for index, label in enumerate(labels)]
    unknown = sum(each is None for each in values)
    return _bars([*found, *([("unknown", unknown)] if unknown else [])])


def _bars(counts: Sequence[tuple[str, int]]) -> list[Bar]:
    largest = max((count for _, count in counts), default=0) or 1
    return [Bar(label, count, count / largest) for label, count in counts]

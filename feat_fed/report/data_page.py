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
from itertools import islice, pairwise
from pathlib import Path
from typing import Literal

from feat_fed.atomic import write_bytes_atomically
from feat_fed.config import RulesConfig
from feat_fed.data import ClipRecord
from feat_fed.data.quality.rules import Outcome
from feat_fed.report.page import data_url, render
from feat_fed.report.units import NOTHING

_OUTCOMES: tuple[Outcome, ...] = ("usable", "review", "excluded")
_MOST_PICTURES = 300
"""Of clips that wait for a person; a page with more is too large to be looked at."""
_MOST_EXAMPLES = 24


@dataclass(frozen=True)
class ClipFacts:
    """One clip of the site's manifest, and what the manifest does not hold.

    Parameters
    ----------
    encoding
        The transfer syntax as people call it; ``None`` for a video file.
    side
        Of the split by patient; ``None`` where no study has split the site's patients yet.
    sheet
        JPEG files, read when they are shown and perhaps absent: a frame as it is stored, and as
        training sees it.
    path
        Where the file lies, if the reader of the page shall see that.
    """

    record: ClipRecord
    encoding: str | None = None
    side: Literal["training", "held out"] | None = None
    sheet: tuple[Path, Path] | None = None
    path: str | None = None


Shown = tuple[ClipFacts, list[str]]
"""A clip and its pictures as addresses for a page: before and after, or none."""


@dataclass(frozen=True)
class SiteDataFacts:
    """All that the page tells."""

    site: str
    rules: RulesConfig
    clips: tuple[ClipFacts, ...]
    other_files: int
    """Neither DICOM nor video."""


@dataclass(frozen=True)
class Bar:
    """One line of a distribution; ``share`` is of its longest."""

    label: str
    count: int
    share: float


def write_data_page(facts: SiteDataFacts, path: Path) -> tuple[str, ...]:
    """Write the page, and the counts beside it as JSON.

    Returns
    -------
    tuple of str
        Ids of the clips that wait for a person and whose pictures are on the page.
    """
    waiting = [_pictures(each) for each in _with(facts, "review")[:_MOST_PICTURES]]
    write_bytes_atomically(path, render("data.html.j2", _page(facts, waiting)).encode())
    counts = json.dumps(data_counts(facts), indent=2) + "\n"
    write_bytes_atomically(path.with_suffix(".json"), counts.encode())
    return tuple(clip.record.clip_id for clip, pair in waiting if pair)


def data_counts(facts: SiteDataFacts) -> dict[str, object]:
    """Return numbers only: clips, patients, and how many are excluded for what."""
    usable = _with(facts, "usable")
    return {
        "clips": {outcome: len(_with(facts, outcome)) for outcome in _OUTCOMES},
        "patients": len({each.record.patient for each in usable}),
        "frames": sum(each.record.num_frames or 0 for each in usable),
        "excluded": _reasons(_with(facts, "excluded")),
        "review": _reasons(_with(facts, "review")),
        "other_files": facts.other_files,
    }


def _reasons(clips: Iterable[ClipFacts]) -> dict[str, int]:
    return dict(Counter(each.record.reason for each in clips).most_common())


def _page(facts: SiteDataFacts, pictures: list[Shown]) -> dict[str, object]:
    usable, waiting = _with(facts, "usable"), _with(facts, "review")
    return {
        "site": facts.site,
        "counts": data_counts(facts),
        "usable": usable,
        "waiting": waiting,
        "pictures": pictures,
        "examples": _examples(usable),
        "excluded": sorted(_with(facts, "excluded"), key=lambda each: each.record.reason),
        "sides": Counter(side for side, _ in {(each.side, each.record.patient) for each in usable}),
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
    return [each for each in facts.clips if each.record.outcome == outcome]


def _examples(clips: Iterable[ClipFacts]) -> list[Shown]:
    """Return up to :data:`_MOST_EXAMPLES` clips with pictures, of as many patients as can be."""
    turns: Counter[str] = Counter()
    ordered: list[tuple[int, int, ClipFacts]] = []
    for clip in clips:
        ordered.append((turns[clip.record.patient], len(ordered), clip))
        turns[clip.record.patient] += 1
    shown = (_pictures(clip) for _, _, clip in sorted(ordered, key=lambda each: each[:2]))
    return list(islice((each for each in shown if each[1]), _MOST_EXAMPLES))


def _pictures(clip: ClipFacts) -> Shown:
    """Read both pictures of a clip, or none."""
    try:
        pair = [path.read_bytes() for path in clip.sheet or ()]
    except OSError:
        pair = []
    return clip, [data_url(each, "image/jpeg") for each in pair]


def _distributions(clips: Sequence[ClipFacts]) -> dict[str, list[Bar]]:
    records = [each.record for each in clips]
    shorter = [
        min(each.height_px, each.width_px)
        for each in records
        if each.height_px is not None and each.width_px is not None
    ]
    of_patient = Counter(each.patient for each in records)
    return {
        "Modality": _named(each.modality or "not told" for each in records),
        "Encoding": _named(each.encoding or "video file" for each in clips),
        "Frames a clip": _binned((each.num_frames for each in records), (32, 64, 128, 256, 1024)),
        "Frames a second": _binned((each.fps for each in records), (10, 20, 30, 50)),
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

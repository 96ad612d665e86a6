"""Who took part in a run, how fully, and whose updates are not in it for what reason."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from PIL import Image

from feat_fed.report.page import data_url
from feat_fed.report.records import RoundRecord, SiteRound, SiteStatus

Part = Literal["whole", "shortened", "declined", "absent", "refused", "not asked"]
"""Of a site in a round."""

PARTS: dict[Part, tuple[str, str]] = {
    "whole": ("#17663f", "aggregated"),
    "shortened": ("#7fbf9b", "aggregated, with fewer steps than planned"),
    "declined": ("#b9c0c8", "declined by the site"),
    "absent": ("#e3a008", "no answer in time, or failed at the site"),
    "refused": ("#a4310c", "turned away by the server"),
    "not asked": ("#f6f7f9", "not asked"),
}
"""The colour of each, and what it says."""

_PART_OF: dict[SiteStatus, Part] = {
    "declined": "declined",
    "missing": "absent",
    "late": "absent",
    "failed": "absent",
    "refused": "refused",
}
_GRAVITY: tuple[SiteStatus, ...] = ("refused", "failed", "late", "missing", "declined")
_MOST_SPANS = 5


@dataclass(frozen=True)
class Exclusion:
    """Updates of one site that did not get into the mean for one reason."""

    site: str
    status: SiteStatus
    reason: str
    rounds: tuple[int, ...]

    @property
    def spans(self) -> str:
        """The rounds as people write them: ``3, 5 to 9 and 41 later ones``."""
        return format_rounds(self.rounds)


@dataclass(frozen=True)
class Shortfall:
    """How the aggregated updates' steps compare to what a whole round of the study has."""

    updates: int
    shorter: int
    """Updates of fewer steps than the study's ``local_steps``."""
    fewest_steps: int | None
    ends: tuple[int, ...]
    """The study's step, counted from 0, after which each of the shorter ones ended."""
    last_step: int | None
    """Of the study, counted from 0, that any site has taken in an aggregated update."""


def exclusions(rounds: Sequence[RoundRecord]) -> tuple[Exclusion, ...]:
    """Collect what is not in the mean: the gravest first, then by how many they are.

    Reasons that differ in a number only are one, in the words of the last of them.
    """
    found: dict[tuple[str, SiteStatus, str], tuple[str, list[int]]] = {}
    for record in rounds:
        for part in record.sites:
            if part.status == "ok":
                continue
            key = (part.site, part.status, re.sub(r"\d+", "", part.reason))
            _, numbers = found.get(key, ("", []))
            found[key] = (part.reason, [*numbers, record.round])
    listed = [
        Exclusion(site, status, reason, tuple(numbers))
        for (site, status, _), (reason, numbers) in found.items()
    ]
    return tuple(
        sorted(listed, key=lambda e: (_GRAVITY.index(e.status), -len(e.rounds), e.site, e.reason))
    )


def shortfall(rounds: Sequence[RoundRecord], *, local_steps: int) -> Shortfall:
    """Compare the aggregated updates' steps with ``local_steps``; unknown ones are left out.

    A round begins at the study's step ``(round - 1) * local_steps``, however many steps a site
    took in the round before.
    """
    taken = [
        ((part.answers_round or record.round) - 1, part.steps)
        for record in rounds
        for part in record.sites
        if part.status == "ok" and part.steps
    ]
    short = [each for each in taken if each[1] < local_steps]
    ends = [before * local_steps + steps - 1 for before, steps in taken]
    return Shortfall(
        updates=len(taken),
        shorter=len(short),
        fewest_steps=min((steps for _, steps in short), default=None),
        ends=tuple(sorted(before * local_steps + steps - 1 for before, steps in short)),
        last_step=max(ends, default=None),
    )


def strips(rounds: Sequence[RoundRecord]) -> dict[str, tuple[str, str]]:
    """Draw each site's part in every round as a strip one pixel high, as an address and words."""
    names = sorted({part.site for record in rounds for part in record.sites})
    parts: dict[str, list[Part]] = {name: ["not asked"] * len(rounds) for name in names}
    for index, record in enumerate(rounds):
        for part in record.sites:
            parts[part.site][index] = _part(part)
    return {name: (_strip(each), _words(each)) for name, each in parts.items()}


def format_rounds(numbers: Sequence[int]) -> str:
    """Write rounds in order as spans, and only count those after the first few."""
    runs = [
        [number for _, number in run]
        for _, run in groupby(enumerate(sorted(numbers)), key=lambda each: each[1] - each[0])
    ]
    shown = ", ".join(
        f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs[:_MOST_SPANS]
    )
    later = sum(len(run) for run in runs[_MOST_SPANS:])
    return f"{shown} and {later:,} later" if later else shown


def _part(part: SiteRound) -> Part:
    if part.status == "ok":
        return "shortened" if part.ended_by != "steps" else "whole"
    return _PART_OF[part.status]


def _strip(parts: Sequence[Part]) -> str:
    names = list(PARTS)
    image = Image.new("P", (len(parts), 1))
    image.putpalette(bytes.fromhex("".join(colour[1:] for colour, _ in PARTS.values())))
    image.putdata([names.index(each) for each in parts])
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return data_url(buffer.getvalue(), "image/png")


def _words(parts: Sequence[Part]) -> str:
    counts = Counter(parts)
    told = (f"{counts[part]:,} {words}" for part, (_, words) in PARTS.items() if counts[part])
    return f"Of {len(parts):,} rounds: {'; '.join(told)}"

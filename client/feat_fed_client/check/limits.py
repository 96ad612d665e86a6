"""The site's own limits against the study, and the study's privacy budget."""

from __future__ import annotations

import datetime as dt

from feat_fed.config import HoursConfig
from feat_fed_client.check.result import Finding, Number, amber, green, red
from feat_fed_client.check.subject import Subject
from feat_fed_client.check.text import gb


def hours(subject: Subject) -> Finding:
    """Tell whether training may run now."""
    limits, now = subject.site.limits, dt.datetime.now().time()
    if not limits.hours:
        return green("training may run at any time", open=True)
    told = ", ".join(str(each.model_dump()) for each in limits.hours)
    if any(_holds(each, now) for each in limits.hours):
        return green(f"training may run now ({told})", open=True)
    return amber(
        f"training may not run now, {now:%H:%M}, but {told}: rounds are declined until then",
        "nothing, if that is meant; limits.hours says when",
        open=False,
    )


def traffic(subject: Subject) -> Finding:
    """Compare a round's weights with what a round may move."""
    limit, total_bytes = subject.site.limits.gb_per_round, 2 * subject.weights_bytes
    found = f"{gb(total_bytes)} of weights a round, in and out"
    numbers: dict[str, Number] = {"round_bytes": total_bytes, "gb_per_round": limit}
    if limit is None:
        return green(f"{found}; no limit is set", **numbers)
    if total_bytes > limit * 1e9:
        return red(
            f"{found}, and limits.gb_per_round is {limit:g}: every round would be declined",
            "raise limits.gb_per_round, or leave the study",
            **numbers,
        )
    return green(f"{found}, of {limit:g} GB allowed", **numbers)


def privacy(subject: Subject) -> Finding:
    """Say what the study spends of a privacy budget."""
    return green("the study adds no noise: no privacy budget is kept or spent")


def _holds(window: HoursConfig, now: dt.time) -> bool:
    if window.begin < window.end:
        return window.begin <= now < window.end
    return now >= window.begin or now < window.end

"""The site's own limits against the study, and the study's privacy budget."""

from __future__ import annotations

from feat_fed.report.units import format_bytes, format_duration
from feat_fed_client.check.result import Finding, Number, amber, green, red
from feat_fed_client.check.subject import Subject
from feat_fed_client.limits import SiteLimits


def hours(subject: Subject) -> Finding:
    """Tell whether training may run now, and until when."""
    limits = SiteLimits.of(subject.site)
    if closed := limits.closed():
        paused = closed.limit == "paused"
        return amber(
            f"{closed}; rounds are declined until then",
            "`feat-fed site resume SITE.yaml`" if paused else "wait, or widen limits.hours",
            open=False,
            paused=paused,
        )
    left_sec = limits.sec_to_close()
    if left_sec is None:
        return green("training may run at any time", open=True, paused=False)
    return green(
        f"training may run now ({limits.hours}), for {format_duration(left_sec)}",
        open=True,
        paused=False,
        left_sec=round(left_sec),
    )


def traffic(subject: Subject) -> Finding:
    """Compare a round's weights with what a round may move."""
    limit, (down_bytes, up_bytes) = subject.site.limits.gb_per_round, subject.round_bytes
    total_bytes, first_bytes = down_bytes + up_bytes, subject.first_bytes + up_bytes
    found = f"{format_bytes(total_bytes)} of weights a round, in and out"
    if first_bytes > total_bytes:
        found += f"; {format_bytes(first_bytes)} in the first and after one that was missed"
    numbers: dict[str, Number] = {
        "round_bytes": total_bytes,
        "first_round_bytes": first_bytes,
        "gb_per_round": limit,
    }
    if limit is None:
        return green(f"{found}; no limit is set", **numbers)
    if total_bytes > limit * 1e9:
        return red(
            f"{found}, and limits.gb_per_round is {limit:g}: every round would be declined",
            "raise limits.gb_per_round, or leave the study",
            **numbers,
        )
    if first_bytes > limit * 1e9:
        return amber(
            f"{found}, and limits.gb_per_round is {limit:g}: those rounds would be declined",
            "raise limits.gb_per_round, or let those rounds go",
            **numbers,
        )
    return green(f"{found}, of {limit:g} GB allowed", **numbers)


def privacy(subject: Subject) -> Finding:
    """Say what the study spends of a privacy budget."""
    return green("the study adds no noise: no privacy budget is kept or spent")

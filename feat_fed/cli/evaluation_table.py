"""What was measured, on a screen."""

from __future__ import annotations

from rich.table import Table

from feat_fed.cli.console import output, say
from feat_fed.measured import Evaluation, MetricValue

_SHOWN_DIGITS = 12


def show_evaluation(found: Evaluation) -> None:
    """Print an evaluation's numbers, what they are of, and what they are not to be taken for."""
    table = Table(title=f"{_subject(found)} against {found.benchmark}", title_justify="left")
    table.add_column("metric", no_wrap=True)
    for name in ("value", "95 % interval", "real", "generated"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("better", no_wrap=True)
    for each in found.metrics:
        table.add_row(
            each.metric,
            _number(each.value),
            _interval(each),
            str(each.num_real),
            str(each.num_generated),
            "near 1" if each.better == "neither" else each.better,
        )
    output.print(table)
    say(f"protocol {found.protocol} ({found.protocol_digest[:_SHOWN_DIGITS]})")
    for name, sha256 in found.networks.items():
        say(f"network {name} ({sha256[:_SHOWN_DIGITS]})")
    for each in found.metrics:
        if each.warning:
            say(f"warning: {each.metric}: {each.warning}")


def _subject(found: Evaluation) -> str:
    if found.source == "round":
        return f"round {found.round} ({found.weights})"
    return {"checkpoint": "checkpoint", "folder": "videos"}[found.source]


def _interval(metric: MetricValue) -> str:
    if metric.low is None or metric.high is None:
        return "-"
    return f"{_number(metric.low)} to {_number(metric.high)}"


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.1f}"

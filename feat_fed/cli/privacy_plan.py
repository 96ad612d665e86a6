"""What ``feat-fed privacy plan`` shows: two bounds, tables with bars, a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from feat_fed.cli.console import console, output, say
from feat_fed.config import PatientPrivacyConfig, StudyConfig, load_study, validate
from feat_fed.errors import ConfigError
from feat_fed.privacy.accounting import NoisySteps, noise_for
from feat_fed.privacy.claims import LARGEST_DELTA, Claim, claims
from feat_fed.privacy.plan import Curve, Point, curves
from feat_fed.privacy.resolve import resolved
from feat_fed.report.privacy_plot import Panel, require_format, write_panels

_BAR_WIDTH = 30
_NONE = "-"
_LITTLE = 3.0
"""An epsilon above it promises little by itself."""
_LARGEST_TOLD = 13.0
"""Of an epsilon whose factor is told; a larger one says nothing to anybody."""


def planned_claims(
    study: str | None, rounds: int | None, given: Mapping[str, Any]
) -> tuple[Claim, ...]:
    """Return what a study claims, or what the options do.

    Raises
    ------
    ConfigError
        If options are missing, wrong or of the other kind, or an epsilon cannot be reached.
    """
    if study is None:
        if rounds is not None:
            raise ConfigError("--rounds is of a study; give --study, or --steps")
        return (_claim_of(given),)
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConfigError(f"{flags}: the study says that; change its privacy section")
    config = resolved(load_study(study, **({} if rounds is None else {"rounds": rounds})))
    found = tuple(claims(config))
    if not found:
        masks = " (its secure aggregation is no noise)" if _masks(config) else ""
        raise ConfigError(
            f"the study {config.name} adds no noise and bounds nothing{masks}; set privacy.patient "
            "or privacy.central in it"
        )
    if _masks(config):
        # It changes no figure, but whom they hold against.
        say("secure aggregation is on: the server sees sums of updates and no single one")
    return found


def _masks(study: StudyConfig) -> bool:
    return study.privacy.secure_aggregation is not None


def show_plan(planned: Sequence[Claim], *, patients: int | None, plot: Path | None) -> None:
    """Print the claims with their curves, and draw the curves if asked to.

    Raises
    ------
    ConfigError
        If the picture's file is of no known kind, or cannot be written.
    """
    if plot is not None:
        require_format(plot)
    panels: list[Panel] = []
    for claim in planned:
        with console.status("accounting"):
            found = [(each, each.points()) for each in curves(claim, patients=patients)]
        _print(str(claim))
        _print(_two_bounds(found[0]))
        _print(_meaning(claim, _chosen(*found[0])))
        if patients is not None and claim.unit == "patient":
            for line in _of_patients(claim, patients):
                _print(line)
        for curve, points in found:
            output.print()
            output.print(_table(curve, points))
        if plot is not None:
            panels += [_panel(claim, *each) for each in found]
    if plot is not None:
        write_panels(plot, panels)
        _print(f"drawn: {plot}")


def _claim_of(given: Mapping[str, Any]) -> Claim:
    if {"epsilon", "noise_multiplier"} <= given.keys():
        raise ConfigError("--noise-multiplier and --epsilon: give one, the other follows")
    for name in ("sample_rate", "steps"):
        if name not in given:
            raise ConfigError(f"--{name.replace('_', '-')} is missing; give it, or --study")
    tree = {name: value for name, value in given.items() if name != "steps"}
    wanted = validate(PatientPrivacyConfig, tree, "the plan")
    steps = given["steps"]
    noise = wanted.noise_multiplier
    if noise is None:
        assert wanted.epsilon is not None
        noise = noise_for(
            epsilon=wanted.epsilon,
            delta=wanted.delta,
            sample_rate=wanted.sample_rate,
            steps=steps,
        )
    return Claim("patient", NoisySteps(noise, wanted.sample_rate, steps), steps, wanted.delta)


def _two_bounds(found: tuple[Curve, list[Point]]) -> str:
    point = _chosen(*found)
    closer = "not computed (too much is spent)" if point.prv is None else f"{point.prv:.4g}"
    return f"by RDP, which is enforced: {point.rdp:.4g}; by PRV, which is closer: {closer}"


def _meaning(claim: Claim, point: Point) -> str:
    odds = f"a factor of at most {_rounded_up(math.exp(point.rdp))}"
    if point.rdp > _LARGEST_TOLD:
        odds = "any factor worth speaking of"
    little = f"; an epsilon above {_LITTLE:g} or so promises little by itself"
    return (
        f"that is: with or without one {claim.unit}, the odds of any answer differ by {odds}, but "
        f"for a probability of delta{little if point.rdp > _LITTLE else ''}"
    )


def _rounded_up(factor: float) -> str:
    """Return it with two digits, never less than it is."""
    step = 10.0 ** (math.floor(math.log10(factor)) - 1)
    return f"{math.ceil(factor / step) * step:,.6g}"


def _of_patients(claim: Claim, patients: int) -> list[str]:
    taken = claim.spending.sample_rate * patients
    noise = claim.spending.noise_multiplier / taken
    lines = [
        f"of {patients:,} patients a step takes {taken:,.4g} on average, and the mean of their "
        f"gradients carries noise of {noise:.3g} clip norms"
    ]
    if claim.delta * patients > LARGEST_DELTA:
        lines.append(
            f"warning: delta {claim.delta:g} is not well below 1 / {patients:,} patients; "
            f"{LARGEST_DELTA / patients:.0e} would be"
        )
    return lines


def _table(curve: Curve, points: Sequence[Point]) -> Table:
    """Draw RDP as a bar whose full part is PRV."""
    table = Table(title=f"Epsilon against {curve.label.lower()}", title_justify="left")
    table.add_column(curve.label, justify="right")
    table.add_column("RDP", justify="right")
    table.add_column("PRV", justify="right")
    table.add_column("█ PRV ░ RDP", no_wrap=True)
    largest = max(each.rdp for each in points)
    for each in points:
        table.add_row(
            _number(curve, each.at),
            f"{each.rdp:.4g}",
            _NONE if each.prv is None else f"{each.prv:.4g}",
            _bar(each, largest),
            style="bold" if each.at == curve.chosen else "",
        )
    return table


def _bar(point: Point, largest: float) -> str:
    if not largest:
        return ""
    full, whole = (round(_BAR_WIDTH * (each or 0.0) / largest) for each in (point.prv, point.rdp))
    return "█" * full + "░" * (whole - full)


def _number(curve: Curve, at: float) -> str:
    number = f"{at:.4g}" if curve.label == "Noise multiplier" else f"{at:,.0f}"
    return f"> {number}" if at == curve.chosen else number


def _panel(claim: Claim, curve: Curve, points: Sequence[Point]) -> Panel:
    chosen = _chosen(curve, points)
    return Panel(
        x_label=curve.label,
        y_label=f"Epsilon of each {claim.unit}, delta {claim.delta:g}",
        rdp=curve.line(),
        prv=[(each.at, each.prv) for each in points if each.prv is not None],
        chosen=(chosen.at, chosen.rdp),
    )


def _chosen(curve: Curve, points: Sequence[Point]) -> Point:
    return next(each for each in points if each.at == curve.chosen)


def _print(line: str) -> None:
    output.print(line, markup=False, soft_wrap=True)

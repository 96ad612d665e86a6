"""``feat-fed privacy``: what a study spends of each patient, before, while and after it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from feat_fed.cli import privacy_ledger

app = typer.Typer(help="What a study spends of each patient.", no_args_is_help=True)


@app.command()
def plan(
    sample_rate: Annotated[
        float | None,
        typer.Option(help="Chance of each patient to take part in a step, at most 1."),
    ] = None,
    noise_multiplier: Annotated[
        float | None,
        typer.Option(help="Standard deviation of a step's noise in clip norms; or --epsilon."),
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="To spend in all, of which the noise is found.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Of the whole study.")] = None,
    delta: Annotated[
        float | None, typer.Option(help="That goes with epsilon; 1e-5 if unset.")
    ] = None,
    study: Annotated[
        str | None,
        typer.Option(help="In place of the above: a YAML file or the name of a built-in study."),
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Of --study; its own number if unset.")
    ] = None,
    patients: Annotated[
        int | None, typer.Option(min=1, help="For training at a site: what their number changes.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the curves into this file too, .svg or .png.")
    ] = None,
) -> None:
    """Tell what a study would spend, and how that depends on what can be chosen.

    Two bounds on the same epsilon: by RDP, which is what is enforced, and by PRV, which is
    closer. Without --study, give --sample-rate, --steps and one of --noise-multiplier, --epsilon.
    """
    from feat_fed.cli.privacy_plan import planned_claims, show_plan

    options = {
        "sample_rate": sample_rate,
        "noise_multiplier": noise_multiplier,
        "epsilon": epsilon,
        "steps": steps,
        "delta": delta,
    }
    given = {name: value for name, value in options.items() if value is not None}
    show_plan(planned_claims(study, rounds, given), patients=patients, plot=plot)


app.command()(privacy_ledger.status)
app.command()(privacy_ledger.verify)

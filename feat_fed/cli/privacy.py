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


@app.command()
def audit(
    canaries: Annotated[int, typer.Option(min=10, max=4096, help="Patients to plant.")] = 300,
    steps: Annotated[int, typer.Option(min=1, help="Of the training that is audited.")] = 10,
    epsilon: Annotated[
        float | None, typer.Option(help="To claim, of which the noise is found; 3 if unset.")
    ] = None,
    noise_multiplier: Annotated[
        float | None, typer.Option(help="In place of --epsilon: the noise, in clip norms.")
    ] = None,
    sample_rate: Annotated[
        float | None,
        typer.Option(help="Chance of each patient to take part in a step; 0.5 if unset."),
    ] = None,
    delta: Annotated[
        float | None, typer.Option(help="That goes with epsilon; 1e-5 if unset.")
    ] = None,
    study: Annotated[
        str | None,
        typer.Option(
            help="In place of these four: a YAML file or the name of a built-in study, whose "
            "noise and clipping are audited over --steps steps."
        ),
    ] = None,
    confidence: Annotated[
        float, typer.Option(min=0.5, max=0.9999, help="Of what is measured.")
    ] = 0.95,
    seed: Annotated[
        int, typer.Option(min=0, help="Of all but the noise and who takes part in a step.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object for machines.")] = False,
) -> None:
    """Try to catch DP-SGD at telling more than it claims, with canaries.

    Trains a small model with and without noise, on made-up patients of whom each is there by a
    coin, guesses which were, and tells the epsilon that the right guesses prove. It needs no data
    and takes some minutes on a CPU. Exit status 1 unless the leak without noise is caught and the
    claim holds with it.
    """
    from feat_fed.cli.privacy_audit import audit_and_show, planned_audit

    options = {
        "epsilon": epsilon,
        "noise_multiplier": noise_multiplier,
        "sample_rate": sample_rate,
        "delta": delta,
    }
    plan = planned_audit(
        study,
        {name: value for name, value in options.items() if value is not None},
        steps=steps,
        canaries=canaries,
        confidence=confidence,
        seed=seed,
    )
    audit_and_show(plan, as_json=as_json)


app.command()(privacy_ledger.status)
app.command()(privacy_ledger.verify)

"""``feat-fed privacy``: what a study spends of each patient, before, while and after it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from feat_fed.cli.console import output
from feat_fed.privacy.accounting import NoisySteps, prv_epsilon, rdp_epsilon

app = typer.Typer(help="What a study spends of each patient.", no_args_is_help=True)


@app.command()
def plan(
    sample_rate: Annotated[
        float, typer.Option(min=0, max=1, help="Chance of each patient to take part in a step.")
    ],
    noise_multiplier: Annotated[
        float, typer.Option(min=0, help="Standard deviation of a step's noise in clip norms.")
    ],
    steps: Annotated[int, typer.Option(min=1, help="Of the whole study.")],
    delta: Annotated[float, typer.Option(help="That goes with epsilon.")] = 1e-5,
) -> None:
    """Tell what epsilon so many noisy steps spend."""
    history = [NoisySteps(noise_multiplier, sample_rate, steps)]
    closer = prv_epsilon(history, delta=delta)
    output.print(f"epsilon {rdp_epsilon(history, delta=delta):.4g} (RDP), {closer:.4g} (PRV)")

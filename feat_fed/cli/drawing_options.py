"""Options of commands that draw clips."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

SamplerKind = Annotated[
    Literal["ddpm", "ddim", "dpm-solver++", "unipc"] | None,
    typer.Option(help="Of a run: the study's own if unset."),
]
Steps = Annotated[
    int | None, typer.Option(min=2, max=1000, help="Of the sampler; the study's own if unset.")
]
Seed = Annotated[
    int | None, typer.Option(min=0, help="Clip i has this seed + i; the study's if unset.")
]
RoundNumber = Annotated[
    int | None, typer.Option("--round", min=0, help="The last if unset; 0 is untrained.")
]
CodecWeights = Annotated[
    Path | None,
    typer.Option(help="A learned codec's file or folder; the study's codec.weights if unset."),
]

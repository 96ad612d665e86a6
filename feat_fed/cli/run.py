"""What is done with a finished run: ``sample``, ``report``; and ``version``."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Annotated

import typer

from feat_fed.cli.completion import run_folders
from feat_fed.cli.console import output, say
from feat_fed.cli.drawing_options import CodecWeights, RoundNumber, SamplerKind, Seed, Steps
from feat_fed.config import SamplerConfig, validate
from feat_fed.report import RunStore
from feat_fed.versions import MATTERS, installed_versions

Run = Annotated[
    Path, typer.Option(help="A run's folder, such as runs/demo.", autocompletion=run_folders)
]


def sample(
    run: Run,
    n: Annotated[int, typer.Option("-n", "--num-clips", min=1, max=4096, help="How many.")] = 8,
    sampler: SamplerKind = None,
    steps: Steps = None,
    seed: Seed = None,
    label: Annotated[
        int | None, typer.Option(min=0, help="Class of the clips, for a model with classes.")
    ] = None,
    guidance_scale: Annotated[
        float | None, typer.Option(min=0, help="Classifier-free guidance to --label; 1 is off.")
    ] = None,
    perturbed_scale: Annotated[
        float | None,
        typer.Option(min=0, help="Guidance away from unmixed tokens, label or not; 0 is off."),
    ] = None,
    round_number: RoundNumber = None,
    codec_weights: CodecWeights = None,
    clips: Annotated[
        Path | None, typer.Option(help="Folder for each clip as a file of its own, too.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the files; RUN/samples if unset.")
    ] = None,
) -> None:
    """Draw new clips from a run's averaged weights."""
    from feat_fed.generate import DISPLAY_FPS, generate_clips
    from feat_fed.report.drawn import write_drawn

    store = RunStore(run)
    options = {
        "num_clips": n,
        "kind": sampler,
        "steps": steps,
        "seed": seed,
        "label": label,
        "guidance_scale": guidance_scale,
        "perturbed_scale": perturbed_scale,
    }
    changes = {name: value for name, value in options.items() if value is not None}
    config = validate(SamplerConfig, {**store.study.sampler.model_dump(), **changes}, "the sampler")
    number = store.latest_round() if round_number is None else round_number
    clips_NTHWC = generate_clips(
        store,
        config,
        round_number=number,
        codec_weights=codec_weights,
        show_progress=True,
    )
    folder = out or store.samples
    folder.mkdir(parents=True, exist_ok=True)
    files = write_drawn(folder, clips_NTHWC, number, config, fps=DISPLAY_FPS)
    if clips is not None:
        from feat_fed.report.samples import write_clips

        write_clips(clips, clips_NTHWC, fps=DISPLAY_FPS)
    say(f"{n} clips: {files.mp4}  {files.gif}  {files.contact_sheet}")


def report(
    run: Run,
    mlflow: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="Send the run's numbers to this MLflow tracking server, too (or file:FOLDER); "
            "what it has already is not sent again.",
        ),
    ] = None,
    experiment: Annotated[str, typer.Option(help="Of MLflow.")] = "feat-fed",
) -> None:
    """Write a run's report.html anew."""
    from feat_fed.report import write_report

    store = RunStore(run)
    say(str(write_report(store)))
    if mlflow is not None:
        from feat_fed.report.mlflow_log import log_to_mlflow

        number = log_to_mlflow(store, mlflow, experiment=experiment)
        say(f"{number} new round{'' if number == 1 else 's'} logged to {mlflow}")


def version() -> None:
    """Print the versions of everything that matters for reproducing a run."""
    found = installed_versions()
    for name in ("feat-fed", "python", *MATTERS):
        output.print(f"{name} {found.get(name, 'not installed')}")
    output.print(f"{platform.system()} {platform.machine()}")

"""``feat-fed downstream``: what generated clips are good for, by a classifier of real ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from feat_fed.cli.console import say
from feat_fed.config import ComputeConfig
from feat_fed.config.site import PATIENT_IN_NAME
from feat_fed.downstream.settings import ArmName, Draw, NetworkName
from feat_fed.errors import ConfigError

app = typer.Typer(
    help="What generated clips are good for: a classifier trained with them, tested on real ones.",
    no_args_is_help=True,
)

_READ, _TRAINED = "How clips are read", "How a classifier is trained"

Data = Annotated[
    Path,
    typer.Option(
        help="Real clips with labels: videos/ with splits/train.csv and val.csv (name,label), as "
        "PolypDiag has it, or a folder a class, below train/ and test/ or not."
    ),
]
Seeds = Annotated[int, typer.Option(min=1, max=100, help="Trainings of each arm.")]
FirstSeed = Annotated[int, typer.Option("--seed", min=0, help="The first; others follow by one.")]
Positive = Annotated[
    str | None, typer.Option(help="Class whose F1 is meant, of two; the last by name if unset.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the results as JSON.")]
Out = Annotated[
    Path | None, typer.Option(help="File for the results, as JSON, written after each training.")
]
TestShare = Annotated[
    float,
    typer.Option(
        min=0.05,
        max=0.9,
        help="Of each class, by patient, where the data have no split.",
        rich_help_panel=_READ,
    ),
]
PatientPattern = Annotated[
    str,
    typer.Option(
        help="Regular expression whose one group is the patient in a clip's path below the "
        "folder; of DICOM the header tells.",
        rich_help_panel=_READ,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        help="A YAML file with the sections windows and training (docs/evaluation.md); the options "
        "below win over it.",
        rich_help_panel=_TRAINED,
    ),
]
Steps = Annotated[int | None, typer.Option(min=1, help="Of a training.", rich_help_panel=_TRAINED)]
Network = Annotated[
    NetworkName | None,
    typer.Option(
        help="3D ResNet-10: small has an eighth of resnet10's channels.", rich_help_panel=_TRAINED
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        help="Pretrained weights of that network, such as MedicalNet's for resnet10; none are "
        "fetched.",
        rich_help_panel=_TRAINED,
    ),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option(help="Where to train.", rich_help_panel=_TRAINED)
]
Threads = Annotated[
    int, typer.Option(min=0, max=1024, help="CPU threads; 0: all.", rich_help_panel=_TRAINED)
]


@app.command()
def fixmatch(
    data: Data,
    generated: Annotated[
        Path | None, typer.Option(help="A folder of generated clips, without labels.")
    ] = None,
    labelled: Annotated[
        int, typer.Option(min=2, help="Clips whose label is used, as many of each class.")
    ] = 40,
    generated_clips: Annotated[
        int, typer.Option(min=1, help="Generated clips that are used, the first by name.")
    ] = 200,
    arm: Annotated[
        list[str] | None,
        typer.Option(
            help="supervised: labelled clips alone; rest, generated: with the other real clips, or "
            "the generated ones, as unlabelled. May be given several times; supervised and "
            "generated if unset, or rest without --generated."
        ),
    ] = None,
    draw: Annotated[
        Draw, typer.Option(help="Which are labelled: anew with each seed, or the list's first.")
    ] = "random",
    seeds: Seeds = 3,
    seed: FirstSeed = 0,
    positive: Positive = None,
    as_json: AsJson = False,
    out: Out = None,
    config: Config = None,
    steps: Steps = None,
    network: Network = None,
    weights: Weights = None,
    device: Device = "auto",
    threads: Threads = 0,
    patient_pattern: PatientPattern = PATIENT_IN_NAME,
    test_share: TestShare = 0.3,
) -> None:
    """Train with few labels and many clips without (FixMatch), and without these; test both.

    The paper's semi-supervised task: 40 labelled clips of PolypDiag, 200 generated ones, F1.
    Ctrl-C ends it and keeps what is done.
    """
    from feat_fed.cli.downstream_run import Run, decoding, settings_of
    from feat_fed.downstream.dataset import read_split, read_unlabelled
    from feat_fed.downstream.experiment import fixmatch_experiment
    from feat_fed.downstream.labelled import patient_by

    compute = ComputeConfig(device=device, threads=threads)
    run = Run(compute, range(seed, seed + seeds), as_json, out)
    arms = _arms(arm or ["supervised", "generated" if generated else "rest"])
    settings = settings_of(config, steps=steps, network=network, weights=weights)
    patient_of = patient_by(patient_pattern)
    pool, test = read_split(data, patient_of, test_share=test_share, seed=seed)
    clips = None if generated is None else read_unlabelled(generated, at_most=generated_clips)
    if clips is not None and len(clips) < generated_clips:
        say(f"{generated} has {len(clips)} clips, fewer than {generated_clips}: all are used")
    with decoding(len(pool) + len(test) + len(clips or ())) as decoded:
        experiment = fixmatch_experiment(
            pool,
            test,
            clips,
            settings,
            num_labelled=labelled,
            arms=arms,
            draw=draw,
            positive=positive,
            decoded=decoded,
        )
    run(experiment, num_arms=len(arms))


def _arms(given: Sequence[str]) -> tuple[ArmName, ...]:
    known: tuple[ArmName, ...] = ("supervised", "rest", "generated")
    if unknown := [name for name in given if name not in known]:
        raise ConfigError(f"--arm {unknown[0]} is none of {', '.join(known)}; correct it")
    return tuple(name for name in known if name in given)


@app.command()
def tstr(
    data: Data,
    generated: Annotated[
        Path,
        typer.Option(help="Generated clips of the same classes: a folder a class, or such lists."),
    ],
    seeds: Seeds = 3,
    seed: FirstSeed = 0,
    positive: Positive = None,
    as_json: AsJson = False,
    out: Out = None,
    config: Config = None,
    steps: Steps = None,
    network: Network = None,
    weights: Weights = None,
    device: Device = "auto",
    threads: Threads = 0,
    patient_pattern: PatientPattern = PATIENT_IN_NAME,
    test_share: TestShare = 0.3,
) -> None:
    """Train on real clips, and on generated ones alone; test both on real ones.

    Ctrl-C ends it and keeps what is done.
    """
    from feat_fed.cli.downstream_run import Run, decoding, settings_of
    from feat_fed.downstream.dataset import read_labelled, read_split
    from feat_fed.downstream.experiment import tstr_experiment
    from feat_fed.downstream.labelled import patient_by

    compute = ComputeConfig(device=device, threads=threads)
    run = Run(compute, range(seed, seed + seeds), as_json, out)
    settings = settings_of(config, steps=steps, network=network, weights=weights)
    patient_of = patient_by(patient_pattern)
    real, test = read_split(data, patient_of, test_share=test_share, seed=seed)
    clips = read_labelled(generated, patient_of)
    with decoding(len(real) + len(test) + len(clips)) as decoded:
        experiment = tstr_experiment(
            real, test, clips, settings, positive=positive, decoded=decoded
        )
    run(experiment, num_arms=2)

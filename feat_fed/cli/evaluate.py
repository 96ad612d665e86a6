"""``feat-fed evaluate``: a model's clips against real videos."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from feat_fed.cli.console import console, say
from feat_fed.cli.drawing_options import CodecWeights, RoundNumber, SamplerKind, Seed, Steps
from feat_fed.cli.evaluation_table import show_evaluation
from feat_fed.cli.network_files import network_files
from feat_fed.config import ComputeConfig, SamplerConfig, validate
from feat_fed.errors import ConfigError
from feat_fed.report import RunStore
from feat_fed.report.evaluation_folder import EvaluationFolder

if TYPE_CHECKING:
    from feat_fed.evaluate.networks import FeatureNetwork
    from feat_fed.evaluate.protocol import MetricName, NetworkName, Protocol
    from feat_fed.evaluator.evaluation import Progress


def evaluate(
    context: typer.Context,
    run: Annotated[
        Path | None, typer.Option(help="A run's folder: measure the clips of one of its rounds.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A pretrained folder, as `feat-fed export` writes it.")
    ] = None,
    videos: Annotated[
        Path | None, typer.Option(help="A folder of videos, whatever model made them.")
    ] = None,
    benchmark: Annotated[
        str,
        typer.Option(
            help="colonoscopic, kvasir-capsule, cholectriplet, cholect45, echonet-dynamic, folder, "
            "manifest, or a YAML file that describes another."
        ),
    ] = "folder",
    folder: Annotated[
        Path | None,
        typer.Option(help="Where the benchmark's videos are; of a manifest, the CSV file."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="A part of the benchmark, or all; its own default if unset.")
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Take an incomplete copy; the numbers will say so.")
    ] = False,
    trained_on: Annotated[
        list[Path] | None,
        typer.Option(
            help="What the model was trained on: a site's store, a folder of videos, or a list of "
            "SHA-256. May be given several times; sites below the run's folder are found."
        ),
    ] = None,
    even_trained_on: Annotated[
        bool,
        typer.Option(
            "--even-trained-on",
            help="Measure by videos that were trained on; the numbers will say so.",
        ),
    ] = False,
    protocol: Annotated[
        str, typer.Option(help="feat-paper, cd-fvd, plain, or a YAML file.")
    ] = "plain",
    network: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=PATH or NAME=PATH:SHA256, once for each: i3d-torchscript, i3d-state-dict, "
            "inception, videomae-g. The network `random` needs none."
        ),
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="Only this one of the protocol's; several times.")
    ] = None,
    round_number: RoundNumber = None,
    weights: Annotated[
        Literal["ema", "global"] | None,
        typer.Option(help="Of a run: the average over rounds, or the round's; ema if unset."),
    ] = None,
    num_clips: Annotated[
        int | None,
        typer.Option(
            "-n", "--num-clips", min=1, max=4096, help="To draw; the protocol's if unset."
        ),
    ] = None,
    sampler: SamplerKind = None,
    steps: Steps = None,
    seed: Seed = None,
    codec_weights: CodecWeights = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="auto: a GPU where there is one.")
    ] = "auto",
    batch_clips: Annotated[int, typer.Option(min=1, max=1024, help="Clips in memory at once.")] = 8,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder of real videos' features; RUN/evaluation/features if unset."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Also add the record to this file of JSON lines.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object for machines.")] = False,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Measure every n-th round as the study's `evaluation` says, newest first, until "
            "the run is complete.",
        ),
    ] = False,
    once: Annotated[
        bool, typer.Option("--once", help="The same for the rounds that are there now.")
    ] = False,
) -> None:
    """Measure a run, a checkpoint or a folder of videos against real videos.

    Give one of --run, --checkpoint and --videos. Clips are drawn with fixed seeds, so that the
    same command gives the same numbers. Of a run the record is added to
    RUN/evaluation/metrics.jsonl, which the report shows. Nothing is downloaded.

    With --watch or --once it is the evaluator of a run, which `feat-fed server` else starts: it
    may be stopped at any time and started again, here or wherever the run's folder is seen.
    """
    if watch or once:
        from feat_fed.cli.evaluation_watch import given_flags, watch_run

        watch_run(given_flags(context))
        return
    from feat_fed.evaluate.metrics import chosen_metrics
    from feat_fed.evaluate.protocol import load_protocol
    from feat_fed.evaluator.evaluation import evaluate as measure
    from feat_fed.evaluator.memory import enough_memory
    from feat_fed.evaluator.real import real_videos
    from feat_fed.evaluator.subject import Drawing, of_checkpoint, of_round, of_videos
    from feat_fed.report.json_lines import append_record, require_appendable
    from feat_fed.report.publish import publish_evaluation
    from feat_fed.train import resolve_device

    _refuse_mixtures(
        {"run": run, "checkpoint": checkpoint, "videos": videos},
        of_runs={
            **{"round": round_number, "weights": weights, "sampler": sampler},
            "codec-weights": codec_weights,
        },
        of_drawing={"num-clips": num_clips, "steps": steps, "seed": seed},
    )
    if folder is None:
        raise ConfigError(f"--folder is missing; give where the real videos are ({benchmark})")
    store = RunStore(run) if run is not None else None
    rules, networks = load_protocol(protocol), _networks(network or [])
    metrics = cast("list[MetricName] | None", metric)
    chosen_metrics(rules, networks, metrics)
    where = resolve_device(ComputeConfig(device=device))
    config = _sampler(store, rules, num_clips=num_clips, kind=sampler, steps=steps, seed=seed)
    drawing = Drawing(config, where, batch_clips, store.root if store else None)
    if store:
        subject = of_round(
            store,
            rules,
            drawing,
            round_number=round_number,
            weights=weights or "ema",
            codec_weights=codec_weights,
        )
    elif checkpoint:
        subject = of_checkpoint(checkpoint, rules, drawing)
    else:
        subject = of_videos(cast(Path, videos))
    with console.status(f"checking {folder}"):
        real = real_videos(
            benchmark,
            folder,
            split=split,
            partial=partial,
            run=store,
            trained_on=trained_on or [],
            even_trained_on=even_trained_on,
        )
    records = EvaluationFolder.of_run(store.root) if store else None
    files = [path for path in (records.metrics if records else None, out) if path is not None]
    for path in files:
        require_appendable(path)
    for note in subject.notes:
        say(f"note: {note}")
    memory = enough_memory(str(run or checkpoint or videos), lower="--batch-clips")
    with memory, _progress() as on_progress:
        found = measure(
            subject,
            real,
            rules,
            {name: each.to(where) for name, each in networks.items()},
            metrics=metrics,
            cache=cache or (records.features if records else None),
            batch_clips=batch_clips,
            device=where,
            on_progress=on_progress,
        )
    # Before they are written: a disk that has become full takes no numbers away.
    if as_json:
        typer.echo(found.model_dump_json(indent=1))
    else:
        show_evaluation(found)
    for path in files:
        append_record(path, found)
        say(f"added to {path}")
    if store:
        publish_evaluation(store.root, found)


def _refuse_mixtures(
    sources: Mapping[str, object],
    *,
    of_runs: Mapping[str, object],
    of_drawing: Mapping[str, object],
) -> None:
    given = [name for name, value in sources.items() if value is not None]
    if len(given) != 1:
        raise ConfigError(
            f"give one of --run, --checkpoint and --videos (given: "
            f"{', '.join(f'--{name}' for name in given) or 'none'})"
        )
    meaningless = {} if given == ["run"] else dict(of_runs)
    if given == ["videos"]:
        meaningless |= of_drawing
    if wrong := [name for name, value in meaningless.items() if value is not None]:
        raise ConfigError(f"--{wrong[0]} says nothing of --{given[0]}; leave it out")


def _networks(given: Sequence[str]) -> dict[NetworkName, FeatureNetwork]:
    """Load the networks of these files, and the one that needs none."""
    from feat_fed.evaluate.networks import load_network

    files = network_files(given)
    names = [cast("NetworkName", name) for name in files]
    loaded = {name: load_network(name, files[name].path, files[name].sha256) for name in names}
    return {"random": load_network("random"), **loaded}


def _sampler(store: RunStore | None, rules: Protocol, **changes: object) -> SamplerConfig:
    """Return how clips are drawn: as the study says, but for what was asked for."""
    from feat_fed.evaluator.evaluation import clips_wanted

    asked = {name: value for name, value in changes.items() if value is not None}
    base = store.study.sampler.model_dump() if store else {}
    count = {"num_clips": clips_wanted(rules)}
    return validate(SamplerConfig, base | count | asked, "the sampler")


@contextmanager
def _progress() -> Iterator[Progress]:
    """Lend what shows how far the work is: one line for what is under way."""
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=28), MofNCompleteColumn())
    with Bars(*columns, TimeRemainingColumn(), console=console, transient=True) as bars:
        task = bars.add_task("")

        def show(what: str, done: int, total: int) -> None:
            bars.update(task, description=what, completed=done, total=total)

        yield show

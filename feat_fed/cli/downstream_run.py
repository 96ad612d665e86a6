"""A downstream experiment from its settings to a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from feat_fed.atomic import write_bytes_atomically
from feat_fed.cli.console import console, output, say
from feat_fed.config import ComputeConfig, validate
from feat_fed.config.load import read_yaml
from feat_fed.downstream.experiment import Experiment
from feat_fed.downstream.results import Answers, Arm, DownstreamResults, Spread
from feat_fed.downstream.scores import METRICS, MetricName
from feat_fed.downstream.settings import DownstreamConfig, NetworkName
from feat_fed.errors import ConfigError
from feat_fed.train import cpu_threads, resolve_device

_INTERRUPTED = 130


def settings_of(
    path: Path | None, *, steps: int | None, network: NetworkName | None, weights: Path | None
) -> DownstreamConfig:
    """Read the settings' file, if there is one, and put the options in place of its values.

    Raises
    ------
    ConfigError
        When a value is wrong.
    """
    config = validate(DownstreamConfig, read_yaml(path), str(path)) if path else DownstreamConfig()
    options = {"steps": steps, "network": network, "weights": weights}
    given = {name: value for name, value in options.items() if value is not None}
    training = config.training.model_copy(update=given)
    return config.model_copy(update={"training": training})


@contextmanager
def decoding(num_clips: int) -> Iterator[Callable[[], None]]:
    """Show a bar of clips that are decoded; call what is lent after each."""
    with _bar() as progress:
        task = progress.add_task("decoding clips", total=num_clips)
        yield lambda: progress.advance(task)


@dataclass(frozen=True)
class Run:
    """How an experiment is computed, and where its results go.

    Raises
    ------
    ConfigError
        When the device is not there, or ``out`` cannot be written.
    """

    compute: ComputeConfig
    seeds: range
    as_json: bool
    out: Path | None

    def __post_init__(self) -> None:
        resolve_device(self.compute)
        if self.out is not None and not self.out.absolute().parent.is_dir():
            raise ConfigError(f"--out {self.out}: the folder does not exist; make it first")

    def __call__(self, experiment: Experiment, *, num_arms: int) -> None:
        """Train every arm with every seed, and show what came of it.

        Results are written after each training. Ctrl-C shows those that are done.
        """
        trainings = num_arms * len(self.seeds)
        steps = experiment.config.training.steps
        device = resolve_device(self.compute)
        answers: list[Answers] = []
        try:
            with _bar() as progress, cpu_threads(self.compute.threads):
                task = progress.add_task("training", total=trainings * steps)
                for each in experiment.answers(
                    self.seeds, device, stepped=lambda: progress.advance(task)
                ):
                    answers.append(each)
                    self._write(experiment.results(answers, complete=len(answers) == trainings))
                    progress.update(task, description=f"training ({len(answers)}/{trainings} done)")
        except KeyboardInterrupt:
            say(f"stopped: {len(answers)} of {trainings} trainings are done")
            if not answers:
                raise
        complete = len(answers) == trainings
        self._show(experiment.results(answers, complete=complete))
        if not complete:
            raise typer.Exit(_INTERRUPTED)

    def _write(self, results: DownstreamResults) -> None:
        if self.out is not None:
            write_bytes_atomically(self.out, results.model_dump_json(indent=1).encode() + b"\n")

    def _show(self, results: DownstreamResults) -> None:
        if self.as_json:
            typer.echo(results.model_dump_json(indent=1))
            return
        output.print(_scores_table(results))
        for arm in results.arms:
            output.print(_confusion_table(results, arm))
        for line in _notes(results):
            output.print(line, markup=False, soft_wrap=True)
        if self.out is not None:
            say(f"results: {self.out}")


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


_HEADINGS: dict[MetricName, str] = {
    "f1": "F1",
    "f1_macro": "F1, macro",
    "accuracy": "Accuracy",
    "auroc": "AUROC",
}
_ARMS = {
    "fixmatch": {
        "supervised": "labelled clips alone",
        "rest": "+ other real clips, unlabelled",
        "generated": "+ generated clips, unlabelled",
    },
    "tstr": {"real": "trained on real clips", "generated": "trained on generated clips"},
}


def _scores_table(results: DownstreamResults) -> Table:
    data = results.data
    table = Table(
        title=f"{sum(data.test.values())} real test clips of {data.test_patients} patients",
        title_justify="left",
    )
    table.add_column("")
    names = [name for name in METRICS if name in results.arms[0].metrics]
    for heading in ("Labelled", "Unlabelled", "Seeds", *(_HEADINGS[name] for name in names)):
        table.add_column(heading, justify="right")
    for arm in results.arms:
        counts = (arm.num_labelled, arm.num_unlabelled, len(arm.seeds))
        table.add_row(
            _ARMS[results.task][arm.name],
            *(f"{count}" for count in counts),
            *(_spread(arm.metrics[name]) for name in names),
        )
        if arm.gain:
            gain = arm.gain
            table.add_row("  gain", "", "", "", *(_spread(gain[name], sign="+") for name in names))
    return table


def _spread(spread: Spread, sign: str = "") -> str:
    deviation = "" if spread.sd is None else f" ± {spread.sd:.3f}"
    low, high = f"{spread.low:{sign}.3f}", f"{spread.high:{sign}.3f}"
    return f"{spread.mean:{sign}.3f}{deviation}\n\\[{low}, {high}]"


def _confusion_table(results: DownstreamResults, arm: Arm) -> Table:
    classes = results.data.classes
    table = Table(
        title=f"{_ARMS[results.task][arm.name]}: answers, all seeds together", title_justify="left"
    )
    table.add_column("True class")
    for name in classes:
        table.add_column(escape(name), justify="right")
    for row, name in enumerate(classes):
        counts = [
            sum(each.confusion[row][column] for each in arm.seeds) for column in range(len(classes))
        ]
        table.add_row(escape(name), *(str(count) for count in counts))
    return table


def _notes(results: DownstreamResults) -> Iterator[str]:
    of = "" if results.data.positive is None else f"F1 is of the class {results.data.positive}. "
    yield (
        f"{of}Mean over seeds ± standard deviation; in brackets, where 95 % of "
        f"{results.resamples} test sets lie that are redrawn by patient. A gain is over the first "
        "line, on the same test sets."
    )
    if results.data.positive is not None:
        positives, clips = results.data.test[results.data.positive], sum(results.data.test.values())
        always = 2 * positives / (positives + clips)
        yield f"Whoever always answers {results.data.positive} has an F1 of {always:.3f} here."
    for arm in results.arms:
        kept = [each.kept for each in arm.seeds if each.kept is not None]
        if kept:
            yield (
                f"{_ARMS[results.task][arm.name]}: {sum(kept) / len(kept):.0%} of the "
                "pseudo-labels counted at the end"
            )

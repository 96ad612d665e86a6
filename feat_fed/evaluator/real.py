"""The real videos of an evaluation: checked, and not those that the model has seen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from feat_fed.data.inventory.manifest import FILE
from feat_fed.evaluate.benchmarks import load_benchmark, open_benchmark
from feat_fed.evaluate.clips import FileClips
from feat_fed.evaluate.trained_on import read_trained_on, refuse_trained_on
from feat_fed.report.run_store import RunStore


def real_videos(
    benchmark: str,
    folder: Path,
    *,
    split: str | None = None,
    partial: bool = False,
    run: RunStore | None = None,
    trained_on: Sequence[Path] = (),
    even_trained_on: bool = False,
) -> FileClips:
    """Open a benchmark and refuse what was trained on, by all that is known on this machine.

    Parameters
    ----------
    benchmark
        Name of a built-in one, or a YAML file.
    run
        Whose weights are measured: sites below its folder, as of a simulation or demonstration,
        are asked.
    trained_on
        As in :func:`feat_fed.evaluate.trained_on.read_trained_on`.
    even_trained_on
        Take such videos; the name says how many.

    Raises
    ------
    DataError
        When the copy is not what the description says, a file cannot be read, or videos were
        trained on.
    ConfigError
        When there is no such benchmark or split.
    """
    real = open_benchmark(load_benchmark(benchmark), folder, split=split, partial=partial)
    return unseen(real, run=run, trained_on=trained_on, even_trained_on=even_trained_on)


def unseen(
    real: FileClips,
    *,
    run: RunStore | None = None,
    trained_on: Sequence[Path] = (),
    even_trained_on: bool = False,
) -> FileClips:
    """Refuse videos that were trained on, as :func:`real_videos` does.

    Raises
    ------
    DataError
        When one was, or what is to tell that cannot be read.
    """
    stores = [each.parent for each in sorted(run.root.glob(f"sites/*/store/{FILE}"))] if run else []
    known = read_trained_on(
        [*stores, *trained_on],
        heldout_fraction=run.study.clips.heldout_fraction if run else None,
    )
    return refuse_trained_on(real, known, allow=even_trained_on)

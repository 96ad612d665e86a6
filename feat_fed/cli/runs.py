"""A run from its folder to its report, whatever ends it on the way."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from feat_fed.cli.console import console, say
from feat_fed.config import StudyConfig
from feat_fed.errors import FeatFedError, RunError
from feat_fed.privacy.claims import told
from feat_fed.report import RunStore, SampleFiles
from feat_fed.report.run_store import lock_run


def run_to_report(root: Path, study: StudyConfig, train: Callable[[RunStore], None]) -> None:
    """Make the run or go on with it, train what is left, sample, write the report.

    Parameters
    ----------
    train
        Runs the study's rounds from wherever the run stands; its summary is complete then.

    Raises
    ------
    RunError
        If the folder is not a run of this study, or another process writes it.
    ConfigError
        If the study's privacy cannot be had.
    """
    with lock_run(root):
        store = _open(root, study)
        for line in told(store.study):
            say(f"privacy: {line}")
        if not _is_complete(store):
            with _defined_end(store):
                train(store)
        elif store.report.exists() and SampleFiles.under(store.samples).gif.exists():
            say(f"{root} is complete at {study.rounds} rounds; ask for more with --rounds")
            return
        _finish(store)


def _open(root: Path, study: StudyConfig) -> RunStore:
    if not (root / "study.yaml").exists():
        return RunStore.create(root, study)
    done = len(RunStore(root).rounds())
    if study.rounds < done:
        raise RunError(
            f"{root} has {done} rounds already, more than the {study.rounds} asked for: "
            "ask for more, or give the run another name with --run"
        )
    store = RunStore.resume(root, study)
    if not _is_complete(store):
        say(f"going on with {root} after round {done}")
    return store


def _is_complete(store: RunStore) -> bool:
    summary = store.summary()
    return summary.state == "complete" and summary.rounds_done >= store.study.rounds


@contextlib.contextmanager
def _defined_end(store: RunStore) -> Iterator[None]:
    """Leave a run that ends early in a defined state, with a report of what there is."""
    _leave(store, "running", "")
    try:
        yield
    except FeatFedError as error:
        # The ServerApp, if it was what failed, has told the reason before.
        with contextlib.suppress(OSError):
            _leave(store, "failed", store.summary().message or error.shareable())
        # What is wrong is told below; the same command unchanged would only fail again.
        _say_how_to_go_on(store, first="with the following mended, ")
        raise
    except BaseException:
        with contextlib.suppress(OSError):
            if not _is_complete(store):
                _leave(store, "interrupted", "")
        _say_how_to_go_on(store)
        raise


def _say_how_to_go_on(store: RunStore, *, first: str = "") -> None:
    from feat_fed.report import write_report

    with contextlib.suppress(OSError):
        write_report(store)
    summary = store.summary()
    say(
        f"stopped after round {summary.rounds_done} of {summary.rounds_wanted}; "
        f"{first}the same command with --run {store.root.name} goes on (logs: {store.logs})"
    )


def _leave(store: RunStore, state: str, message: str) -> None:
    store.write_summary(store.summary().model_copy(update={"state": state, "message": message}))


def _finish(store: RunStore) -> None:
    """Sample the averaged weights, write the report, say where everything is."""
    from feat_fed.generate import DISPLAY_FPS, generate_clips
    from feat_fed.report import write_report
    from feat_fed.report.drawn import write_drawn

    with console.status("sampling clips from the averaged weights"):
        sampler, number = store.study.sampler, store.latest_round()
        clips_NTHWC = generate_clips(store, sampler, round_number=number)
        files = write_drawn(store.samples, clips_NTHWC, number, sampler, fps=DISPLAY_FPS)
        report = write_report(store)
    summary = store.summary()
    first = store.rounds()[0].heldout_loss
    if first is not None and summary.final_heldout_loss is not None:
        say(f"held-out loss: {first:.4f} untrained, {summary.final_heldout_loss:.4f} at the end")
    say(f"report:      {report}")
    say(f"samples:     {files.mp4}  {files.gif}")
    say(f"checkpoints: {store.checkpoint(0).parent}")

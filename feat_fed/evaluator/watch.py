"""Measure a run's rounds while it goes on, or afterwards: newest first, none of them twice.

Whatever ends this process, the next one goes on: a round counts as measured by its line in
``metrics.jsonl``, which is written when all else of it is there, and everything besides those lines
can be made again.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feat_fed.atomic import remove_parts
from feat_fed.config import EvaluationConfig
from feat_fed.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    RunError,
    StorageError,
)
from feat_fed.evaluate.clips import FileClips
from feat_fed.evaluator.bench import Bench
from feat_fed.evaluator.best import BestRound
from feat_fed.evaluator.due import due_rounds
from feat_fed.evaluator.holding import GoneError, HeldRounds
from feat_fed.evaluator.living import Living, State, living
from feat_fed.evaluator.memory import enough_memory
from feat_fed.evaluator.rounds import PresentRounds
from feat_fed.evaluator.subject import Subject
from feat_fed.generate import DISPLAY_FPS
from feat_fed.measured import Evaluation
from feat_fed.report.evaluation_folder import EvaluationFolder
from feat_fed.report.json_lines import append_record
from feat_fed.report.publish import publish_evaluation
from feat_fed.report.run_store import RunStore
from feat_fed.report.samples import write_samples
from feat_fed.threads import cpu_threads

log = logging.getLogger(__name__)

_LOOK_SEC = 2.0
_MAX_BAD_LOOKS = 15
"""In a row: a folder on a network is now and then not there for a moment."""

_MAX_MISSES = 3
"""Of a round that seems to be there."""

Tell = Callable[[str], None]


def watch(
    run: Path,
    config: EvaluationConfig | None = None,
    *,
    codec_weights: Path | None = None,
    once: bool = False,
    tell: Tell = log.info,
    look_sec: float = _LOOK_SEC,
) -> None:
    """Measure what is due of a run until it is complete and nothing is left to measure.

    Parameters
    ----------
    config
        In place of the study's.
    codec_weights
        Of a learned codec, where they are not at the study's ``codec.weights`` on this machine.
    once
        End when all that is there now is measured, though the run goes on.
    tell
        Called with a line for each thing that somebody may want to know.
    look_sec
        Pause between two looks at the run's folder.

    Raises
    ------
    ConfigError, DataError
        When it cannot be measured so, and another try would not change that.
    CheckpointError
        When a feature network's file is damaged.
    RunError
        When the folder is not a run, cannot be used, or another evaluator is at it.
    StorageError
        When the disk is full.
    MemoryShortError
        When memory does not suffice.
    """
    store = RunStore(run)
    config = config or store.study.evaluation
    if config is None:
        raise ConfigError(
            f"the study of {run} says nothing of evaluation, so there is nothing to measure it by: "
            "say it in the study, under evaluation, or measure one round by `feat-fed evaluate`"
        )
    memory = enough_memory(f"{run} ({config.device})", lower="evaluation.batch_clips")
    with living(run) as life, cpu_threads(config.threads), memory:
        scratch = _tidied(EvaluationFolder.of_run(run))
        bench = Bench.open(store, config, scratch=scratch, codec_weights=codec_weights)
        _Watch(store, bench, life, tell, look_sec).go_on(once=once)


class _Watch:
    """One evaluator at work."""

    def __init__(
        self, store: RunStore, bench: Bench, life: Living, tell: Tell, look_sec: float
    ) -> None:
        self._store, self._bench, self._life, self._tell = store, bench, life, tell
        self._look_sec = look_sec
        self._config, self._folder = bench.config, bench.folder
        self._held = HeldRounds(store)
        self._present = PresentRounds(store, self._held)
        self._best = BestRound(
            self._folder, self._held, self._present, metric=self._config.best_by, tell=tell
        )
        self._measured = [each for each in self._folder.evaluations() if bench.would_give(each)]
        self._passed_over: set[tuple[int | None, str]] = set()
        self._missed: Counter[int] = Counter()
        self._told_gone: set[int] = set()
        self._notes: tuple[str, ...] = ()
        self._drawn = False

    def go_on(self, *, once: bool) -> None:
        """Measure round after round."""
        if self._measured:
            self._best.choose(self._measured, keep=self._interrupted())
        bad_looks = 0
        while True:
            try:
                complete = self._store.summary().state == "complete"
                due = self._due()
                bad_looks = 0
            except (RunError, OSError) as error:
                bad_looks += 1
                if bad_looks > _MAX_BAD_LOOKS:
                    raise RunError(f"{self._store.root} cannot be read: {error}") from error
                time.sleep(self._look_sec)
                continue
            if due:
                self._measure(due[0], waiting_rounds=len(due) - 1)
            elif complete or once:
                return
            else:
                self._life.say("waiting")
                time.sleep(self._look_sec)

    def _due(self) -> list[int]:
        """Return the rounds that are there and not measured yet, newest first."""
        there = self._present.all()
        newest, last = max(there, default=-1), self._store.summary().rounds_wanted
        due = due_rounds(range(newest + 1), every=self._config.every_rounds, last=last)
        settled = self._settled()
        self._tell_gone({*due} - there.keys() - {number for number, _ in settled})
        return [
            number for number in due if number in there and (number, there[number]) not in settled
        ]

    def _settled(self) -> set[tuple[int | None, str | None]]:
        """Return which rounds, by the SHA-256 of their weights, need no look any more."""
        measured = {(each.round, each.weights_sha256) for each in self._measured}
        return {*measured, *self._passed_over}

    def _tell_gone(self, gone: set[int]) -> None:
        if news := sorted(gone - self._told_gone):
            self._told_gone |= gone
            shown = ", ".join(map(str, news[-5:]))
            which = f"round {shown}" if len(news) == 1 else f"{len(news)} rounds (... {shown})"
            self._tell(
                f"{which}: due, and removed by the run's rotation before there was time; the "
                "study's checkpoints.keep_last and keep_every say what stays"
            )

    def _measure(self, number: int, *, waiting_rounds: int) -> None:
        """Measure one round, unless its files go or are no good."""
        digest, self._drawn = self._present.digest(number) or "", False
        # Nothing went into round 0, and sites may be making their lists of what they have.
        real = self._bench.unseen(self._store) if number else self._bench.real
        try:
            digest = self._held.hold(number)
            subject = self._bench.subject(self._held.run, number)
            evaluation = self._evaluation(number, subject, real, waiting_rounds)
        except GoneError:
            self._missed[number] += 1
            if self._missed[number] > _MAX_MISSES:
                self._pass_over(number, digest, "its files are not all there")
            time.sleep(self._look_sec)  # mostly, the next look says that it was rotated away
            return
        except (CheckpointError, DataError) as error:
            # What is wrong before a clip was drawn is wrong of every round.
            if isinstance(error, StorageError) or (
                isinstance(error, DataError) and not self._drawn
            ):
                raise
            self._pass_over(number, digest, str(error))
            return
        append_record(self._folder.metrics, evaluation)
        publish_evaluation(self._store.root, evaluation)
        self._measured.append(evaluation)
        self._tell(_line(evaluation))
        self._best.choose(self._measured, keep=self._interrupted())

    def _pass_over(self, number: int, digest: str, why: str) -> None:
        """Measure these weights no more, and hold them no longer."""
        self._passed_over.add((number, digest))
        self._tell(f"round {number} is passed over: {why}")
        if self._measured:
            self._best.choose(self._measured, keep=self._interrupted())
        else:
            self._held.keep_only(*self._waiting())

    def _evaluation(
        self, number: int, subject: Subject, real: FileClips, waiting_rounds: int
    ) -> Evaluation:
        def show(what: str, done: int, total: int) -> None:
            state: State = "sampling" if what == "drawing clips" else "measuring"
            self._life.say(state, number, waiting_rounds=waiting_rounds)

        if self._notes != subject.notes:
            self._notes = subject.notes
            for note in subject.notes:
                self._tell(f"note: {note}")
        return self._bench.measure(
            subject,
            real,
            on_samples=lambda clips_NTHWC: self._show(number, clips_NTHWC),
            on_progress=show,
        )

    def _show(self, number: int, clips_NTHWC: NDArray[np.uint8]) -> None:
        """Write a round's samples; their folder is whole or not there."""
        self._drawn = True
        folder = self._folder.samples(number)
        part = self._bench.scratch / folder.name
        try:
            write_samples(part, clips_NTHWC, fps=DISPLAY_FPS)
            folder.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            part.rename(folder)
        except OSError as error:
            raise StorageError(f"{folder} cannot be written: {error}") from error

    def _interrupted(self) -> int | None:
        """Return the newest round that is held and not measured: a killed evaluator was at it."""
        return max(self._waiting(), default=None)

    def _waiting(self) -> list[int]:
        """Return the rounds that are held and not measured."""
        settled = self._settled()
        held = self._held.rounds()
        return [each for each in held if (each, self._held.digest(each)) not in settled]


def _tidied(folder: EvaluationFolder) -> Path:
    """Remove what a killed evaluator has left; return an empty folder for what is passing."""
    scratch = folder.root / "scratch"
    try:
        for each in (folder.root, folder.checkpoints):
            if each.is_dir():
                remove_parts(each)
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
    except OSError as error:
        raise RunError(f"{folder.root} cannot be written: {error}") from error
    return scratch


def _line(evaluation: Evaluation) -> str:
    """Return an evaluation in one line."""
    parts = []
    for each in evaluation.metrics:
        within = (
            "" if each.low is None or each.high is None else f" [{each.low:.4g}, {each.high:.4g}]"
        )
        parts.append(f"{each.metric} {each.value:.4g}{within}")
    return f"round {evaluation.round}: {', '.join(parts)} ({evaluation.seconds:.0f} s)"

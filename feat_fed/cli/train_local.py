"""``feat-fed train-local``: a study on one hospital's clips, without a federation."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from feat_fed.cli.console import say
from feat_fed.cli.progress import StudyScreen, followed
from feat_fed.cli.runs import run_to_report
from feat_fed.cli.study import Rounds, RunName, Runs, Study, resolve_study
from feat_fed.config import PrivacyConfig, SiteConfig, StudyConfig, load_site
from feat_fed.log_file import rotating_handler
from feat_fed.protocol import Assignment, Report, Task
from feat_fed.report.live import StudyLive
from feat_fed.report.records import RoundRecord, SiteRound
from feat_fed.report.run_store import RunStore

_LOG = "train-local.log"

if TYPE_CHECKING:
    from torch import Tensor

    from feat_fed_client.session import SiteSession


def train_local(
    site_config: Annotated[Path, typer.Option(help="The site's YAML file.")],
    study: Study = "demo",
    rounds: Rounds = None,
    run: RunName = None,
    runs: Runs = Path("runs"),
) -> None:
    """Train a study's model on this hospital's clips alone.

    The site does what it would do in a federation, round after round, and no server is asked:
    a baseline, or a trial of the data. Stopped or killed, the same command goes on at the next
    round. Outside of the site's hours, or while it is paused, it waits.
    """
    from feat_fed.train import resolve_device

    os.umask(0o077)  # all that a site keeps is its own: keys, latents, logs
    site = load_site(site_config)
    resolve_device(site.compute)
    config = at_a_site(resolve_study(study, rounds))
    run_to_report(
        runs / (run or f"{config.name}-{site.name}"), config, lambda store: _train(store, site)
    )


def at_a_site(study: StudyConfig) -> StudyConfig:
    """Return the study without what only a server does, so that nobody claims it."""
    if study.privacy.protections <= {"patient"}:
        return study
    say("privacy: what the study does at the server (central, secure_aggregation) is left out here")
    return study.model_copy(update={"privacy": PrivacyConfig(patient=study.privacy.patient)})


def _train(store: RunStore, site: SiteConfig) -> None:
    """Train what is left of the run's rounds, and score the last weights."""
    from feat_fed.train.rotation import rotate
    from feat_fed.train.run_state import restore, save, summarise
    from feat_fed_client.events import events_folder
    from feat_fed_client.session import SiteSession

    session = SiteSession(site)
    say(f"log: {store.logs / _LOG}")
    say(f"events: {events_folder(site.store)} (tensorboard --logdir shows them)")
    screen = StudyScreen(store, {site.name: site.store})
    with _logged(store), screen, followed(screen, store):
        state = restore(store)
        while state.rounds_done < store.study.rounds:
            number = state.rounds_done + 1
            record, weights = _round(store, session, number, state.weights)
            state = state.after_round(weights, ema_decay=store.study.strategy.ema_decay)
            store.append(record)
            save(store, state)
            rotate(store)
            summarise(store, state, "running")
        score, _ = _ask(store, session, "evaluate", state.rounds_done, state.weights)
        summarise(store, state, "complete", final_heldout_loss=score.heldout_loss)


def _round(
    store: RunStore, session: SiteSession, number: int, weights: Mapping[str, Tensor]
) -> tuple[RoundRecord, dict[str, Tensor]]:
    from feat_fed.train.steps import planned_steps

    started_at, started_sec = dt.datetime.now(dt.UTC), time.monotonic()
    report, trained = _ask(store, session, "train", number, weights)
    record = RoundRecord(
        round=number,
        started_at=started_at.isoformat(timespec="seconds"),
        seconds=time.monotonic() - started_sec,
        train_loss=report.train_loss,
        heldout_loss=report.heldout_loss,
        sites=(
            SiteRound(
                site=report.site,
                status="ok",
                examples=report.examples,
                steps=report.steps,
                planned_steps=planned_steps(store.study.training, num_clips=report.examples),
                ended_by=report.ended_by,
                skipped_steps=report.skipped_steps,
                train_loss=report.train_loss,
                heldout_loss=report.heldout_loss,
                train_sec=report.train_sec,
            ),
        ),
    )
    return record, trained


def _ask(
    store: RunStore, session: SiteSession, task: Task, number: int, weights: Mapping[str, Tensor]
) -> tuple[Report, dict[str, Tensor]]:
    """Give the site the task that a server would give it, when its limits allow it."""
    from feat_fed_client.history import note_report
    from feat_fed_client.limits import DeclinedError

    StudyLive(
        phase="training" if task == "train" else "scoring",
        round=number,
        rounds=store.study.rounds,
        connected=(session.name,),
    ).write(store.live)
    assignment = Assignment(
        study_id=store.summary().study_id,
        round=number,
        task=task,
        first_step=(number - 1) * store.study.training.local_steps,
        study=store.study,
    )
    while True:
        try:
            report, trained = session.run(assignment, weights)
            note_report(session.store, report)
            return report, trained
        except DeclinedError as declined:
            if declined.limit not in ("paused", "hours"):
                raise  # waiting changes nothing
            session.wait_until_open(number, tell=lambda why: say(f"waiting: {why}"))


@contextlib.contextmanager
def _logged(store: RunStore) -> Iterator[None]:
    """Send log lines to the run's folder, and those that somebody should see to the screen."""
    file, screen = rotating_handler(store.logs / _LOG), _Screen(logging.WARNING)
    loggers = [logging.getLogger(name) for name in ("feat_fed", "feat_fed_client")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.INFO)
        logger.addHandler(file)
        logger.addHandler(screen)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
            logger.removeHandler(file)
            logger.removeHandler(screen)
        file.close()


class _Screen(logging.Handler):
    """Log lines among the bars."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())

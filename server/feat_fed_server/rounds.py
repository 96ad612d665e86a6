"""The round loop: ours, so that it can be resumed and no single reply can end it."""

from __future__ import annotations

import datetime as dt
import logging
import math
import time
from collections.abc import Sequence
from typing import cast

from flwr.serverapp import Grid
from torch import Tensor

from feat_fed.errors import FederationError
from feat_fed.protocol import Assignment, Task, Versions
from feat_fed.report.links import Link, Links
from feat_fed.report.records import RoundRecord
from feat_fed.report.run_store import RunStore
from feat_fed.train.rotation import rotate
from feat_fed.train.run_state import GlobalState, restore, save, summarise
from feat_fed.train.run_state import Standing as StandingTree
from feat_fed_server.asking import Asking
from feat_fed_server.audited_grid import AuditedGrid
from feat_fed_server.inbox import Arrived, Inbox, clear_inboxes
from feat_fed_server.intake import Intake
from feat_fed_server.outgoing import Outbox, last_taken
from feat_fed_server.question import Question
from feat_fed_server.replies import Reply
from feat_fed_server.roster import Roster
from feat_fed_server.run_audit import RunAudit
from feat_fed_server.sampling import draw
from feat_fed_server.site_desk import SiteDesk
from feat_fed_server.standing import Standing
from feat_fed_server.strategy import build_strategy
from feat_fed_server.tally import Tally

log = logging.getLogger(__name__)

_ASK_AGAIN_SEC = 30.0
_ASK_AGAIN_TIMES = 20
"""At most, of a site that declined, within the study's ``sites.wait_sec``."""

Weights = dict[str, Tensor]


class RoundLoop:
    """Run a study's rounds from wherever its run's folder says it stands.

    A round goes through four states on disk, and a kill costs none that was reached: updates in
    the inbox, the inbox closed, the round's files written, its manifest there.

    Parameters
    ----------
    grid
        Flower's connection to the sites; in a deployment or a simulation alike.
    roster
        Tells which node is which site.
    store
        The run's folder; after each round it holds everything that the next one needs.
    """

    def __init__(self, grid: Grid, roster: Roster, store: RunStore) -> None:
        self._roster = roster
        self._store = store
        self._study = store.study
        self._study_id = store.summary().study_id
        self._versions = Versions.installed()
        self._strategy = build_strategy(self._study.strategy)
        self._audit = RunAudit(store)
        audited = cast(Grid, AuditedGrid(grid, roster, self._audit))
        self._asking = Asking(audited, roster, store)
        self._links = Links.read(store.links)
        self._outbox = Outbox(store.outgoing, self._study.transfer)
        self._taken: dict[str, int] = {}

    def run(self) -> None:
        """Train until the study's last round, then score the final weights.

        Raises
        ------
        FederationError
            If too few sites come, or a round cannot be completed.
        """
        state = restore(self._store)
        self._tidy(state)  # what a kill after a round's end has left
        summarise(self._store, state, "running")
        done = (each for each in self._store.rounds() if each.round <= state.rounds_done)
        self._taken = last_taken(dict.fromkeys(self._roster.expected, 0), done)
        self._audit.began(after_round=state.rounds_done)
        log.info("starting from round %d of %d", state.rounds_done, self._study.rounds)
        while state.rounds_done < self._study.rounds:
            state = self._round(state)
            summarise(self._store, state, "running")
        final = self._score(state)
        summarise(self._store, state, "complete", final_heldout_loss=final)
        clear_inboxes(self._store.inbox(1).parent)
        self._audit.ended("complete")
        self._asking.tell("done", state.rounds_done)

    def _round(self, state: GlobalState) -> GlobalState:
        number = state.rounds_done + 1
        self._audit.round_started(number)
        inbox = self._inbox(number)
        closed = inbox.closed()
        if closed is None:
            closed = self._gather(number, state, inbox)
            inbox.close(*closed)
        record, standing = closed
        started = time.monotonic()
        self._asking.tell("aggregating", number)
        weights, optimiser = self._strategy.aggregate(number, inbox, state.weights, state.optimiser)
        new = state.after_round(
            weights,
            ema_decay=self._study.strategy.ema_decay,
            optimiser=optimiser,
            standing=standing,
        )
        seconds = record.seconds + time.monotonic() - started
        self._store.append(self._measured(record.model_copy(update={"seconds": seconds})))
        save(self._store, new)
        self._taken = last_taken(self._taken, [record])
        self._audit.round_done(record)
        before, now = (Standing.of_state(each.standing) for each in (state, new))
        for site in sorted({*now.quarantined()} - {*before.quarantined()}):
            self._audit.site("site-quarantined", site, code=now.of(site).offences[-1].code)
        self._tidy(new)
        return new

    def _tidy(self, state: GlobalState) -> None:
        """Remove what no way on needs.

        The last round's inbox stays: if its checkpoint is damaged, the same is aggregated again.
        """
        last, next_one = (self._store.inbox(state.rounds_done + each) for each in (0, 1))
        clear_inboxes(last.parent, keep=(last, next_one))
        rotate(self._store)

    def _measured(self, record: RoundRecord) -> RoundRecord:
        """Add what went over the wire since the last round."""
        links, before = Links.read(self._store.links), self._links.sites
        self._links = links
        news = {site: link.since(before.get(site, Link())) for site, link in links.sites.items()}
        sites = [each.model_copy(update={"link": news.get(each.site)}) for each in record.sites]
        return record.model_copy(update={"sites": tuple(sites)})

    def _inbox(self, number: int) -> Inbox:
        """Open the round's inbox, with nothing in it that another study or site has left."""
        inbox = Inbox(self._store.inbox(number))
        for each in inbox.arrived():
            ours = each.report.study_id == self._study_id
            if not ours or each.report.site not in self._roster.expected:
                inbox.discard(each.report.site)
        return inbox

    def _gather(
        self, number: int, state: GlobalState, inbox: Inbox
    ) -> tuple[RoundRecord, StandingTree]:
        """Ask until enough updates that are good among each other are in the inbox.

        A site that failed is asked again at once, a few times. One that declined for the time
        being is asked after a while, as long as the study waits for sites.
        """
        started_at, started = dt.datetime.now(dt.UTC), time.monotonic()
        sites, give_up_at = self._study.sites, math.inf
        tally = Tally(self._roster.expected, needed=sites.minimum)
        tally.add([_known(each, number) for each in inbox.arrived()])
        outgoing = self._outbox.prepare(state.weights, rounds_done=number - 1)
        desk = self._desk(state)
        intake = Intake(self._store, number, state.weights, inbox, desk.standing)
        question = Question(self._assignment("train", number), outgoing, desk, self._taken)
        while True:
            replies = self._asking.ask(
                question,
                needed=tally.still_needed,
                but=tally.settled,
                replied=tally.good,
                draw=lambda there: draw(
                    there,
                    per_round=sites.per_round,
                    seed=self._study.seed,
                    round_number=number,
                    done=tally.good,
                    tried=tally.tried,
                    still_needed=tally.still_needed,
                ),
                accept=intake.take,
                accept_late=intake.take_late,
            )
            tally.add(replies)
            intake.require_registered(tally, self._roster.expected)
            if not tally.still_needed:
                intake.compare(tally, self._strategy.weight_of)
            if not tally.still_needed:
                break
            log.warning("round %d has %s", number, tally.told())
            if tally.declined:
                give_up_at = min(give_up_at, time.time() + sites.wait_sec)
            if tally.hopeless or (not tally.failed and time.time() >= give_up_at):
                raise FederationError(f"round {number} had {tally.told()}")
            if tally.declined and not tally.failed:
                self._wait_for_declined(number, tally, give_up_at)
        tally.add_absent(self._asking.busy)
        record = RoundRecord(
            round=number,
            started_at=started_at.isoformat(timespec="seconds"),
            seconds=time.monotonic() - started,
            train_loss=_mean(tally.replies, "train_loss"),
            heldout_loss=_mean(tally.replies, "heldout_loss"),
            weights_bytes=sum(each.nbytes for each in state.weights.values()),
            sites=tally.records(self._study.training),
        )
        standing = desk.standing_now().after_round(
            number,
            [each.answer() for each in tally.replies],
            screening=self._study.screening,
        )
        return record, standing.model_dump(mode="json")

    def _desk(self, state: GlobalState) -> SiteDesk:
        moved = {
            each.site: (each.bytes_down, each.bytes_up)
            for record in self._store.rounds()[-1:]
            for each in record.sites
        }
        standing = Standing.of_state(state.standing)
        return SiteDesk(self._store.root, self._study.sites, standing, moved)

    def _wait_for_declined(self, number: int, tally: Tally, until: float) -> None:
        """Let some time go by before sites that declined are asked again."""
        self._asking.tell("waiting", number, tally.good, until, tally.declined)
        pause_sec = max(_ASK_AGAIN_SEC, self._study.sites.wait_sec / _ASK_AGAIN_TIMES)
        time.sleep(max(0.0, min(pause_sec, until - time.time())))

    def _score(self, state: GlobalState) -> float | None:
        """Ask for the held-out loss of the final weights; no answer is no failure."""
        assignment = self._assignment("evaluate", state.rounds_done)
        outgoing = self._outbox.prepare(state.weights, rounds_done=state.rounds_done)
        question = Question(assignment, outgoing, self._desk(state), self._taken)
        replies = self._asking.ask(question, needed=0)
        return _mean(replies, "heldout_loss")

    def _assignment(self, task: Task, number: int) -> Assignment:
        return Assignment(
            study_id=self._study_id,
            round=number,
            task=task,
            first_step=(number - 1) * self._study.training.local_steps,
            study=self._study,
            versions=self._versions,
        )


def _known(arrived: Arrived, number: int) -> Reply:
    """Return the reply of an update that was there when the server started."""
    report = arrived.report
    late = arrived.base_round if arrived.base_round != number else None
    return Reply(
        report.site,
        "ok",
        report=report,
        bytes_down=arrived.bytes_down,
        bytes_up=arrived.bytes_up,
        digest=arrived.digest,
        norm=arrived.norm,
        answer_sec=arrived.answer_sec,
        answered_at=arrived.answered_at,
        answers_round=late,
    )


def _mean(replies: Sequence[Reply], field: str) -> float | None:
    """Mean of a reported number over the sites that gave one, weighted by examples."""
    told = [each.report for each in replies if each.status == "ok" and each.report]
    pairs = [(each.examples, getattr(each, field)) for each in told]
    pairs = [(count, value) for count, value in pairs if value is not None]
    total = sum(count for count, _ in pairs)
    return sum(count * value for count, value in pairs) / total if total else None

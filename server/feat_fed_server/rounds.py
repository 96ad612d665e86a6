"""The round loop: ours, so that it can be resumed and no single reply can end it."""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Sequence
from contextlib import closing
from typing import cast

from flwr.serverapp import Grid
from torch import Tensor

from feat_fed.protocol import Assignment, Task, Versions
from feat_fed.report.links import Link, Links
from feat_fed.report.records import CentralSpending, RoundRecord
from feat_fed.report.round_manifest import Standing as StandingTree
from feat_fed.report.run_events import RunEvents
from feat_fed.report.run_store import RunStore
from feat_fed.train.rotation import rotate
from feat_fed.train.run_state import GlobalState, restore, save, summarise
from feat_fed_server.again import Again
from feat_fed_server.asking import Asking
from feat_fed_server.audited_grid import AuditedGrid
from feat_fed_server.central import CentralStrategy, PrivateRound, clipped_sum
from feat_fed_server.central_account import central_spending, require_budget
from feat_fed_server.inbox import ClosedNote, Inbox, clear_inboxes
from feat_fed_server.intake import Intake, known_reply
from feat_fed_server.outgoing import Outbox, last_taken
from feat_fed_server.question import Question
from feat_fed_server.replies import Reply
from feat_fed_server.roster import Roster
from feat_fed_server.run_audit import RunAudit
from feat_fed_server.sampling import draw
from feat_fed_server.secure_asking import SecureAsking
from feat_fed_server.secure_round import SecureRound
from feat_fed_server.secure_sum import secure_sum
from feat_fed_server.seeded_noise import new_seed
from feat_fed_server.site_desk import SiteDesk
from feat_fed_server.standing import Standing
from feat_fed_server.strategy import build_strategy
from feat_fed_server.tally import Tally

log = logging.getLogger(__name__)

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
        self._central = CentralStrategy.of(self._study, self._strategy)
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
        summarise(self._store, state, "running", central=self._spent())
        self._warn(state)
        done = (each for each in self._store.rounds() if each.round <= state.rounds_done)
        self._taken = last_taken(dict.fromkeys(self._roster.expected, 0), done)
        self._audit.began(after_round=state.rounds_done)
        log.info("starting from round %d of %d", state.rounds_done, self._study.rounds)
        with closing(RunEvents(self._store, first_round=state.rounds_done + 1)) as events:
            while state.rounds_done < self._study.rounds:
                state, record = self._round(state)
                summarise(self._store, state, "running", central=self._spent())
                events.round(record)
        final = self._score(state)
        summarise(self._store, state, "complete", final_heldout_loss=final, central=self._spent())
        clear_inboxes(self._store.inbox(1).parent)
        self._audit.ended("complete")
        self._asking.tell("done", state.rounds_done)

    def _round(self, state: GlobalState) -> tuple[GlobalState, RoundRecord]:
        number = state.rounds_done + 1
        self._audit.round_started(number)
        inbox = self._inbox(number)
        closed = inbox.closed()
        if closed is None:
            if (central := self._study.privacy.central) is not None:
                require_budget(self._store.records(), config=central)
            record, standing = self._gather(number, state, inbox)
            closed = inbox.close(record, standing, new_seed() if self._central else None)
        record, started = closed.record, time.monotonic()
        self._asking.tell("aggregating", number)
        weights, optimiser, private = self._aggregated(number, inbox, closed, state)
        new = state.after_round(
            weights,
            ema_decay=self._study.strategy.ema_decay,
            optimiser=optimiser,
            standing=closed.standing,
            clip_norm=private.clip_norm if private else None,
        )
        seconds = record.seconds + time.monotonic() - started
        noted = {"seconds": seconds, "central": private.record if private else None}
        written = self._measured(record.model_copy(update=noted))
        self._store.append(written)
        save(self._store, new)
        self._taken = last_taken(self._taken, [record])
        self._audit.round_done(record)
        before, now = (Standing.of_state(each.standing) for each in (state, new))
        for site in sorted({*now.quarantined()} - {*before.quarantined()}):
            self._audit.site("site-quarantined", site, code=now.of(site).offences[-1].code)
        self._tidy(new)
        return new, written

    def _aggregated(
        self, number: int, inbox: Inbox, closed: ClosedNote, state: GlobalState
    ) -> tuple[Weights, Weights, PrivateRound | None]:
        """Return the next weights, the server optimiser's state, and what was private of it."""
        before, clip_norm = state.weights, self._clip_norm(state)
        summed = None
        if self._study.privacy.secure_aggregation is not None:
            summed = secure_sum(inbox, self._study, before)
        if self._central is not None and clip_norm is not None:
            summed = summed or clipped_sum(inbox, before, clip_norm=clip_norm)
            seed = closed.noise_seed or new_seed()
            private = self._central.release(
                number, summed, before, state.optimiser, clip_norm=clip_norm, seed=seed
            )
            return private.weights, private.optimiser, private
        if summed is not None:
            means = summed.means(before)
            return *self._strategy.finish(number, means, before, state.optimiser), None
        return *self._strategy.aggregate(number, inbox, before, state.optimiser), None

    def _clip_norm(self, state: GlobalState) -> float | None:
        """Return the longest update in the next round; None where there is no bound."""
        return self._central.clip_norm(state.clip_norm) if self._central else None

    def _spent(self) -> CentralSpending | None:
        """Return what central privacy has spent so far, where the study has it."""
        central = self._study.privacy.central
        if central is None:
            return None
        return central_spending(self._store.records(), delta=central.delta)

    def _warn(self, state: GlobalState) -> None:
        """Say once what the coordinator should know before anybody trains for nothing."""
        expected = len(self._roster.expected)
        told = self._central and self._central.warning(state.weights, num_sites=expected)
        summary = self._store.summary()
        if told and told not in summary.warnings:
            log.warning("%s", told)
            warnings = (*summary.warnings, told)
            self._store.write_summary(summary.model_copy(update={"warnings": warnings}))

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
        """Ask until enough updates that are good among each other are in the inbox."""
        started_at, started = dt.datetime.now(dt.UTC), time.monotonic()
        tally = Tally(self._roster.expected, needed=self._study.sites.minimum)
        outgoing = self._outbox.prepare(state.weights, rounds_done=number - 1)
        desk = self._desk(state)
        assignment = self._assignment("train", number)
        assignment = assignment.model_copy(update={"clip_norm": self._clip_norm(state)})
        question = Question(assignment, outgoing, desk, self._taken)
        if (secure := self._study.privacy.secure_aggregation) is not None:
            secure_asking = SecureAsking(
                self._study, secure, question, self._asking, self._roster, inbox
            )
            SecureRound(secure_asking, audit=self._audit, tally=tally).gather()
        else:
            intake = Intake(self._store, number, state.weights, inbox, desk.standing)
            self._ask_until_enough(question, intake, tally)
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

    def _ask_until_enough(self, question: Question, intake: Intake, tally: Tally) -> None:
        number, sites = question.assignment.round, self._study.sites
        again = Again(self._asking, sites, number)
        tally.add([known_reply(each, number) for each in intake.inbox.arrived()])
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
                return
            again.wait(tally)

    def _desk(self, state: GlobalState) -> SiteDesk:
        moved = {
            each.site: (each.bytes_down, each.bytes_up)
            for record in self._store.rounds()[-1:]
            for each in record.sites
        }
        standing = Standing.of_state(state.standing)
        return SiteDesk(self._store.root, self._study.sites, standing, moved)

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


def _mean(replies: Sequence[Reply], field: str) -> float | None:
    """Mean of a reported number over the sites that gave one, weighted by examples."""
    told = [each.report for each in replies if each.status == "ok" and each.report]
    pairs = [(each.examples, getattr(each, field)) for each in told]
    pairs = [(count, value) for count, value in pairs if value is not None]
    total = sum(count for count, _ in pairs)
    return sum(count * value for count, value in pairs) / total if total else None

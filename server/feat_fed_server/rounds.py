"""The round loop: ours, so that it can be resumed and no single reply can end it."""

from __future__ import annotations

import datetime as dt
import logging
import math
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace

import httpx
from flwr.app import Message
from flwr.serverapp import Grid
from torch import Tensor

from feat_fed.errors import FederationError
from feat_fed.protocol import Assignment, Task, Versions
from feat_fed.report.live import StudyLive
from feat_fed.report.records import RoundRecord
from feat_fed.report.run_store import RunStore
from feat_fed.train.run_state import GlobalState, restore, save, summarise
from feat_fed_server.asked import Asked, activations, is_lost
from feat_fed_server.replies import Reply, missing, read_reply
from feat_fed_server.roster import Roster
from feat_fed_server.strategy import build_strategy
from feat_fed_server.tally import Tally

log = logging.getLogger(__name__)

_POLL_SEC = 0.25
_SLOWEST_POLL_SEC = 1.0
_ASK_AGAIN_SEC = 30.0
_ASK_AGAIN_TIMES = 20
"""At most, of a site that declined, within the study's ``sites.wait_sec``."""

Weights = dict[str, Tensor]


class RoundLoop:
    """Run a study's rounds from wherever its run's folder says it stands.

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
        self._grid = grid
        self._roster = roster
        self._store = store
        self._study = store.study
        self._study_id = store.summary().study_id
        self._versions = Versions.installed()
        self._strategy = build_strategy(self._study.strategy)
        self._connected: dict[str, int] = {}
        self._activated: dict[int, str] = {}

    def run(self) -> None:
        """Train until the study's last round, then score the final weights.

        Raises
        ------
        FederationError
            If too few sites come, or a round cannot be completed.
        """
        state = restore(self._store)
        summarise(self._store, state, "running")
        log.info("starting from round %d of %d", state.rounds_done, self._study.rounds)
        while state.rounds_done < self._study.rounds:
            state = self._round(state)
            summarise(self._store, state, "running")
        final = self._score(state)
        summarise(self._store, state, "complete", final_heldout_loss=final)
        self._tell("done", state.rounds_done)

    def _round(self, state: GlobalState) -> GlobalState:
        number = state.rounds_done + 1
        started_at, started = dt.datetime.now(dt.UTC), time.monotonic()
        tally = self._gather(number, state.weights)
        replies = tally.replies
        updates = [each.update for each in replies if each.update]
        self._tell("aggregating", number)
        weights = self._strategy.aggregate(number, updates, state.weights)
        new = state.after_round(weights, ema_decay=self._study.strategy.ema_decay)
        self._store.append(
            RoundRecord(
                round=number,
                started_at=started_at.isoformat(timespec="seconds"),
                seconds=time.monotonic() - started,
                train_loss=_mean(replies, "train_loss"),
                heldout_loss=_mean(replies, "heldout_loss"),
                sites=tally.records(self._study.training),
            )
        )
        save(self._store, new)
        return new

    def _gather(self, number: int, weights: Weights) -> Tally:
        """Ask until enough sites have answered well.

        A site that failed is asked again at once, a few times. One that declined for the time
        being is asked after a while, as long as the study waits for sites.
        """
        sites, give_up_at = self._study.sites, math.inf
        tally = Tally(self._roster.expected, needed=sites.minimum)
        while True:
            replies, bytes_down = self._ask(
                "train", number, weights, needed=tally.still_needed, but=tally.settled
            )
            tally.add(replies, bytes_down=bytes_down)
            if not tally.still_needed:
                return tally
            log.warning("round %d has %s", number, tally.told())
            if tally.declined:
                give_up_at = min(give_up_at, time.time() + sites.wait_sec)
            if tally.hopeless or (not tally.failed and time.time() >= give_up_at):
                raise FederationError(f"round {number} had {tally.told()}")
            if tally.declined and not tally.failed:
                self._wait_for_declined(number, tally, give_up_at)

    def _wait_for_declined(self, number: int, tally: Tally, until: float) -> None:
        """Let some time go by: whoever is asked again receives all weights again."""
        self._tell("waiting", number, tally.good, until, tally.declined)
        pause_sec = max(_ASK_AGAIN_SEC, self._study.sites.wait_sec / _ASK_AGAIN_TIMES)
        time.sleep(max(0.0, min(pause_sec, until - time.time())))

    def _score(self, state: GlobalState) -> float | None:
        """Ask for the held-out loss of the final weights; no answer is no failure."""
        replies, _ = self._ask("evaluate", state.rounds_done, state.weights, needed=0)
        return _mean(replies, "heldout_loss")

    def _ask(
        self,
        task: Task,
        number: int,
        weights: Weights,
        *,
        needed: int,
        but: Set[str] = frozenset(),
    ) -> tuple[list[Reply], int]:
        """Send a task to all sites but some; collect their replies until the deadline.

        The number is the bytes of weights of one sending.
        """
        self._wait_for_sites(number, needed, but)
        nodes = [node for site, node in self._connected.items() if site not in but]
        if not nodes:
            return [], 0
        assignment = Assignment(
            study_id=self._study_id,
            round=number,
            task=task,
            first_step=(number - 1) * self._study.training.local_steps,
            study=self._study,
            versions=self._versions,
        )
        messages, bytes_down = self._strategy.configure(assignment, weights, nodes)
        for message in messages:
            message.metadata.message_type = task
            message.metadata.ttl = self._study.sites.round_sec
        replies = self._collect(messages, assignment, weights)
        return sorted(replies, key=lambda each: each.site), bytes_down

    def _collect(
        self, messages: Sequence[Message], assignment: Assignment, schema: Mapping[str, Tensor]
    ) -> list[Reply]:
        """Send the messages, again where a site lost one, until all answered or time is up."""
        deadline = time.time() + self._study.sites.round_sec
        site_of = {node: site for site, node in self._connected.items()}
        waiting = [
            Asked(site_of[node], message, self._activated[node])
            for message in messages
            for node in [message.metadata.dst_node_id]
        ]
        for each, message_id in zip(waiting, self._grid.push_messages(messages), strict=True):
            each.sent(message_id)
        replies: list[Reply] = []
        phase = "training" if assignment.task == "train" else "scoring"
        while waiting and time.time() < deadline:
            self._tell(phase, assignment.round, [each.site for each in replies], deadline)
            for each in list(waiting):
                reply = self._answer(each, assignment, schema)
                if reply is not None:
                    waiting.remove(each)
                    replies.append(replace(reply, sendings=each.taken))
                    log.info("%s: %s %s", reply.site, reply.status, reply.reason)
                    self._tell(phase, assignment.round, [each.site for each in replies], deadline)
            self._send_again(waiting, deadline)
            time.sleep(_pause(deadline - self._study.sites.round_sec))
        silent = [replace(each.loss or missing(each.site), sendings=each.taken) for each in waiting]
        return replies + silent

    def _answer(
        self, asked: Asked, assignment: Assignment, schema: Mapping[str, Tensor]
    ) -> Reply | None:
        """Return a site's reply to any of the sendings, if it is there or none will come."""
        for message_id in list(asked.ids):
            reply = self._pull(message_id, asked, assignment, schema)
            if reply is not None:
                return reply
        return asked.loss if asked.given_up else None

    def _pull(
        self, message_id: str, asked: Asked, assignment: Assignment, schema: Mapping[str, Tensor]
    ) -> Reply | None:
        """Return a site's reply if it is there; one that Flower cannot read is refused."""
        site, node_id = asked.site, asked.message.metadata.dst_node_id
        try:
            messages = list(self._grid.pull_messages([message_id]))
        except httpx.HTTPError:
            raise  # our own SuperLink is gone
        except Exception as error:
            log.warning("%s: a reply that Flower cannot read: %s", site, type(error).__name__)
            return Reply(site, "refused", "a reply that is no message of Flower's")
        if not messages:
            return None
        reply = read_reply(
            messages[0], site, node_id, assignment=assignment, roster=self._roster, schema=schema
        )
        if is_lost(messages[0]):
            asked.note_loss(message_id, reply)
            return None
        return reply

    def _send_again(self, waiting: Sequence[Asked], deadline: float) -> None:
        """Send sites that are back what they had lost."""
        if not waiting:
            return
        self._connected, activated = self._look()  # for whoever watches, too
        for each in waiting:
            node_id = self._connected.get(each.site)
            if node_id is None:
                continue
            each.note_node(activated[node_id])
            if each.loss is None or each.given_up:
                continue
            log.warning("%s is asked again: %s", each.site, each.loss.reason)
            message = each.again(node_id, ttl_sec=max(1.0, deadline - time.time()))
            [message_id] = self._grid.push_messages([message])
            each.sent(message_id)

    def _look(self) -> tuple[dict[str, int], dict[int, str]]:
        """Return the connected sites' nodes, and when each node connected."""
        nodes = tuple(self._grid.get_nodes())
        return self._roster.online(nodes), activations(nodes)

    def _wait_for_sites(self, number: int, needed: int, but: Set[str]) -> None:
        """Wait for all sites but some a while, for as many as are needed of them longer."""
        sites = self._study.sites
        give_up_at, settled_at = time.time() + sites.wait_sec, None
        while True:
            self._connected, self._activated = self._look()
            wanted = [name for name in self._roster.expected if name not in but]
            absent = [name for name in wanted if name not in self._connected]
            # Counted, for nodes of a simulation have no name before they first report.
            here = len(self._connected.keys() - but)
            if here >= max(len(wanted), needed):  # more may be admitted while we wait
                return
            if here < needed:
                settled_at = None
                if time.time() > give_up_at:
                    raise FederationError(
                        f"{here} of the {needed} sites that the study needs came "
                        f"within {sites.wait_sec:.0f} s; missing: {', '.join(absent)}"
                    )
            else:
                settled_at = settled_at or time.time() + sites.settle_sec
                if time.time() >= settled_at:
                    return
            self._tell("waiting", number, (), settled_at or give_up_at)
            time.sleep(_POLL_SEC)

    def _tell(
        self,
        phase: str,
        number: int,
        replied: Sequence[str] = (),
        deadline: float | None = None,
        declined: Mapping[str, str] | None = None,
    ) -> None:
        StudyLive.model_validate(
            {
                "phase": phase,
                "round": number,
                "rounds": self._study.rounds,
                "connected": sorted(self._connected),
                "missing": [name for name in self._roster.expected if name not in self._connected],
                "replied": sorted(replied),
                "declined": declined or {},
                "deadline": deadline,
            }
        ).write(self._store.live)


def _pause(began_at: float) -> float:
    """Return a pause that grows with what the round has taken: short rounds stay quick."""
    return max(_POLL_SEC, min(_SLOWEST_POLL_SEC, (time.time() - began_at) / 20))


def _mean(replies: Sequence[Reply], field: str) -> float | None:
    """Mean of a reported number over the sites that gave one, weighted by examples."""
    told = [each.report for each in replies if each.status == "ok" and each.report]
    pairs = [(each.examples, getattr(each, field)) for each in told]
    pairs = [(count, value) for count, value in pairs if value is not None]
    total = sum(count for count, _ in pairs)
    return sum(count * value for count, value in pairs) / total if total else None

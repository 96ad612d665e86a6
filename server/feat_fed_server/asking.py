"""One question to the sites: who is there, what is sent, what comes back until the deadline."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import replace

import httpx
from flwr.app import Message
from flwr.serverapp import Grid
from torch import Tensor

from feat_fed.config import StudyConfig
from feat_fed.errors import FederationError, ProtocolError
from feat_fed.federate import pack
from feat_fed.protocol import Assignment
from feat_fed.report.live import StudyLive
from feat_fed.report.run_store import RunStore
from feat_fed.wire import to_records, with_header
from feat_fed_server.asked import Asked, activations, is_lost
from feat_fed_server.late_answers import LateAnswers
from feat_fed_server.replies import Reply, missing, read_reply
from feat_fed_server.roster import Roster
from feat_fed_server.site_desk import SiteDesk

log = logging.getLogger(__name__)

POLL_SEC = 0.25
_SLOWEST_POLL_SEC = 1.0

Accept = Callable[[Reply], Reply]
"""Takes a good reply in, weights and all; returns it without them, or refused."""
Draw = Callable[[Collection[str]], Collection[str]]
"""Chooses whom to ask among the sites that are there."""


class Asking:
    """Ask sites through Flower's grid; whatever they do, each has one :class:`Reply`.

    Parameters
    ----------
    grid
        Flower's connection to the sites; in a deployment or a simulation alike.
    roster
        Tells which node is which site.
    store
        Where the study's live state is written.
    """

    def __init__(self, grid: Grid, roster: Roster, store: RunStore) -> None:
        self._grid = grid
        self._roster = roster
        self._store = store
        self._study: StudyConfig = store.study
        self._connected: dict[str, int] = {}
        self._activated: dict[int, str] = {}
        self._late = LateAnswers()
        self._told = ""

    def ask(
        self,
        assignment: Assignment,
        weights: Mapping[str, Tensor],
        *,
        desk: SiteDesk,
        needed: int,
        but: Set[str] = frozenset(),
        replied: Collection[str] = (),
        draw: Draw = sorted,
        accept: Accept = lambda reply: reply,
        accept_late: Accept = lambda reply: reply,
    ) -> tuple[list[Reply], int]:
        """Send a task to the sites that are drawn; collect their replies until their time is up.

        Each reply is accepted, and its weights dropped from memory, before the next is read.

        Parameters
        ----------
        desk
            Says who may be asked, how long each has, and what it is told.
        needed
            Sites without which nothing is sent.
        but
            Sites that are not asked.
        replied
            Sites to show beside those that answer now.
        accept_late
            Takes in an answer to the round before that comes meanwhile.

        Returns
        -------
        list, int
            The replies by the sites' names, and the bytes of weights of one sending.

        Raises
        ------
        FederationError
            If too few sites come within the study's time.
        """
        self._wait_for_sites(assignment.round, needed, but, desk)
        there = self._connected.keys() - but - desk.kept_out().keys()
        # A busy site's SuperNode would only queue the message behind the older one.
        free = there - self._late.busy(assignment)
        chosen = draw(sorted(free if len(free) >= max(1, needed) else there))
        if not chosen:
            return [], 0
        asked, bytes_down = self._messages(assignment, weights, chosen, desk)
        replies = self._collect(asked, assignment, weights, desk, accept, accept_late, replied)
        return sorted(replies, key=lambda each: each.site), bytes_down

    @property
    def busy(self) -> dict[str, int]:
        """Sites that have an earlier round to answer, and which."""
        return self._late.rounds()

    def tell(
        self,
        phase: str,
        number: int,
        replied: Collection[str] = (),
        deadline: float | None = None,
        declined: Mapping[str, str] | None = None,
        kept_out: Mapping[str, str] | None = None,
    ) -> None:
        """Write where the study stands, for whoever watches."""
        StudyLive.model_validate(
            {
                "phase": phase,
                "round": number,
                "rounds": self._study.rounds,
                "connected": sorted(self._connected),
                "missing": [name for name in self._roster.expected if name not in self._connected],
                "replied": sorted(replied),
                "declined": declined or {},
                "kept_out": kept_out or {},
                "deadline": deadline,
            }
        ).write(self._store.live)

    def _collect(
        self,
        asked: Sequence[Asked],
        assignment: Assignment,
        schema: Mapping[str, Tensor],
        desk: SiteDesk,
        accept: Accept,
        accept_late: Accept,
        replied: Collection[str],
    ) -> list[Reply]:
        """Send the messages, again where a site lost one, until all answered or had their time.

        As long as anybody is waited for, those who have had theirs may answer, too.
        """
        began_at = time.time()
        waiting = self._send(asked, desk)
        deadline = max((each.until for each in waiting), default=began_at)
        replies: list[Reply] = []
        phase = "training" if assignment.task == "train" else "scoring"

        def tell() -> None:
            sites = {*replied, *(each.site for each in replies)}
            self.tell(phase, assignment.round, sites, deadline)

        while any(time.time() < each.until for each in waiting):
            tell()
            for each in list(waiting):
                reply = self._answer(each, schema, accept)
                if reply is not None:
                    waiting.remove(each)
                    replies.append(replace(reply, sendings=each.taken))
                    log.info("%s: %s %s", reply.site, reply.status, reply.reason)
                    tell()
            replies += self._answers_that_are_late(assignment, schema, accept_late)
            self._send_again(waiting, desk)
            time.sleep(_pause(began_at))
        self._late.keep(waiting)
        silent = [replace(each.loss or missing(each.site), sendings=each.taken) for each in waiting]
        answered = {each.site for each in replies}  # late, for an earlier round
        return replies + [each for each in silent if each.site not in answered]

    def _messages(
        self,
        assignment: Assignment,
        weights: Mapping[str, Tensor],
        sites: Collection[str],
        desk: SiteDesk,
    ) -> tuple[list[Asked], int]:
        """Make one message a site, and return them with the bytes of weights in each."""
        buckets = pack(weights)
        content = to_records(assignment, buckets)
        asked = []
        for site in sites:
            if (before := self._late.again(site, assignment)) is not None:
                before.taken = 0  # counted before
                asked.append(before)  # it is still at this very question
                continue
            personal = desk.personal(assignment, site)
            message = Message(
                with_header(content, personal),
                dst_node_id=self._connected[site],
                message_type=assignment.task,
                group_id=str(assignment.round),
            )
            activated_at = self._activated[self._connected[site]]
            asked.append(Asked(site, message, activated_at, personal))
        return asked, sum(len(bucket) for bucket in buckets)

    def _send(self, asked: Sequence[Asked], desk: SiteDesk) -> list[Asked]:
        waits = {each.site: desk.wait_sec(each.site) for each in asked}
        new = [each for each in asked if not each.sendings]
        for each in asked:
            each.until = time.time() + waits[each.site]
        for each in new:
            each.message.metadata.ttl = desk.message_lives_sec(waits)
        ids = self._grid.push_messages([each.message for each in new]) if new else ()
        for each, message_id in zip(new, ids, strict=True):
            each.sent(message_id)
        return list(asked)

    def _answers_that_are_late(
        self, assignment: Assignment, schema: Mapping[str, Tensor], accept: Accept
    ) -> list[Reply]:
        """Return what has come for earlier rounds meanwhile."""
        found = []
        for each in self._late.of_other_rounds(assignment):
            reply = self._answer(each, schema, accept)
            if reply is not None or not each.is_out:
                self._late.forget(each)
            if reply is not None and reply.status in ("ok", "late", "refused"):
                log.info("%s: %s %s", reply.site, reply.status, reply.reason)
                found.append(replace(reply, sendings=0))
        return found

    def _answer(self, asked: Asked, schema: Mapping[str, Tensor], accept: Accept) -> Reply | None:
        """Return a site's reply to any of the sendings, if it is there or none will come."""
        for message_id in list(asked.ids):
            reply = self._pull(message_id, asked, schema)
            if reply is not None:
                now = time.time()
                return accept(replace(reply, answer_sec=now - asked.asked_at, answered_at=now))
        return asked.loss if asked.given_up else None

    def _pull(self, message_id: str, asked: Asked, schema: Mapping[str, Tensor]) -> Reply | None:
        """Return a site's reply if it is there; one that Flower cannot read is refused."""
        site, node_id = asked.site, asked.message.metadata.dst_node_id
        try:
            messages = list(self._grid.pull_messages([message_id]))
        except httpx.HTTPError:
            raise  # our own SuperLink is gone
        except Exception as broken:
            log.warning("%s: a reply that Flower cannot read: %s", site, type(broken).__name__)
            error = ProtocolError("a reply that is no message of Flower's")
            return Reply(site, "refused").refused(error)
        if not messages:
            return None
        reply = read_reply(
            messages[0],
            site,
            node_id,
            assignment=asked.assignment,
            roster=self._roster,
            schema=schema,
        )
        if is_lost(messages[0]):
            asked.note_loss(message_id, reply)
            return None
        return reply

    def _send_again(self, waiting: Sequence[Asked], desk: SiteDesk) -> None:
        """Send sites that are back what they had lost."""
        if not waiting:
            return
        self._connected, activated = self._look()  # for whoever watches, too
        self._late.note_nodes(self._connected, activated)
        for each in waiting:
            node_id = self._connected.get(each.site)
            if node_id is None:
                continue
            each.note_node(activated[node_id])
            if each.loss is None or each.given_up:
                continue
            log.warning("%s is asked again: %s", each.site, each.loss.reason)
            lives_sec = desk.message_lives_sec({each.site: max(1.0, each.until - time.time())})
            message = each.again(node_id, ttl_sec=lives_sec)
            [message_id] = self._grid.push_messages([message])
            each.sent(message_id)

    def _look(self) -> tuple[dict[str, int], dict[int, str]]:
        """Return the connected sites' nodes, and when each node connected."""
        nodes = tuple(self._grid.get_nodes())
        return self._roster.online(nodes), activations(nodes)

    def _wait_for_sites(self, number: int, needed: int, but: Set[str], desk: SiteDesk) -> None:
        """Wait for all sites but some a while, for as many as are needed of them longer.

        Where those who are kept out would be enough, it is the coordinator who is waited for.
        """
        sites = self._study.sites
        give_up_at, settled_at = time.time() + sites.wait_sec, None
        while True:
            self._connected, self._activated = self._look()
            self._late.note_nodes(self._connected, self._activated)
            kept_out = {site: why for site, why in desk.kept_out().items() if site not in but}
            wanted = [each for each in self._roster.expected if each not in but | kept_out.keys()]
            absent = [name for name in wanted if name not in self._connected]
            # Counted, for nodes of a simulation have no name before they first report.
            here = len(self._connected.keys() - but - kept_out.keys())
            if here >= needed and here >= len(wanted):
                return
            if here < needed:
                settled_at = None
                if here + len(kept_out.keys() & self._connected.keys()) >= needed:
                    give_up_at = time.time() + sites.wait_sec
                    self._tell_kept_out(number, kept_out)
                    continue
                if time.time() > give_up_at:
                    out = "".join(f"; {site} is {why}" for site, why in sorted(kept_out.items()))
                    raise FederationError(
                        f"{here} of the {needed} sites that the study needs came "
                        f"within {sites.wait_sec:.0f} s; missing: {', '.join(absent)}{out}"
                    )
            else:
                settled_at = settled_at or time.time() + sites.settle_sec
                if time.time() >= settled_at:
                    return
            self.tell("waiting", number, (), settled_at or give_up_at)
            time.sleep(POLL_SEC)

    def _tell_kept_out(self, number: int, kept_out: Mapping[str, str]) -> None:
        told = "; ".join(f"{site} is {why}" for site, why in sorted(kept_out.items()))
        if told != self._told:
            log.warning("round %d waits for the coordinator: %s", number, told)
            self._told = told
        self.tell("waiting", number, kept_out=kept_out)
        time.sleep(POLL_SEC)


def _pause(began_at: float) -> float:
    """Return a pause that grows with what the round has taken: short rounds stay quick."""
    return max(POLL_SEC, min(_SLOWEST_POLL_SEC, (time.time() - began_at) / 20))

"""One question to the sites: who is there, what is sent, what comes back until the deadline."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

import httpx
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from feat_fed.config import StudyConfig
from feat_fed.errors import FederationError
from feat_fed.protocol import Assignment
from feat_fed.report.live import StudyLive
from feat_fed.report.run_store import RunStore
from feat_fed_server.asked import MOST_LACKS, Asked, activations, is_lost
from feat_fed_server.outgoing import Outgoing, Parcel
from feat_fed_server.replies import Reply, missing, read_reply
from feat_fed_server.roster import Roster

log = logging.getLogger(__name__)

POLL_SEC = 0.25
_SLOWEST_POLL_SEC = 1.0

Accept = Callable[[Reply], Reply]
"""Takes a good reply in, weights and all; returns it without them, or refused."""


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

    def ask(
        self,
        assignment: Assignment,
        outgoing: Outgoing,
        *,
        taken: Mapping[str, int],
        needed: int,
        but: Set[str] = frozenset(),
        replied: Collection[str] = (),
        accept: Accept = lambda reply: reply,
    ) -> list[Reply]:
        """Send a task to all sites but some; collect their replies until the deadline.

        Each reply is accepted, and its weights dropped from memory, before the next is read.

        Parameters
        ----------
        taken
            The last round whose update was used, of each site that is known.
        needed
            Sites without which nothing is sent.
        replied
            Sites to show beside those that answer now.

        Returns
        -------
        list
            The replies, by the sites' names.

        Raises
        ------
        FederationError
            If too few sites come within the study's time.
        """
        self._wait_for_sites(assignment.round, needed, but)
        nodes = [node for site, node in self._connected.items() if site not in but]
        if not nodes:
            return []
        question = _Question(assignment, outgoing, taken)
        replies = self._collect(nodes, question, accept, replied)
        return sorted(replies, key=lambda each: each.site)

    def tell(
        self,
        phase: str,
        number: int,
        replied: Collection[str] = (),
        deadline: float | None = None,
        declined: Mapping[str, str] | None = None,
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
                "deadline": deadline,
            }
        ).write(self._store.live)

    def _collect(
        self,
        nodes: Sequence[int],
        question: _Question,
        accept: Accept,
        replied: Collection[str],
    ) -> list[Reply]:
        """Send the messages, again where a site lost one, until all answered or time is up."""
        assignment, round_sec = question.assignment, self._study.sites.round_sec
        deadline = time.time() + round_sec
        waiting = self._send(nodes, question, round_sec)
        replies: list[Reply] = []
        phase = "training" if assignment.task == "train" else "scoring"

        def tell() -> None:
            sites = {*replied, *(each.site for each in replies)}
            self.tell(phase, assignment.round, sites, deadline)

        while waiting and time.time() < deadline:
            tell()
            for each in list(waiting):
                reply = self._answer(each, question, accept) or self._taken_out(each)
                if reply is not None:
                    waiting.remove(each)
                    replies.append(reply)
                    log.info("%s: %s %s", reply.site, reply.status, reply.reason)
                    tell()
            self._send_again(waiting, question, deadline)
            time.sleep(_pause(deadline - round_sec))
        silent = [
            replace(each.loss or missing(each.site), bytes_down=each.bytes_down) for each in waiting
        ]
        return replies + silent

    def _send(self, nodes: Sequence[int], question: _Question, ttl_sec: float) -> list[Asked]:
        site_of = {node: site for site, node in self._connected.items()}
        asked, parcels = [], []
        for node in nodes:
            content, parcel = question.content(site_of[node])
            told = question.assignment
            message = Message(
                content,
                dst_node_id=node,
                message_type=told.task,
                group_id=str(told.round),
                ttl=ttl_sec,
            )
            asked.append(Asked(site_of[node], message, self._activated[node]))
            parcels.append(parcel)
        ids = self._grid.push_messages([each.message for each in asked])
        for each, message_id, parcel in zip(asked, ids, parcels, strict=True):
            each.sent(message_id, parcel)
        question.note_sent(each.site for each in asked if each.ids)
        return asked

    def _answer(self, asked: Asked, question: _Question, accept: Accept) -> Reply | None:
        """Return a site's reply to any of the sendings, if it is there or none will come."""
        for message_id in list(asked.ids):
            reply = self._pull(message_id, asked, question)
            if reply is not None:
                return accept(replace(reply, bytes_down=asked.bytes_down))
        if asked.loss is not None and asked.given_up:
            return replace(asked.loss, bytes_down=asked.bytes_down)
        return None

    def _taken_out(self, asked: Asked) -> Reply | None:
        """Return the reply of a site whose key was taken out since: none will come."""
        if self._roster.has(asked.message.metadata.dst_node_id):
            return None
        told = "its key was taken out in the middle of the round"
        return Reply(asked.site, "refused", told, bytes_down=asked.bytes_down)

    def _pull(self, message_id: str, asked: Asked, question: _Question) -> Reply | None:
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
            messages[0],
            site,
            node_id,
            assignment=question.assignment,
            roster=self._roster,
            outgoing=question.outgoing,
        )
        if is_lost(messages[0]):
            asked.note_loss(message_id, reply)
            return None
        question.note_reply(reply)
        if reply.lacks_base and asked.lacks < MOST_LACKS:
            asked.note_lack(message_id, reply)
            return None
        return reply

    def _send_again(self, waiting: Sequence[Asked], question: _Question, deadline: float) -> None:
        """Send sites that are back what they had lost, and others what they lack."""
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
            content, parcel = question.content(each.site, lacks=each.lacks)
            message = each.again(content, node_id, ttl_sec=max(1.0, deadline - time.time()))
            [message_id] = self._grid.push_messages([message])
            each.sent(message_id, parcel)
            question.note_sent([each.site] if message_id else [])

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
                if len(self._roster.expected) < needed:  # people have to approve some first
                    give_up_at = time.time() + sites.wait_sec
                if time.time() > give_up_at:
                    raise FederationError(
                        f"{here} of the {needed} sites that the study needs came "
                        f"within {sites.wait_sec:.0f} s; missing: {', '.join(absent)}"
                    )
            else:
                settled_at = settled_at or time.time() + sites.settle_sec
                if time.time() >= settled_at:
                    return
            self.tell("waiting", number, (), settled_at or give_up_at)
            time.sleep(POLL_SEC)


@dataclass(frozen=True)
class _Question:
    """What all sites are asked, and how each of them is."""

    assignment: Assignment
    outgoing: Outgoing
    taken: Mapping[str, int]

    def content(self, site: str, *, lacks: int = 0) -> tuple[RecordDict, Parcel]:
        """Return a message's content for a site, and the weights in it."""
        parcel = self.outgoing.parcel(site, lacks=lacks)
        taken = self.taken.get(site)
        return self.outgoing.content(self.assignment, parcel, taken=taken), parcel

    def note_sent(self, sites: Iterable[str]) -> None:
        """Take it that these sites have the weights from now on."""
        self.outgoing.outbox.note(dict.fromkeys(sites, self.outgoing.digest))

    def note_reply(self, reply: Reply) -> None:
        """Believe a site that says which weights it has."""
        if reply.report is not None:
            self.outgoing.outbox.note({reply.site: reply.report.holds})


def _pause(began_at: float) -> float:
    """Return a pause that grows with what the round has taken: short rounds stay quick."""
    return max(POLL_SEC, min(_SLOWEST_POLL_SEC, (time.time() - began_at) / 20))

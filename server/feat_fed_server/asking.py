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
from feat_fed.errors import FederationError
from feat_fed.federate import pack
from feat_fed.protocol import Assignment
from feat_fed.report.live import StudyLive
from feat_fed.report.run_store import RunStore
from feat_fed.wire import to_records
from feat_fed_server.asked import Asked, activations, is_lost
from feat_fed_server.replies import Reply, missing, read_reply
from feat_fed_server.roster import Roster

log = logging.getLogger(__name__)

POLL_SEC = 0.1
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
        weights: Mapping[str, Tensor],
        *,
        needed: int,
        but: Set[str] = frozenset(),
        replied: Collection[str] = (),
        accept: Accept = lambda reply: reply,
    ) -> tuple[list[Reply], int]:
        """Send a task to all sites but some; collect their replies until the deadline.

        Each reply is accepted, and its weights dropped from memory, before the next is read.

        Parameters
        ----------
        needed
            Sites without which nothing is sent.
        replied
            Sites to show beside those that answer now.

        Returns
        -------
        list, int
            The replies by the sites' names, and the bytes of weights of one sending.

        Raises
        ------
        FederationError
            If too few sites come within the study's time.
        """
        self._wait_for_sites(assignment.round, needed, but)
        nodes = [node for site, node in self._connected.items() if site not in but]
        if not nodes:
            return [], 0
        messages, bytes_down = _messages(assignment, weights, nodes)
        replies = self._collect(messages, assignment, weights, accept, replied)
        return sorted(replies, key=lambda each: each.site), bytes_down

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
        messages: Sequence[Message],
        assignment: Assignment,
        schema: Mapping[str, Tensor],
        accept: Accept,
        replied: Collection[str],
    ) -> list[Reply]:
        """Send the messages, again where a site lost one, until all answered or time is up."""
        round_sec = self._study.sites.round_sec
        deadline = time.time() + round_sec
        waiting = self._send(messages, round_sec)
        replies: list[Reply] = []
        phase = "training" if assignment.task == "train" else "scoring"

        def tell() -> None:
            sites = {*replied, *(each.site for each in replies)}
            self.tell(phase, assignment.round, sites, deadline)

        while waiting and time.time() < deadline:
            tell()
            for each in list(waiting):
                reply = self._answer(each, assignment, schema, accept) or self._taken_out(each)
                if reply is not None:
                    waiting.remove(each)
                    replies.append(replace(reply, sendings=each.taken))
                    log.info("%s: %s %s", reply.site, reply.status, reply.reason)
                    tell()
            self._send_again(waiting, deadline)
            time.sleep(_pause(deadline - round_sec))
        silent = [replace(each.loss or missing(each.site), sendings=each.taken) for each in waiting]
        return replies + silent

    def _send(self, messages: Sequence[Message], ttl_sec: float) -> list[Asked]:
        site_of = {node: site for site, node in self._connected.items()}
        asked = []
        for message in messages:
            message.metadata.ttl = ttl_sec
            node = message.metadata.dst_node_id
            asked.append(Asked(site_of[node], message, self._activated[node]))
        for each, message_id in zip(asked, self._grid.push_messages(messages), strict=True):
            each.sent(message_id)
        return asked

    def _answer(
        self, asked: Asked, assignment: Assignment, schema: Mapping[str, Tensor], accept: Accept
    ) -> Reply | None:
        """Return a site's reply to any of the sendings, if it is there or none will come."""
        for message_id in list(asked.ids):
            reply = self._pull(message_id, asked, assignment, schema)
            if reply is not None:
                return accept(reply)
        return asked.loss if asked.given_up else None

    def _taken_out(self, asked: Asked) -> Reply | None:
        """Return the reply of a site whose key was taken out since: none will come."""
        if self._roster.has(asked.message.metadata.dst_node_id):
            return None
        return Reply(asked.site, "refused", "its key was taken out in the middle of the round")

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


def _messages(
    assignment: Assignment, weights: Mapping[str, Tensor], nodes: Sequence[int]
) -> tuple[list[Message], int]:
    """Make one message a node, and return them with the bytes of weights in each."""
    buckets = pack(weights)
    content = to_records(assignment, buckets)
    messages = [
        Message(
            content,
            dst_node_id=node,
            message_type=assignment.task,
            group_id=str(assignment.round),
        )
        for node in nodes
    ]
    return messages, sum(len(bucket) for bucket in buckets)


def _pause(began_at: float) -> float:
    """Return a pause that grows with what the round has taken: short rounds stay quick."""
    return max(POLL_SEC, min(_SLOWEST_POLL_SEC, (time.time() - began_at) / 20))

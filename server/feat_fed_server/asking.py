"""One question to the sites: who is there, what is sent, what comes back until the deadline."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import zip_longest

import httpx
from flwr.app import Message
from flwr.serverapp import Grid
from torch import Tensor

from feat_fed.config import StudyConfig
from feat_fed.errors import FeatFedError, FederationError, ProtocolError
from feat_fed.protocol import Task
from feat_fed.report.live import StudyLive
from feat_fed.report.run_store import RunStore
from feat_fed.wire import message_type
from feat_fed_server.asked import MOST_LACKS, Asked, activations, is_lost
from feat_fed_server.late_answers import LateAnswers
from feat_fed_server.outgoing import Parcel
from feat_fed_server.question import Question
from feat_fed_server.replies import TAKEN_OUT, Reply, missing, read_reply
from feat_fed_server.roster import Roster

log = logging.getLogger(__name__)

POLL_SEC = 0.1
_SLOWEST_POLL_SEC = 1.0

_PHASES: dict[Task, str] = {
    "train": "training",
    "evaluate": "scoring",
    "keys": "agreeing",
    "shares": "agreeing",
    "unmask": "unmasking",
    "memorisation": "comparing",
}

Accept = Callable[[Reply], Reply]
"""Takes a good reply in, weights and all; returns it without them, or refused."""
AcceptLate = Callable[[Reply, Mapping[str, Tensor] | None], Reply]
"""The same with an answer to an earlier round, and the weights that the round began with."""
Draw = Callable[[Collection[str]], Collection[str]]
"""Chooses whom to ask among the sites that are there."""


def too_late(reply: Reply, base: Mapping[str, Tensor] | None) -> Reply:
    """Let go of an answer to an earlier round, which is no answer to what is asked now."""
    if reply.status != "ok":
        return reply
    return replace(reply, status="late", reason="it came too late", weights=None)


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
        question: Question,
        *,
        needed: int,
        but: Set[str] = frozenset(),
        replied: Collection[str] = (),
        draw: Draw = sorted,
        accept: Accept = lambda reply: reply,
        accept_late: AcceptLate = too_late,
        free_only: bool = True,
    ) -> list[Reply]:
        """Ask the sites that are drawn; collect their replies until their time is up.

        Each reply is accepted, and its weights dropped from memory, before the next but one comes.

        Parameters
        ----------
        needed
            Sites without which nothing is sent.
        but
            Sites that are not asked.
        replied
            Sites to show beside those that answer now.
        free_only
            Where enough others are there, none is asked that may be at an older question.

        Returns
        -------
        list
            The replies, by the sites' names.

        Raises
        ------
        FederationError
            If too few sites come within the study's time.
        """
        self._wait_for_sites(question, needed, but)
        there = self._connected.keys() - but - question.desk.kept_out().keys()
        # A busy site's SuperNode would only queue the message behind the older one.
        free = there - self._late.busy(question)
        enough = free_only and len(free) >= max(1, needed)
        chosen = draw(sorted(free if enough else there))
        if not chosen:
            return []
        replies = self._collect(question, chosen, accept, accept_late, replied)
        return sorted(replies, key=lambda each: each.site)

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
        question: Question,
        sites: Collection[str],
        accept: Accept,
        accept_late: AcceptLate,
        replied: Collection[str],
    ) -> list[Reply]:
        """Send the messages, again where a site lost one, until all answered or had their time.

        As long as anybody is waited for, those who have had theirs may answer, too.
        """
        began_at = time.time()
        waiting = self._send(question, sites)
        deadline = max(each.until for each in waiting)
        replies: list[Reply] = []
        phase = _PHASES[question.assignment.task]

        def tell() -> None:
            answered = {*replied, *(each.site for each in replies)}
            self.tell(phase, question.assignment.round, answered, deadline)

        while any(time.time() < each.until for each in waiting):
            tell()
            for each, answer in self._answers(tuple(waiting)):
                reply = accept(answer) if answer else self._taken_out(each)
                if reply is not None:
                    waiting.remove(each)
                    replies.append(reply)
                    log.info("%s: %s %s", reply.site, reply.status, reply.reason)
                    tell()
            replies += self._late_ones(question, accept_late)
            self._send_again(question, waiting)
            time.sleep(_pause(began_at))
        self._late.keep(waiting, of_use=self._study.sites.late_replies == "next-round")
        silent = [
            replace(each.loss or missing(each.site), bytes_down=each.bytes_down) for each in waiting
        ]
        answered = {each.site for each in replies}  # for an earlier round
        return replies + [each for each in silent if each.site not in answered]

    def _send(self, question: Question, sites: Collection[str]) -> list[Asked]:
        asked, parcels = list[Asked](), list[Parcel]()
        waits = {site: question.wait_sec(site) for site in sites}
        going_on = list[Asked]()
        for site, wait_sec in waits.items():
            if (before := self._late.again(site, question)) is not None:
                before.until = time.time() + wait_sec
                going_on.append(before)
                continue
            content, parcel = question.content(site, within_sec=wait_sec)
            node = self._connected[site]
            message = Message(
                content,
                dst_node_id=node,
                message_type=message_type(question.assignment.task),
                group_id=str(question.assignment.round),
                ttl=question.desk.message_lives_sec(waits),
            )
            asked.append(Asked(site, message, self._activated[node], question))
            parcels.append(parcel)
        ids = self._grid.push_messages([each.message for each in asked]) if asked else ()
        for each, message_id, parcel in zip(asked, ids, parcels, strict=True):
            each.until = time.time() + waits[each.site]
            each.sent(message_id, parcel)
        question.note_sent(each.site for each in asked if each.ids)
        return going_on + asked

    def _late_ones(self, question: Question, accept: AcceptLate) -> list[Reply]:
        """Return what has come meanwhile for earlier rounds."""
        found = []
        for each in self._late.of_others(question):
            outgoing = each.question.outgoing
            base = outgoing.weights if outgoing else None
            answer = self._answer(each)
            reply = accept(answer, base) if answer else None
            if reply is not None or not each.is_out:
                self._late.forget(each)
            if reply is not None and reply.status in ("ok", "late", "refused"):
                log.info("%s: %s %s", reply.site, reply.status, reply.reason)
                found.append(replace(reply, bytes_down=0))
        return found

    def _answers(self, waiting: Sequence[Asked]) -> Iterator[tuple[Asked, Reply | None]]:
        """Yield each site with its answer, if it is there; while it is taken in, the next comes."""
        with ThreadPoolExecutor(max_workers=1) as ahead:
            coming = deque(ahead.submit(self._answer, each) for each in waiting[:1])
            for each, following in zip_longest(waiting, waiting[1:]):
                answer = coming.popleft().result()
                if following is not None:
                    coming.append(ahead.submit(self._answer, following))
                yield each, answer

    def _answer(self, asked: Asked) -> Reply | None:
        """Return a site's reply to any of the sendings, if it is there or none will come."""
        for message_id in list(asked.ids):
            reply = self._pull(message_id, asked)
            if reply is not None:
                now = time.time()
                timed = replace(reply, answer_sec=now - asked.asked_at, answered_at=now)
                return replace(timed, bytes_down=asked.bytes_down)
        if asked.loss is not None and asked.given_up:
            return replace(asked.loss, bytes_down=asked.bytes_down)
        return None

    def _taken_out(self, asked: Asked) -> Reply | None:
        """Return the reply of a site whose key was taken out since: none will come."""
        if self._roster.has(asked.message.metadata.dst_node_id):
            return None
        return Reply(asked.site, "refused", TAKEN_OUT, bytes_down=asked.bytes_down)

    def _pull(self, message_id: str, asked: Asked) -> Reply | None:
        """Return a site's reply if it is there; one that Flower cannot read is refused."""
        site, node_id = asked.site, asked.message.metadata.dst_node_id
        try:
            messages = list(self._grid.pull_messages([message_id]))
        except (httpx.HTTPError, FeatFedError):
            raise  # our own SuperLink is gone, or our audit log: nothing that the site did
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
            assignment=asked.question.assignment,
            roster=self._roster,
            outgoing=asked.question.outgoing,
        )
        if is_lost(messages[0]):
            asked.note_loss(message_id, reply)
            return None
        asked.question.note_reply(reply)
        if reply.lacks_base and asked.lacks < MOST_LACKS:
            asked.note_lack(message_id, reply)
            return None
        return reply

    def _send_again(self, question: Question, waiting: Sequence[Asked]) -> None:
        """Send sites that are back what they had lost, and others what they lack."""
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
            left_sec = max(1.0, each.until - time.time())
            content, parcel = question.content(each.site, within_sec=left_sec, lacks=each.lacks)
            lives_sec = question.desk.message_lives_sec({each.site: left_sec})
            message = each.again(content, node_id, ttl_sec=lives_sec)
            [message_id] = self._grid.push_messages([message])
            each.sent(message_id, parcel)
            question.note_sent([each.site] if message_id else [])

    def _look(self) -> tuple[dict[str, int], dict[int, str]]:
        """Return the connected sites' nodes, and when each node connected."""
        nodes = tuple(self._grid.get_nodes())
        return self._roster.online(nodes), activations(nodes)

    def _wait_for_sites(self, question: Question, needed: int, but: Set[str]) -> None:
        """Wait for all sites but some a while, for as many as are needed of them longer.

        Where those who are kept out would be enough, it is the coordinator who is waited for.
        """
        sites, number = self._study.sites, question.assignment.round
        give_up_at, settled_at = time.time() + sites.wait_sec, None
        while True:
            self._connected, self._activated = self._look()
            self._late.note_nodes(self._connected, self._activated)
            kept_out = {
                site: why for site, why in question.desk.kept_out().items() if site not in but
            }
            wanted = [each for each in self._roster.expected if each not in but | kept_out.keys()]
            absent = [name for name in wanted if name not in self._connected]
            here = len(self._connected.keys() - but - kept_out.keys())
            if here >= max(len(wanted), needed):  # more may be admitted while we wait
                return
            if here < needed:
                settled_at = None
                if len(self._roster.expected) < needed:  # people have to approve some first
                    give_up_at = time.time() + sites.wait_sec
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

"""The questions of a round with secure aggregation, and how what answers them is taken in."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from feat_fed.config import StudyConfig
from feat_fed.config.privacy import SecureAggregationConfig
from feat_fed.errors import ProtocolError
from feat_fed.protocol import Assignment, Task
from feat_fed_server.asking import Asking, Draw
from feat_fed_server.inbox import Arrived, Inbox
from feat_fed_server.question import Question
from feat_fed_server.replies import Reply
from feat_fed_server.roster import Roster

log = logging.getLogger(__name__)

Take = Callable[[Reply], None]
"""Takes what a good reply encloses; raises ProtocolError where it is not in order."""


@dataclass(frozen=True)
class SecureAsking:
    """Of one round.

    Parameters
    ----------
    training
        The round's training, as it would be asked for without masks.
    inbox
        Gets masked updates.
    """

    study: StudyConfig
    config: SecureAggregationConfig
    training: Question
    asking: Asking
    roster: Roster
    inbox: Inbox

    @property
    def number(self) -> int:
        """The round's."""
        return self.training.assignment.round

    def ask(
        self,
        task: Task,
        attempt: int,
        *,
        take: Take,
        draw: Draw,
        but: Collection[str],
        needed: int,
        told: Mapping[str, str] | None = None,
        free_only: bool = True,
    ) -> list[Reply]:
        """Ask sites for a short stage; return the replies, refused where they are not taken.

        The parameters are those of :meth:`Asking.ask`, and ``told``, what each site is told.
        """

        def accept(reply: Reply) -> Reply:
            if reply.status != "ok":
                return reply
            try:
                take(reply)
            except ProtocolError as error:
                log.warning("%s: refused: %s", reply.site, error)
                return reply.refused(error)
            return reply

        question = Question(
            self._assignment(task, attempt),
            None,
            self.training.desk,
            self.training.taken,
            told or {},
            min(self.config.stage_sec, self.study.sites.round_sec),
        )
        return self.asking.ask(
            question,
            needed=needed,
            but=frozenset(but),
            draw=draw,
            accept=accept,
            free_only=free_only,
        )

    def ask_those(
        self, task: Task, attempt: int, told: Mapping[str, str], *, take: Take, needed: int = 0
    ) -> list[Reply]:
        """Ask the sites that are told something, and no other.

        They have answered the stage before, so that none is at anything older.
        """
        return self.ask(
            task,
            attempt,
            take=take,
            draw=lambda there: [each for each in there if each in told],
            but=self._others(told),
            needed=needed,
            told=told,
            free_only=False,
        )

    def train(
        self, attempt: int, told: Mapping[str, str], *, replied: Collection[str], needed: int
    ) -> list[Reply]:
        """Ask the sites that are told something for their masked updates."""
        assignment = self._assignment("train", attempt)
        return self.asking.ask(
            replace(self.training, assignment=assignment, enclosed=told),
            needed=needed,
            but=self._others(told),
            replied=replied,
            draw=lambda there: [each for each in there if each in told],
            accept=self._put,
            free_only=False,
        )

    def _put(self, reply: Reply) -> Reply:
        """Put a masked update into the inbox; of what is in it, nothing can be told."""
        if reply.report is None or reply.weights is None:
            return reply
        arrived = Arrived(
            report=reply.report,
            norm=0.0,
            bytes_down=reply.bytes_down,
            bytes_up=reply.bytes_up,
            base_round=self.number,
            digest=reply.digest or "",
            answer_sec=reply.answer_sec,
            answered_at=reply.answered_at,
        )
        self.inbox.put(arrived, reply.weights)
        return replace(reply, weights=None)

    def _assignment(self, task: Task, attempt: int) -> Assignment:
        return self.training.assignment.model_copy(update={"task": task, "attempt": attempt})

    def _others(self, told: Mapping[str, str]) -> frozenset[str]:
        return frozenset({*self.roster.expected} - told.keys())

"""A site's privacy ledger: what DP-SGD has spent of its patients, in all studies together.

::

    privacy/ledger/000001.jsonl, head.json, lock    as :mod:`feat_fed.audit.log` has them

A round's steps are reserved before the first is taken, and count in full from then on. The
reservation is settled with the steps that were taken before anything that they gave is kept
beside the round's own checkpoint, or leaves. One that a kill left unsettled gave nothing away, so
the same round takes it over; any other has to reserve its own. So nothing is ever counted too
low, and what is counted twice is what nobody can know.

A ledger that is not whole is not written to: a damaged reservation could be one of any size.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from feat_fed import __version__
from feat_fed.audit import ChainedLog, Head, Line, Noted, Verdict, verify
from feat_fed.audit.log import read_head, segments
from feat_fed.config.base import StrictModel
from feat_fed.errors import BudgetError, LedgerError
from feat_fed.privacy.ledger_events import (
    LEDGER_EVENTS,
    AuditAccepted,
    LedgerBegan,
    LedgerEvent,
    Released,
    Reserved,
    Settled,
)
from feat_fed.privacy.spent import Reservation, Spent

LEDGER_FOLDER = Path("privacy") / "ledger"
"""In a site's store."""

_MEND = (
    "`feat-fed privacy verify SITE.yaml` shows all that is wrong; put the store's privacy/ and "
    "audit/ back as they were, whole and from the last backup"
)


@dataclass(frozen=True)
class Budget:
    """What all studies together may spend of a patient; None: any amount."""

    max_epsilon: float | None
    delta: float


class Ledger(ChainedLog[LedgerEvent]):
    """The ledger in a site's store; made with its first reservation."""

    what = "the privacy ledger"

    def __init__(self, store: Path, name: str) -> None:
        owner = LedgerBegan(name=name, ledger_id=secrets.token_hex(16), version=__version__)
        super().__init__(store / LEDGER_FOLDER, owner)
        self._name = name

    def look(
        self, noted: Iterable[Noted] = (), *, noted_hash: str | None = None
    ) -> tuple[Verdict, Spent]:
        """Return whether it is whole, and what it says; of one that is not begun, nothing.

        Raises
        ------
        AuditError
            If it cannot be read.
        """
        noted, spent = tuple(noted), Spent()
        if not segments(self.folder):
            missing = [_missing(each) for each in noted]
            if read_head(self.folder):
                missing.append("it is not there, and its head.json is")
            if noted_hash:
                missing.append("there is none, and a line of it was noted")
            return Verdict(problems=missing), spent
        problems = []
        numbers: list[int] = []

        def seen(where: str, line: Line, event: StrictModel) -> None:
            numbers.append(line.sequence)
            if problem := spent.add(line.sequence, event):
                problems.append(f"{where}: {problem}")

        verdict = verify(
            self.folder,
            noted=noted,
            noted_hash=noted_hash,
            owner=self._name,
            events=LEDGER_EVENTS,
            what="privacy ledger",
            seen=seen,
        )
        verdict.problems += problems
        if numbers and numbers[0] != 1:
            verdict.problems.append(f"it begins with line {numbers[0]}; what came before is gone")
        head_file = self.folder / "head.json"
        # A power cut may leave an empty one.
        if head_file.exists() and head_file.stat().st_size and not read_head(self.folder):
            verdict.problems.append("head.json:1: the line is damaged")
        spent.head = verdict.head
        return verdict, spent

    def read(self, noted: Iterable[Noted] = ()) -> Spent:
        """Return what it says.

        Parameters
        ----------
        noted
            Lines of it that others have seen: it must hold them.

        Raises
        ------
        LedgerError
            If it is not whole, another site's, or ends before a line that was noted.
        AuditError
            If it cannot be read.
        """
        verdict, spent = self.look(noted)
        if verdict.problems:
            more = len(verdict.problems) - 1
            also = f", and {more} more" if more else ""
            raise LedgerError(f"the privacy ledger: {verdict.problems[0]}{also}. {_MEND}")
        return spent

    def reserve(
        self, wanted: Reserved, *, budget: Budget, noted: Iterable[Noted] = ()
    ) -> Reservation:
        """Reserve a round's steps, or take over what a killed try of the same has reserved.

        Raises
        ------
        BudgetError
            If they would spend more than is left; nothing is reserved then.
        LedgerError
            If the ledger cannot be believed.
        StorageError
            If the disk does not take the line.
        """
        taken_over: list[Reservation] = []

        def look() -> Reserved:
            spent = self.read(noted)
            last = spent.last_of(wanted.study_id, wanted.round)
            if last and last.settled is None and last.reserved.covers(wanted):
                taken_over.append(last)
                _require(spent, budget, wanted, planned=0)
                raise _TakenOver
            _require(spent, budget, wanted, planned=wanted.steps)
            return wanted

        try:
            head = self.append_after(look)
        except _TakenOver:
            return taken_over[0]
        return Reservation(head.sequence, wanted)

    def settle(self, reservation: Reservation, *, steps: int) -> None:
        """Write how many steps were taken on it.

        Raises
        ------
        LedgerError
            If the ledger cannot be believed, more steps were taken than reserved, or somebody
            else has settled it.
        StorageError
            If the disk does not take the line.
        """
        settled = Settled(reservation=reservation.line, steps=steps)

        def look() -> Settled:
            spent = self.read()
            after = spent.head.sequence + 1 if spent.head else 1
            if problem := spent.add(after, settled):
                raise LedgerError(f"the privacy ledger cannot be settled: {problem}")
            return settled

        self.append_after(look)
        reservation.settled = settled

    def release(self, study_id: str, round_number: int, *, steps: int, update_sha256: str) -> Spent:
        """Write that an update leaves, unless that was written before; return all that counts.

        Raises
        ------
        LedgerError
            If the round has no reservation that is settled with so many steps, or the ledger
            cannot be believed.
        StorageError
            If the disk does not take the line.
        """
        spent = self.read()
        of = spent.last_of(study_id, round_number)
        if of is None or of.settled is None:
            what = "is not settled" if of else "is not in the privacy ledger"
            raise LedgerError(f"the reservation of the update of round {round_number} {what}")
        if of.settled.steps != steps:
            raise LedgerError(
                f"the update is of {steps} steps, and line {of.line} of the privacy ledger was "
                f"settled with {of.settled.steps}"
            )
        if update_sha256 not in of.released:
            event = Released(reservation=of.line, update_sha256=update_sha256)
            spent.head = self.append(event)
        return spent

    def accept_audit(self, problems: Iterable[str]) -> Head:
        """Write that a person lets these problems of the audit log pass.

        Raises
        ------
        LedgerError
            If the ledger itself cannot be believed.
        StorageError
            If the disk does not take the line.
        """
        digests = tuple(digest_of(each) for each in problems)

        def look() -> AuditAccepted:
            self.read()
            return AuditAccepted(problems=digests)

        return self.append_after(look)


class _TakenOver(Exception):  # noqa: N818
    """There is nothing to write."""


def _require(spent: Spent, budget: Budget, wanted: Reserved, *, planned: int) -> None:
    """Raise :class:`BudgetError` where the round would exceed the budget."""
    if budget.max_epsilon is None:
        return
    after = spent.epsilon(delta=budget.delta, planned=[wanted.noisy_steps(planned)])
    if after > budget.max_epsilon:
        before = spent.epsilon(delta=budget.delta)
        raise BudgetError(
            f"round {wanted.round} of {wanted.study} would bring the epsilon that is spent of a "
            f"patient here from {before:.3f} to {after:.3f} (delta {budget.delta:g}), and "
            f"privacy.max_epsilon is {budget.max_epsilon:g}"
        )


def digest_of(problem: str) -> str:
    """Return the SHA-256 of the words by which a problem is told."""
    return hashlib.sha256(problem.encode()).hexdigest()


def _missing(noted: Noted) -> str:
    return f"there is none, and {noted.by} has seen its line {noted.head.sequence}"

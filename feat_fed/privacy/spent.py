"""What a privacy ledger's lines say: which steps count, and what of them may leave."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from feat_fed.audit import Head
from feat_fed.privacy.accounting import NoisySteps, prv_epsilon, rdp_epsilon
from feat_fed.privacy.ledger_events import AuditAccepted, Released, Reserved, Settled
from feat_fed.protocol import LedgerHead


@dataclass
class Reservation:
    """A round's steps at this site."""

    line: int
    reserved: Reserved
    settled: Settled | None = None
    released: list[str] = field(default_factory=list)
    """SHA-256 of updates, of one and the same unless they were encoded anew."""

    @property
    def counts(self) -> NoisySteps:
        """Return the steps that were taken; all, as long as nobody knows."""
        steps = self.settled.steps if self.settled else self.reserved.steps
        return self.reserved.noisy_steps(steps)

    def is_of(self, study_id: str, round_number: int) -> bool:
        """Whether it is of that round of that study."""
        return (self.reserved.study_id, self.reserved.round) == (study_id, round_number)


@dataclass
class Spent:
    """All that a ledger says."""

    head: Head | None = None
    reservations: dict[int, Reservation] = field(default_factory=dict)
    """By line."""
    audit_accepted: AuditAccepted | None = None
    """The last, as of which what was noted of the audit log holds no more."""
    audit_accepted_line: int = 0

    def add(self, line: int, event: object) -> str | None:
        """Take in an event of that line; return what is wrong with it, if anything is."""
        if isinstance(event, Reserved):
            self.reservations[line] = Reservation(line, event)
        elif isinstance(event, AuditAccepted):
            self.audit_accepted, self.audit_accepted_line = event, line
        elif isinstance(event, Settled | Released):
            of = self.reservations.get(event.reservation)
            if of is None:
                return f"line {event.reservation}, of which it speaks, is no reservation"
            if isinstance(event, Released):
                if of.settled is None:
                    return f"an update left before the reservation of line {of.line} was settled"
                of.released.append(event.update_sha256)
            elif of.settled is not None:
                return f"the reservation of line {of.line} is settled twice"
            elif event.steps > of.reserved.steps:
                return f"more steps were taken than line {of.line} reserves"
            else:
                of.settled = event
        return None

    def audit_marks(self) -> list[LedgerHead]:
        """Return the lines of the audit log that were noted and that it must still hold."""
        since = (e for e in self.reservations.values() if e.line > self.audit_accepted_line)
        return [each.reserved.audit for each in since if each.reserved.audit]

    def last_of(self, study_id: str, round_number: int) -> Reservation | None:
        """Return the last reservation of a round."""
        of_round = (e for e in self.reservations.values() if e.is_of(study_id, round_number))
        return max(of_round, key=lambda each: each.line, default=None)

    def history(self) -> list[NoisySteps]:
        """Return all that counts, of all studies: they may touch the same patients."""
        return [each.counts for each in self.reservations.values()]

    def epsilon(self, *, delta: float, planned: Iterable[NoisySteps] = ()) -> float:
        """Return the bound by RDP of all of it, and of what is planned."""
        return rdp_epsilon([*self.history(), *planned], delta=delta)

    def by_study(self) -> list[SpentByStudy]:
        """Return what each study counts by itself, in the order of their first lines."""
        studies: dict[str, list[Reservation]] = {}
        for each in self.reservations.values():
            studies.setdefault(each.reserved.study_id, []).append(each)
        return [SpentByStudy(each) for each in studies.values()]


@dataclass(frozen=True)
class SpentByStudy:
    """One study's part of a ledger."""

    reservations: Sequence[Reservation]

    @property
    def name(self) -> str:
        """The study's."""
        return self.reservations[0].reserved.study

    @property
    def study_id(self) -> str:
        """The run's."""
        return self.reservations[0].reserved.study_id

    @property
    def rounds(self) -> int:
        """Rounds of which something counts."""
        return len({each.reserved.round for each in self.reservations})

    @property
    def steps(self) -> int:
        """Steps that count."""
        return sum(each.counts.steps for each in self.reservations)

    @property
    def unsettled(self) -> int:
        """Reservations that count in full since nobody knows how many steps were taken."""
        return sum(each.settled is None for each in self.reservations)

    def epsilon(self, *, delta: float) -> float:
        """Return what the study has spent by itself, by RDP."""
        return rdp_epsilon([each.counts for each in self.reservations], delta=delta)

    def closer_epsilon(self, *, delta: float) -> float | None:
        """Return the same by PRV, where that can be computed."""
        return prv_epsilon([each.counts for each in self.reservations], delta=delta)

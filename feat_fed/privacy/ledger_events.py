"""What a privacy ledger can say: a closed set of kinds, each with its fields.

There is none for a number of patients or clips, nor for a loss: the ledger may be shown.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, TypeAdapter

from feat_fed.audit.events import Round, SegmentBegan, Sha256, TailMissing, TornLineClosed
from feat_fed.config.base import StrictModel
from feat_fed.config.study import Name
from feat_fed.privacy.accounting import NoisySteps
from feat_fed.protocol import LedgerHead, StudyId, VersionText

_Line = Annotated[int, Field(ge=1)]


class LedgerBegan(StrictModel):
    """The first line: whose patients it is about."""

    kind: Literal["ledger-began"] = "ledger-began"
    name: Name
    ledger_id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
    version: VersionText


class Reserved(StrictModel):
    """Noisy steps that may be taken from now on; they count from here."""

    kind: Literal["reserved"] = "reserved"
    study_id: StudyId
    study: Name
    round: Round
    noise_multiplier: float = Field(gt=0)
    sample_rate: float = Field(gt=0, le=1)
    steps: int = Field(ge=1)
    audit: LedgerHead | None = Field(None, description="where the site's audit log stood")

    def covers(self, other: Reserved) -> bool:
        """Whether this is of the same round and counts the same."""
        mark = {"audit": None}
        return self.model_copy(update=mark) == other.model_copy(update=mark)

    def noisy_steps(self, steps: int) -> NoisySteps:
        """Return so many of them for the accountant."""
        return NoisySteps(self.noise_multiplier, self.sample_rate, steps)


class Settled(StrictModel):
    """The steps that were taken on a reservation; what they gave may be kept and leave."""

    kind: Literal["settled"] = "settled"
    reservation: _Line = Field(description="its line's number")
    steps: int = Field(ge=0)


class Released(StrictModel):
    """An update on its way out, of a reservation that is settled."""

    kind: Literal["released"] = "released"
    reservation: _Line
    update_sha256: Sha256 = Field(description="of the update as it travels")


class AuditAccepted(StrictModel):
    """A person at the site has looked at what is wrong with the audit log, and lets it go on."""

    kind: Literal["audit-accepted"] = "audit-accepted"
    problems: tuple[Sha256, ...] = Field(description="of the words by which each is told")


LedgerEvent = (
    LedgerBegan
    | SegmentBegan
    | TornLineClosed
    | TailMissing
    | Reserved
    | Settled
    | Released
    | AuditAccepted
)

LEDGER_EVENTS: TypeAdapter[LedgerEvent] = TypeAdapter(
    Annotated[LedgerEvent, Field(discriminator="kind")]
)
"""Reads an event."""

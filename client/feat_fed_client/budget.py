"""What the site demands of a study's privacy, and what it spends of its own on it."""

from __future__ import annotations

from dataclasses import dataclass

from feat_fed.audit.log import FOLDER, read_head
from feat_fed.config import SiteConfig, StudyConfig
from feat_fed.errors import AuditError, LedgerError, PrivacyError
from feat_fed.privacy.accounting import LEAST_NOISE
from feat_fed.privacy.anchors import noted_by_server, read_books
from feat_fed.privacy.ledger import Budget, Ledger
from feat_fed.privacy.ledger_events import Reserved
from feat_fed.privacy.spent import Reservation
from feat_fed.protocol import Assignment, LedgerHead
from feat_fed_client.limits import DeclinedError


def require_protections(site: SiteConfig, study: StudyConfig) -> None:
    """Raise :class:`DeclinedError` where a study lacks a mechanism that the site demands."""
    patient = study.privacy.patient
    noise = patient.noise_multiplier if patient is not None else None
    if noise is not None and noise < LEAST_NOISE:
        raise DeclinedError(
            "protection",
            f"privacy.patient.noise_multiplier of {study.name} is {noise:g}; less than "
            f"{LEAST_NOISE:g} protects nobody",
        )
    lacking = sorted(set(site.privacy.require) - study.privacy.protections)
    if lacking:
        raise DeclinedError(
            "protection",
            f"privacy.require demands {', '.join(lacking)}, which {study.name} does not have; "
            "nothing leaves without it",
        )


def problems_at_start(site: SiteConfig) -> list[str]:
    """Return why rounds with DP-SGD would be declined, of a site that has seen one."""
    try:
        books = read_books(site.store, site.name)
    except AuditError as error:
        return [str(error)]
    begun = books.spent.head is not None or books.ledger.problems
    return books.problems if begun else []


@dataclass(frozen=True)
class PrivacyBudget:
    """A site's, over all studies.

    Parameters
    ----------
    site
        Whose ledger, in its store, it is.
    """

    site: SiteConfig

    @property
    def ledger(self) -> Ledger:
        """The ledger itself."""
        return Ledger(self.site.store, self.site.name)

    def reserve(self, assignment: Assignment) -> Reservation | None:
        """Reserve a round's steps before the first of them; None in a study without DP-SGD.

        Raises
        ------
        DeclinedError
            If they would spend more than is left, the ledger cannot be believed, or the study had
            DP-SGD before and has it no more.
        StorageError
            If the ledger cannot be written.
        """
        study = assignment.study
        patient = study.privacy.patient
        if patient is None:
            self._require_plain(assignment)
            return None
        assert patient.noise_multiplier is not None  # or the session has refused the study
        audit = read_head(self.site.store / FOLDER)
        wanted = Reserved(
            study_id=assignment.study_id,
            study=study.name,
            round=assignment.round,
            noise_multiplier=patient.noise_multiplier,
            sample_rate=patient.sample_rate,
            steps=study.training.local_steps,
            audit=audit and LedgerHead(line=audit.sequence, hash=audit.hash),
        )
        noted = noted_by_server(assignment.ledger)
        privacy = self.site.privacy
        try:
            read_books(self.site.store, self.site.name, noted).require()
            return self.ledger.reserve(
                wanted, budget=Budget(privacy.max_epsilon, privacy.delta), noted=noted
            )
        except (PrivacyError, AuditError) as error:
            raise DeclinedError("privacy", str(error)) from error

    def _require_plain(self, assignment: Assignment) -> None:
        """Refuse to train without noise what was begun with it."""
        try:
            begun = self.ledger.read().by_study()
        except (LedgerError, AuditError):
            return  # a damaged one holds up studies with DP-SGD, and those alone
        if any(each.study_id == assignment.study_id for each in begun):
            raise DeclinedError(
                "protection",
                f"{assignment.study.name} had DP-SGD in earlier rounds and has it no more: what it "
                "has spent here would promise nothing. A study without it is a new study",
            )

    def settle(self, reservation: Reservation | None, *, steps: int | None = None) -> None:
        """Write how many steps count, before anything that they gave is kept.

        Parameters
        ----------
        steps
            None: all that were reserved, for nobody knows.

        Raises
        ------
        LedgerError
            If the ledger cannot be believed any more.
        StorageError
            If it cannot be written.
        """
        if reservation is not None:
            reserved = reservation.reserved.steps
            self.ledger.settle(reservation, steps=reserved if steps is None else steps)

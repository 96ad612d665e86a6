"""Whether a site's privacy ledger and its audit log bear each other out.

Each notes lines of the other as it goes, and the study's server those of the ledger. So one of
the two that is put back to an earlier state, or replaced by another site's, contradicts the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from feat_fed.audit import FOLDER, AuditLog, Head, Line, Noted, Verdict, verify
from feat_fed.audit.events import DamageAccepted, Leaving
from feat_fed.audit.log import segments
from feat_fed.config.base import StrictModel
from feat_fed.errors import LedgerError
from feat_fed.privacy.ledger import Ledger, digest_of
from feat_fed.privacy.ledger_events import AuditAccepted
from feat_fed.privacy.spent import Spent
from feat_fed.protocol import LedgerHead

_MEND = (
    "`feat-fed privacy verify SITE.yaml` shows all that is wrong, and docs/privacy.md what to do "
    "then; no round of a study with DP-SGD is trained until it is mended"
)
_SERVER = "the study's server"
_MEND_UNSEEN = (
    "`feat-fed privacy verify SITE.yaml` knows the site's own logs alone and may find nothing "
    "wrong, as after both were put back to an older state; docs/privacy.md says what to do; no "
    "round of this study is trained until it is mended"
)


@dataclass(frozen=True)
class Books:
    """A site's two logs, read against each other."""

    ledger: Verdict
    audit: Verdict | None
    """None: the site has none, as in a simulation, and the ledger knows of none."""
    spent: Spent

    @property
    def problems(self) -> list[str]:
        """Return what is wrong, the ledger's first."""
        of_audit = self.audit.problems if self.audit else []
        return [
            *(f"the privacy ledger: {each}" for each in self.ledger.problems),
            *(f"the audit log: {each}" for each in of_audit),
        ]

    def require(self) -> Spent:
        """Return what was spent, or raise :class:`LedgerError` if that cannot be believed."""
        if not self.problems:
            return self.spent
        more = len(self.problems) - 1
        also = f" (and {more} more)" if more else ""
        mend = _MEND_UNSEEN if all(_SERVER in each for each in self.problems) else _MEND
        raise LedgerError(f"{self.problems[0]}{also}. {mend}")


def read_books(
    store: Path, name: str, noted: Iterable[Noted] = (), *, noted_hash: str | None = None
) -> Books:
    """Check both logs, each line against its own hash, its neighbours, and what was noted of it.

    Parameters
    ----------
    noted
        Lines of the ledger that others have seen.
    noted_hash
        Of one more such line.

    Raises
    ------
    AuditError
        If one of the two cannot be read.
    """
    ledger = Ledger(store, name)
    _, spent = ledger.look()
    marks = [Noted("the privacy ledger", _head(each)) for each in spent.audit_marks()]
    audit, seen = _audit(store / FOLDER, name, marks)
    if audit is not None and spent.audit_accepted is not None:
        _let_pass(audit, spent.audit_accepted)
    verdict, spent = ledger.look([*noted, *seen], noted_hash=noted_hash)
    return Books(verdict, audit, spent)


def accept_audit(store: Path, name: str) -> tuple[str, ...]:
    """Let a person's word stand for what is wrong with the audit log; return what that was.

    Both logs say so from then on.

    Raises
    ------
    LedgerError
        If the ledger itself cannot be believed: nobody can know what it counted.
    StorageError
        If one of the two cannot be written.
    AuditError
        If one of the two cannot be read.
    """
    books = read_books(store, name)
    if books.ledger.problems:
        Books(books.ledger, None, books.spent).require()
    if not books.problems:
        return ()
    # First, for it may itself say what was found at the log's end.
    AuditLog.of_site(store, name).append(DamageAccepted(problems=len(books.problems)))
    books = read_books(store, name)
    problems = tuple(books.audit.problems) if books.audit else ()
    Ledger(store, name).accept_audit(problems)
    return problems


def _let_pass(audit: Verdict, accepted: AuditAccepted) -> None:
    """Turn problems that a person has accepted into notes."""
    passed = [each for each in audit.problems if digest_of(each) in accepted.problems]
    audit.notes += [f"accepted by a person here: {each}" for each in passed]
    audit.problems = [each for each in audit.problems if each not in passed]


def noted_by_server(told: LedgerHead | None) -> tuple[Noted, ...]:
    """Return what the study's server has seen of the ledger."""
    return (Noted(_SERVER, _head(told)),) if told else ()


def _audit(folder: Path, name: str, marks: list[Noted]) -> tuple[Verdict | None, list[Noted]]:
    """Check the audit log; return also which lines of the ledger it has seen."""
    seen: list[Noted] = []
    if not segments(folder):
        if not marks:
            return None, seen
        last = max(each.head.sequence for each in marks)
        told = f"it is not there, and the privacy ledger has seen line {last}"
        return Verdict(problems=[told]), seen

    def look(where: str, line: Line, event: StrictModel) -> None:
        if isinstance(event, Leaving) and event.ledger_line and event.ledger_hash:
            head = Head(sequence=event.ledger_line, hash=event.ledger_hash)
            seen.append(Noted(f"the audit log (line {line.sequence})", head))

    return verify(folder, noted=marks, owner=name, seen=look), seen


def _head(told: LedgerHead) -> Head:
    return Head(sequence=told.line, hash=told.hash)

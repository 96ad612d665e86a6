"""What a run's audit log says: who took part, what was asked and answered, what was written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from feat_fed import __version__
from feat_fed.audit import AuditLog
from feat_fed.audit.events import (
    CheckpointWritten,
    ProcessRestarted,
    ReplyReceived,
    RoundStarted,
    ServerStarted,
    SiteAsked,
    SiteChanged,
    StudyBegan,
    StudyEnded,
)
from feat_fed.protocol import Assignment
from feat_fed.report.run_store import RunStore
from feat_fed.wire import bundle
from feat_fed_server.replies import Reply

_KINDS = {
    "ok": "reply-accepted",
    "late": "reply-late",
    "refused": "reply-refused",
    "declined": "site-declined",
    "failed": "site-failed",
    "missing": "site-missing",
}

Change = Literal[
    "site-registered",
    "site-admitted",
    "site-refused",
    "site-revoked",
    "site-quarantined",
    "site-readmitted",
]


class RunAudit:
    """Write to a run's log; each method raises :class:`~feat_fed.errors.StorageError`.

    Any number of a study's processes may have one.
    """

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self.log = AuditLog.of_run(store.root, store.study.name, store.summary().study_id)

    def server_started(self, address: str, certificate: Path, sites: Iterable[str]) -> None:
        """Note the door that hospitals reach, its certificate, and the bundle they are sent."""
        loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
        event = ServerStarted(
            version=__version__,
            address=address,
            certificate_sha256=loaded.fingerprint(hashes.SHA256()).hex(),
            bundle_sha256=bundle()[1],
            sites=tuple(sorted(sites)),
        )
        self.log.append(event)

    def registered(self, names_by_key: Mapping[bytes, str]) -> None:
        """Note which public keys (PEM) are which sites."""
        for key, site in sorted(names_by_key.items(), key=lambda item: item[1]):
            self.site("site-registered", site, key=key)

    def site(
        self, kind: Change, site: str, *, key: bytes | None = None, code: str | None = None
    ) -> None:
        """Note a change of who takes part; ``key`` is a public key (PEM)."""
        digest = key_fingerprint(key) if key is not None else None
        self.log.append(SiteChanged(kind=kind, site=site, key_sha256=digest, code=code))

    def restarted(self, process: Literal["superlink", "executor", "serverapp", "server"]) -> None:
        """Note a process that ended and is started again."""
        self.log.append(ProcessRestarted(process=process))

    def began(self, *, after_round: int) -> None:
        """Note that the round loop begins, or goes on after a round."""
        study = self._store.study
        event = StudyBegan(
            kind="study-resumed" if after_round else "study-started",
            study_id=self._store.summary().study_id,
            study=study.name,
            study_sha256=hashlib.sha256(
                study.without_paths().model_dump_json().encode()
            ).hexdigest(),
            rounds=study.rounds,
            after_round=after_round,
        )
        self.log.append(event)

    def ended(self, state: Literal["complete", "failed"], *, rounds_done: int) -> None:
        """Note how the round loop ends."""
        self.log.append(StudyEnded(state=state, rounds_done=rounds_done))

    def round_started(self, assignment: Assignment) -> None:
        """Note a round, or the scoring of the final weights."""
        self.log.append(RoundStarted(round=assignment.round, task=assignment.task))

    def asked(self, assignment: Assignment, site: str, *, bytes_down: int, sending: int) -> None:
        """Note a message to a site that Flower took."""
        event = SiteAsked(
            round=assignment.round,
            task=assignment.task,
            site=site,
            weights_bytes=bytes_down,
            sending=sending,
        )
        self.log.append(event)

    def replied(self, assignment: Assignment, reply: Reply) -> None:
        """Note what came of a site."""
        event = {
            "kind": _KINDS[reply.status],
            "round": assignment.round,
            "task": assignment.task,
            "site": reply.site,
            "weights_bytes": reply.bytes_up,
            "code": reply.report.code if reply.report else None,
        }
        self.log.append(ReplyReceived.model_validate(event))

    def written(
        self, round_number: int, sites: Iterable[str], *, weights_sha256: str, ema_sha256: str
    ) -> None:
        """Note a round's weights, which are on the disk."""
        event = CheckpointWritten(
            round=round_number,
            sites=tuple(sorted(sites)),
            weights_sha256=weights_sha256,
            ema_sha256=ema_sha256,
        )
        self.log.append(event)


def key_fingerprint(pem: bytes) -> str:
    """Return the SHA-256 of a public key (SubjectPublicKeyInfo, DER)."""
    der = serialization.load_pem_public_key(pem).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(der).hexdigest()

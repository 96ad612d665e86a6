"""What a site's audit log says of each message: what came, what was decided, what left."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from flwr.app import Message
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab

from feat_fed import __version__
from feat_fed.audit import AuditLog
from feat_fed.audit.events import (
    AssignmentReceived,
    ClientStarted,
    ClientStopped,
    Connected,
    Decided,
    Enclosed,
    Leaving,
    MessageRefused,
    StudySeen,
    TaskReceived,
)
from feat_fed.config import ServerLinkConfig, SiteConfig
from feat_fed.protocol import Assignment, Report, Task
from feat_fed.wire import digest_of_buckets, from_records
from feat_fed_client.trust import trusted_bundles

_DONE: dict[Task, str] = {
    "train": "trained",
    "evaluate": "scored",
    "keys": "keys-made",
    "shares": "shares-dealt",
    "unmask": "shares-given",
    "memorisation": "compared",
}
_KNOWN_TASKS = frozenset(each.value for each in TaskType)


@dataclass(frozen=True)
class PrivacyCost:
    """What all studies have spent of a patient of the site."""

    epsilon: float
    delta: float


@dataclass(frozen=True)
class SiteAudit:
    """Write to a site's log; each method raises :class:`~feat_fed.errors.StorageError`."""

    site: SiteConfig

    @property
    def log(self) -> AuditLog:
        """The log itself."""
        return AuditLog.of_site(self.site.store, self.site.name)

    def client_started(self, link: ServerLinkConfig) -> None:
        """Note where the site will connect, by which CA and key, and what may run."""
        event = ClientStarted(
            version=__version__,
            address=link.address,
            ca_sha256=ca_fingerprint(link),
            key_sha256=key_fingerprint(link),
            trusted=tuple(sorted(trusted_bundles(self.site))),
        )
        self.log.append(event)

    def client_stopped(self, cause: str) -> None:
        """Note how it ended: ``stopped``, ``refused`` or ``failed``."""
        self.log.append(ClientStopped.model_validate({"cause": cause}))

    def connected(self, link: ServerLinkConfig, node_id: int) -> None:
        """Note a connection that stands."""
        event = Connected(address=link.address, ca_sha256=ca_fingerprint(link), node_id=node_id)
        self.log.append(event)

    def task(self, task_type: str, fab: Fab, refused: str | None) -> None:
        """Note a task and its bundle; ``refused`` is the code of a refusal."""
        event = {
            "task_type": task_type if task_type in _KNOWN_TASKS else "unknown",
            "bundle_sha256": hashlib.sha256(fab.content).hexdigest(),
            "bundle_bytes": len(fab.content),
            "decision": "refused" if refused else "run",
            "code": refused,
        }
        self.log.append(TaskReceived.model_validate(event))

    def assignment(self, assignment: Assignment, buckets: Sequence[bytes]) -> None:
        """Note what is asked, and the study where it is new or has changed."""
        study = assignment.study.model_dump_json().encode()
        seen = StudySeen(
            study_id=assignment.study_id,
            study=assignment.study.name,
            study_sha256=hashlib.sha256(study).hexdigest(),
        )
        last = self.log.last(seen.kind)
        if last is None or last.event != seen.model_dump():
            self.log.append(seen)
        self.log.append(
            AssignmentReceived(
                study_id=assignment.study_id,
                round=assignment.round,
                task=assignment.task,
                weights_bytes=sum(map(len, buckets)),
                weights_sha256=digest_of_buckets(buckets),
            )
        )
        self._enclosed("enclosed-received", assignment)

    def no_assignment(self) -> None:
        """Note a message that breaks the protocol."""
        self.log.append(MessageRefused())

    def leaving(self, reply: Message, cost: PrivacyCost | None = None) -> None:
        """Note what was decided and what leaves, to the last field and byte."""
        if reply.has_error():
            self.log.append(Leaving(message="refusal"))
            return
        report, buckets = from_records(reply.content, Report)
        about = {"study_id": report.study_id, "round": report.round, "task": report.task}
        decided = {
            "outcome": _DONE[report.task] if report.outcome == "ok" else report.outcome,
            "code": report.code,
            "reference": report.reference,
        }
        self.log.append(Decided.model_validate(about | decided))
        names, layout = layout_of(buckets)
        event = {
            "message": "update" if buckets else "report",
            "tensors": names,
            "layout_sha256": layout if buckets else None,
            "weights_bytes": sum(map(len, buckets)),
            "weights_sha256": digest_of_buckets(buckets) if buckets else None,
            "report_fields": tuple(report.model_dump(exclude_defaults=True)),
            "report_sha256": hashlib.sha256(report.model_dump_json().encode()).hexdigest(),
            "epsilon": cost and cost.epsilon,
            "delta": cost and cost.delta,
            "ledger_line": report.ledger and report.ledger.line,
            "ledger_hash": report.ledger and report.ledger.hash,
        }
        self.log.append(Leaving.model_validate(about | event))
        self._enclosed("enclosed-leaving", report)

    def _enclosed(
        self, kind: Literal["enclosed-received", "enclosed-leaving"], told: Assignment | Report
    ) -> None:
        """Note what a message holds of a secure aggregation, if it is part of one."""
        if told.attempt is None:
            return
        data = (told.enclosed or "").encode()
        event = {
            "kind": kind,
            "study_id": told.study_id,
            "round": told.round,
            "task": told.task,
            "attempt": told.attempt,
            "enclosed_bytes": len(data),
            "enclosed_sha256": hashlib.sha256(data).hexdigest() if data else None,
        }
        self.log.append(Enclosed.model_validate(event))


def layout_of(buckets: Sequence[bytes]) -> tuple[int, str]:
    """Return how many tensors safetensors files hold, and the SHA-256 of what they are.

    That is of a line a tensor, sorted: its name, dtype and shape, such as ``x F32 [2, 3]``.
    """
    found = []
    for bucket in buckets:
        header = json.loads(bucket[8 : 8 + int.from_bytes(bucket[:8], "little")])
        found += [
            f"{name} {each['dtype']} {each['shape']}\n"
            for name, each in header.items()
            if name != "__metadata__"
        ]
    return len(found), hashlib.sha256("".join(sorted(found)).encode()).hexdigest()


def ca_fingerprint(link: ServerLinkConfig) -> str:
    """Return the SHA-256 of the coordinator's CA certificate, as browsers and openssl show it."""
    certificate = x509.load_pem_x509_certificate(link.ca_certificate.read_bytes())
    return certificate.fingerprint(hashes.SHA256()).hex()


def key_fingerprint(link: ServerLinkConfig) -> str:
    """Return the SHA-256 of the site's public key (SubjectPublicKeyInfo, DER)."""
    key = serialization.load_ssh_private_key(link.private_key.read_bytes(), None)
    public = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(public).hexdigest()

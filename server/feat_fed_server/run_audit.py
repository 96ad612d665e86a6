"""What a run's audit log says: who took part, what was asked and answered, what was written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from feat_fed import __version__
from feat_fed.audit import AuditLog
from feat_fed.audit.events import (
    AggregationBegan,
    CheckpointWritten,
    Enclosed,
    ProcessRestarted,
    ReleaseDecided,
    ReplyReceived,
    RoundOutcome,
    RoundStarted,
    ServerStarted,
    SiteAsked,
    SiteChange,
    SiteChanged,
    StudyBegan,
    StudyEnded,
    SumUnmasked,
)
from feat_fed.protocol import Task
from feat_fed.report.records import RoundRecord
from feat_fed.report.round_manifest import RoundManifest
from feat_fed.report.run_store import RunStore
from feat_fed.wire import Carried, bundle

if TYPE_CHECKING:
    from feat_fed.memorisation.release import Release  # brings torch, which a launcher spares

_KINDS = {
    "ok": "reply-accepted",
    "late": "reply-late",
    "refused": "reply-refused",
    "declined": "site-declined",
    "failed": "site-failed",
    "missing": "site-missing",
}

Process = Literal["superlink", "executor", "serverapp"]
EnclosedWay = Literal["enclosed-received", "enclosed-leaving"]


@dataclass(frozen=True)
class Sending:
    """What a message asked of whom."""

    site: str
    round: int
    task: Task
    bytes_down: int
    attempt: int | None = None
    enclosed: str | None = None


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
        self, kind: SiteChange, site: str, *, key: bytes | None = None, code: str | None = None
    ) -> None:
        """Note a change of who takes part; ``key`` is a public key (PEM)."""
        digest = key_fingerprint(key) if key is not None else None
        self.log.append(SiteChanged(kind=kind, site=site, key_sha256=digest, code=code))

    def restarted(self, process: Process) -> None:
        """Note a process that ended and is started again."""
        self.log.append(ProcessRestarted(process=process))

    def began(self, *, after_round: int) -> None:
        """Note that the round loop begins, or goes on after a round."""
        study = self._store.study
        told = study.for_sites().model_dump_json().encode()
        event = StudyBegan(
            kind="study-resumed" if after_round else "study-started",
            study_id=self._store.summary().study_id,
            study=study.name,
            study_sha256=hashlib.sha256(told).hexdigest(),
            rounds=study.rounds,
            after_round=after_round,
            files=self._files(after_round),
        )
        self.log.append(event)

    def ended(self, state: Literal["complete", "failed"]) -> None:
        """Note how the round loop ends."""
        self.log.append(StudyEnded(state=state, rounds_done=self._store.summary().rounds_done))

    def round_started(self, round_number: int) -> None:
        """Note a round of training."""
        self.log.append(RoundStarted(round=round_number))

    def asked(self, sending: Sending) -> None:
        """Note a message to a site."""
        event = SiteAsked(
            round=sending.round,
            task=sending.task,
            site=sending.site,
            weights_bytes=sending.bytes_down,
        )
        self.log.append(event)

    def received(self, sending: Sending, brought: Carried, *, error: int | None) -> None:
        """Note the answer to a message, as it came."""
        event = ReplyReceived(
            round=sending.round,
            task=sending.task,
            site=sending.site,
            weights_bytes=brought.bytes,
            weights_sha256=brought.sha256,
            error=error,
        )
        self.log.append(event)

    def enclosed(self, kind: EnclosedWay, sending: Sending, text: str | None) -> None:
        """Note what a message or its answer holds of a secure aggregation."""
        data = (text or "").encode()
        event = {
            "kind": kind,
            "study_id": self._store.summary().study_id,
            "round": sending.round,
            "task": sending.task,
            "attempt": sending.attempt,
            "site": sending.site,
            "enclosed_bytes": len(data),
            "enclosed_sha256": hashlib.sha256(data).hexdigest() if data else None,
        }
        self.log.append(Enclosed.model_validate(event))

    def masks(
        self,
        kind: Literal["masks-agreed", "masks-given-up"],
        number: int,
        attempt: int,
        sites: Iterable[str],
    ) -> None:
        """Note which sites mask a round's updates, or that it begins again with new keys."""
        event = {"kind": kind, "round": number, "attempt": attempt, "sites": tuple(sorted(sites))}
        self.log.append(AggregationBegan.model_validate(event))

    def last_attempt(self, number: int) -> int:
        """Return the last attempt at a round with secure aggregation; 0: none is known."""
        last = self.log.last("enclosed-leaving")
        is_of_round = last is not None and last.event["round"] == number
        return int(last.event["attempt"]) if last is not None and is_of_round else 0

    def unmasked(
        self, number: int, attempt: int, sites: Iterable[str], dropped: Iterable[str]
    ) -> None:
        """Note of whose updates the sum can be told."""
        event = SumUnmasked(
            round=number,
            attempt=attempt,
            sites=tuple(sorted(sites)),
            dropped=tuple(sorted(dropped)),
        )
        self.log.append(event)

    def round_done(self, record: RoundRecord) -> None:
        """Note what came of each site, and the files that came of the round."""
        for each in record.sites:
            event = {
                "kind": _KINDS[each.status],
                "round": record.round,
                "site": each.site,
                "weights_bytes": each.bytes_up,
                "code": each.code or None,
            }
            self.log.append(RoundOutcome.model_validate(event))
        event_of_files = CheckpointWritten(
            round=record.round,
            sites=tuple(each.site for each in record.sites if each.status == "ok"),
            files=self._files(record.round),
        )
        self.log.append(event_of_files)

    def released(self, release: Release) -> None:
        """Note what was decided on a model and its clips, with the coordinator's word."""
        event = ReleaseDecided(
            round=release.round,
            clips_sha256=release.clips_sha256,
            clips=len(release.clips),
            withheld=release.withheld,
            gate=release.gate,
            model=release.model,
            answered=tuple(each.site for each in release.sites if each.nearest),
            lacking=tuple(each.site for each in release.lacking),
            word=release.word,
        )
        self.log.append(event)

    def _files(self, round_number: int) -> dict[str, str]:
        path = self._store.manifest(round_number)
        return RoundManifest.model_validate_json(path.read_bytes()).files


def key_fingerprint(pem: bytes) -> str:
    """Return the SHA-256 of a public key (SubjectPublicKeyInfo, DER)."""
    der = serialization.load_pem_public_key(pem).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(der).hexdigest()

"""What an audit log can say: a closed set of kinds, each with its fields.

Fields are numbers, names from a fixed alphabet, hashes and codes of ours: there is none into
which a text could be put, of a hospital's or of whoever is on the other side of the wire. The one
text is the coordinator's own: why a model was released in spite of the gate, in the run's log.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, StringConstraints, TypeAdapter

from feat_fed.config.base import StrictModel
from feat_fed.config.site import Address
from feat_fed.config.study import Name
from feat_fed.protocol import (
    Attempt,
    DeclineCode,
    FailureCode,
    Reference,
    StudyId,
    Task,
    VersionText,
)

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Code = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
"""Of a list of ours that the event's own module keeps."""
FileName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9.-]{0,63}$")]
FieldName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Word = Annotated[
    str, StringConstraints(strip_whitespace=True, pattern=r"^[^\x00-\x1f\x7f]{3,500}$")
]
"""The coordinator's own reason."""
Count = Annotated[int, Field(ge=0)]
Round = Annotated[int, Field(ge=0, le=100_000)]


class LogBegan(StrictModel):
    """The first line of a log: whose it is."""

    kind: Literal["log-began"] = "log-began"
    owner: Literal["site", "run"]
    name: Name
    study_id: StudyId | None = None
    version: VersionText


class SegmentBegan(StrictModel):
    """The first line of each further file of a log."""

    kind: Literal["segment-began"] = "segment-began"
    number: int = Field(ge=2)
    damaged_bytes: Count = Field(0, description="found at the end of the file before; left there")
    damaged_sha256: Sha256 | None = None


class TornLineClosed(StrictModel):
    """What a process that was killed while writing has left, and that stays where it is."""

    kind: Literal["torn-line-closed"] = "torn-line-closed"
    torn_bytes: int = Field(ge=1)
    torn_sha256: Sha256


class TailMissing(StrictModel):
    """The log ended before the line that its head file names."""

    kind: Literal["tail-missing"] = "tail-missing"
    noted_sequence: int = Field(ge=1)
    noted_hash: Sha256


class ClientStarted(StrictModel):
    """A hospital's client, and where it was told to connect."""

    kind: Literal["client-started"] = "client-started"
    version: VersionText
    address: Address
    ca_sha256: Sha256 = Field(description="of the coordinator's CA certificate, DER")
    key_sha256: Sha256 = Field(description="of the site's public key, DER")
    trusted: tuple[Sha256, ...] = Field(description="bundles that may run")


class ClientStopped(StrictModel):
    """How a client ended, unless it was killed."""

    kind: Literal["client-stopped"] = "client-stopped"
    cause: Literal["stopped", "refused", "failed"]


class Connected(StrictModel):
    """A connection to the study's server stands, its certificate signed by the site's CA."""

    kind: Literal["connected"] = "connected"
    address: Address
    ca_sha256: Sha256
    node_id: Count


class TrustChanged(StrictModel):
    """A person at the site approved a bundle, or withdrew that."""

    kind: Literal["bundle-approved", "bundle-withdrawn"]
    bundle_sha256: Sha256


class TaskReceived(StrictModel):
    """A task came from the server, with the bundle that it asked for."""

    kind: Literal["task-received"] = "task-received"
    task_type: Code
    bundle_sha256: Sha256
    bundle_bytes: Count
    decision: Literal["run", "refused"]
    code: Literal["bundle", "task", "size"] | None = Field(None, description="why it was refused")


class StudySeen(StrictModel):
    """A study as a server described it, when it came first or had changed."""

    kind: Literal["study-seen"] = "study-seen"
    study_id: StudyId
    study: Name
    study_sha256: Sha256 = Field(description="of its JSON as it is in study.json")


class AssignmentReceived(StrictModel):
    """What a site was asked to do."""

    kind: Literal["assignment-received"] = "assignment-received"
    study_id: StudyId
    round: Round
    task: Task
    weights_bytes: Count
    weights_sha256: Sha256 = Field(description="of the buckets, one after the other")


class MessageRefused(StrictModel):
    """A message that is no assignment."""

    kind: Literal["message-refused"] = "message-refused"
    code: Literal["protocol"] = "protocol"


class Decided(StrictModel):
    """What a site made of an assignment."""

    kind: Literal["decided"] = "decided"
    study_id: StudyId
    round: Round
    task: Task
    outcome: Literal[
        "trained",
        "scored",
        "keys-made",
        "shares-dealt",
        "shares-given",
        "compared",
        "declined",
        "failed",
    ]
    code: FailureCode | DeclineCode | None = None
    reference: Reference | None = None


class Leaving(StrictModel):
    """What is about to leave a site; it is on the disk before it does."""

    kind: Literal["leaving"] = "leaving"
    message: Literal["update", "report", "refusal"]
    study_id: StudyId | None = None
    round: Round | None = None
    task: Task | None = None
    tensors: Count = 0
    layout_sha256: Sha256 | None = Field(
        None, description="of the tensors' names, types and shapes, a line each"
    )
    weights_bytes: Count = 0
    weights_sha256: Sha256 | None = None
    report_fields: tuple[FieldName, ...] = Field(
        (), description="of the report, that say something"
    )
    report_sha256: Sha256 | None = Field(None, description="of the report's JSON")
    epsilon: Annotated[float, Field(ge=0)] | None = Field(
        None,
        description="that all studies have spent of a patient here, with this; of a study with "
        "DP-SGD",
    )
    delta: float | None = Field(None, description="that goes with it")
    ledger_line: int | None = Field(None, ge=1, description="the privacy ledger's last")
    ledger_hash: Sha256 | None = None


class DamageAccepted(StrictModel):
    """A person at the site has looked at what is wrong with this log, and lets it go on."""

    kind: Literal["damage-accepted"] = "damage-accepted"
    problems: Count


class Enclosed(StrictModel):
    """What a message holds of a secure aggregation, beside weights: keys, shares, sites' names."""

    kind: Literal["enclosed-received", "enclosed-leaving"]
    study_id: StudyId
    round: Round
    task: Task
    attempt: Attempt
    site: Name | None = Field(None, description="at the other end, in a run's log")
    enclosed_bytes: Count
    enclosed_sha256: Sha256 | None = None


class AggregationBegan(StrictModel):
    """A round's masks are agreed on by these sites, or it begins again with new keys."""

    kind: Literal["masks-agreed", "masks-given-up"]
    round: Round
    attempt: Attempt
    sites: tuple[Name, ...] = Field(description="that are left of those that offered keys")


class SumUnmasked(StrictModel):
    """The server can tell the sum of these sites' updates."""

    kind: Literal["sum-unmasked"] = "sum-unmasked"
    round: Round
    attempt: Attempt
    sites: tuple[Name, ...]
    dropped: tuple[Name, ...] = Field(description="that dealt shares and sent no update")


class ServerStarted(StrictModel):
    """A coordinator's server, with the door that hospitals reach."""

    kind: Literal["server-started"] = "server-started"
    version: VersionText
    address: Address
    certificate_sha256: Sha256
    bundle_sha256: Sha256
    sites: tuple[Name, ...]


class ProcessRestarted(StrictModel):
    """A process of the server ended and was started again."""

    kind: Literal["process-restarted"] = "process-restarted"
    process: Literal["superlink", "executor", "serverapp"]


class StudyBegan(StrictModel):
    """The round loop began, with the first round or after one."""

    kind: Literal["study-started", "study-resumed"]
    study_id: StudyId
    study: Name
    study_sha256: Sha256
    rounds: int = Field(ge=1)
    after_round: Round
    files: dict[FileName, Sha256] = Field(description="that it goes on from")


class RunRestored(StrictModel):
    """The run's folder was made from a backup: what was after it is not in this log."""

    kind: Literal["run-restored"] = "run-restored"
    after_round: Round
    backup_at: AwareDatetime
    backup_version: VersionText


class StudyEnded(StrictModel):
    """How the round loop ended, unless it was killed."""

    kind: Literal["study-ended"] = "study-ended"
    state: Literal["complete", "failed"]
    rounds_done: Round


SiteChange = Literal[
    "site-registered",
    "site-revoked",
    "site-quarantined",
    "site-excluded",
    "site-readmitted",
    "site-connected",
    "site-left",
]


class SiteChanged(StrictModel):
    """A change of who takes part."""

    kind: SiteChange
    site: Name
    key_sha256: Sha256 | None = None
    code: Code | None = None


class RoundStarted(StrictModel):
    """A round of training."""

    kind: Literal["round-started"] = "round-started"
    round: Round


class SiteAsked(StrictModel):
    """A message to a site, about to be handed to Flower."""

    kind: Literal["site-asked"] = "site-asked"
    round: Round
    task: Task
    site: Name
    weights_bytes: Count


class ReplyReceived(StrictModel):
    """A site's answer to a message, before anything in it is believed."""

    kind: Literal["reply-received"] = "reply-received"
    round: Round
    task: Task
    site: Name
    weights_bytes: Count
    weights_sha256: Sha256 | None = None
    error: int | None = Field(None, description="Flower's code, of an answer that is an error")


class RoundOutcome(StrictModel):
    """What came of a site in a round; only an accepted reply touches the model."""

    kind: Literal[
        "reply-accepted",
        "reply-late",
        "reply-refused",
        "site-declined",
        "site-failed",
        "site-missing",
    ]
    round: Round
    site: Name
    weights_bytes: Count = 0
    code: Code | None = None


class CheckpointWritten(StrictModel):
    """A round's weights, and what else the next one needs, are on the disk."""

    kind: Literal["checkpoint-written"] = "checkpoint-written"
    round: Round
    sites: tuple[Name, ...] = Field(description="whose updates are in it")
    files: dict[FileName, Sha256] = Field(description="as the round's manifest has them")


class ReleaseDecided(StrictModel):
    """A model and its generated clips were held against what the sites told of copies."""

    kind: Literal["release-decided"] = "release-decided"
    round: Round
    clips_sha256: Sha256 = Field(description="of the generated latents")
    clips: Count
    withheld: Count = Field(description="clips")
    gate: Literal["passed", "near", "incomplete"]
    model: Literal["released", "released-anyway", "kept"]
    answered: tuple[Name, ...]
    lacking: tuple[Name, ...] = Field(description="sites that took part and whose word is missing")
    word: Word | None = Field(None, description="of the coordinator, for a release in spite of it")


AuditEvent = (
    LogBegan
    | SegmentBegan
    | TornLineClosed
    | TailMissing
    | ClientStarted
    | ClientStopped
    | Connected
    | TrustChanged
    | TaskReceived
    | StudySeen
    | AssignmentReceived
    | MessageRefused
    | Decided
    | Leaving
    | DamageAccepted
    | Enclosed
    | AggregationBegan
    | SumUnmasked
    | ServerStarted
    | ProcessRestarted
    | StudyBegan
    | RunRestored
    | StudyEnded
    | SiteChanged
    | RoundStarted
    | SiteAsked
    | ReplyReceived
    | RoundOutcome
    | CheckpointWritten
    | ReleaseDecided
)

EVENTS: TypeAdapter[AuditEvent] = TypeAdapter(Annotated[AuditEvent, Field(discriminator="kind")])
"""Reads an event."""

"""The last door of a site: what is not on the protocol's list, or on the site's, stays inside.

Every reply passes it in the process that holds the server's message, after the trainer has made
it in another one. The trainer is not believed: its report is made anew from the fields that
its task and outcome may have, its update is read and must be what the study's form makes of the
model, to the byte, and one of a study with DP-SGD needs a reservation that is settled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from flwr.app import Message
from flwr.app.error import Error
from flwr.common.constant import ErrorCode
from pydantic import BaseModel

from feat_fed.config import SiteConfig, StudyConfig
from feat_fed.config.privacy import ReleaseTold, Told
from feat_fed.errors import AuditError, FeatFedError, LedgerError, PrivacyError, ProtocolError
from feat_fed.federate.buckets import Part, unpack_groups
from feat_fed.federate.encoding import form_of, wire_schema
from feat_fed.masked import masked_schema, num_counters
from feat_fed.memorisation import GeneratedClips, NearestClips
from feat_fed.model.state import state_schema
from feat_fed.privacy.ledger import LEDGER_FOLDER, Ledger
from feat_fed.privacy.spent import Spent
from feat_fed.protocol import Assignment, LedgerHead, Report, Task, enclose, opened
from feat_fed.secagg import KeyOffer, ShareOffer, Shares
from feat_fed.wire import digest_of_buckets, from_records, to_records
from feat_fed_client.site_audit import PrivacyCost

FAILED = "the site could not answer; its own log says why"
"""In place of any error's text."""

_ALWAYS = frozenset(
    {"protocol", "study_id", "round", "task", "attempt", "site", "outcome", "holds", "version"}
)
_NOT_DONE = frozenset({"code", "reference"})
_TRAINED = frozenset({"steps", "ended_by", "within_clip_norm", "patients_only_here"})
_AGREED = frozenset({"enclosed"})
_ENCLOSED: dict[Task, type[BaseModel]] = {
    "keys": KeyOffer,
    "shares": ShareOffer,
    "unmask": Shares,
    "memorisation": NearestClips,
}
_TOLD: dict[Told, frozenset[str]] = {
    "losses": frozenset({"train_loss", "heldout_loss"}),
    "counts": frozenset({"examples", "patients", "skipped_steps"}),
    "times": frozenset({"train_sec"}),
}
"""What depends on who the patients are; without privacy in the study it is told."""
_OF_TRAINING = _TRAINED | {"train_loss", "patients", "skipped_steps", "train_sec"}


class DoorError(FeatFedError):
    """A reply must not leave; the message is for the site's own log."""

    code: ClassVar[str] = "internal"


@dataclass(frozen=True)
class LastDoor:
    """One site's, for the answer to one assignment."""

    site: SiteConfig
    assignment: Assignment

    def passed(self, reply: Message, *, to: Message) -> tuple[Message, PrivacyCost | None]:
        """Return the reply as it may leave, and what all that left has cost in a DP-SGD study.

        Raises
        ------
        DoorError
            If it is not of the protocol's form, or the site's policy keeps it.
        StorageError
            If the privacy ledger cannot be written.
        """
        if reply.has_error():
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, FAILED), reply_to=to), None
        try:
            report, buckets = from_records(reply.content, Report)
            self._require_answer(report, buckets)
            if buckets:
                require_update(buckets, self.assignment.study)
            spent = self._released(report, buckets)
            report = allowed(report, self.assignment.study, self.site)
        except (ProtocolError, PrivacyError, AuditError) as error:
            raise DoorError(str(error)) from error
        cost = None
        if spent is not None:
            delta = self.site.privacy.delta
            cost = PrivacyCost(epsilon=spent.epsilon(delta=delta), delta=delta)
            # Others note the head of a ledger that the round has been held against, and no other.
            if buckets and spent.head is not None:
                head = LedgerHead(line=spent.head.sequence, hash=spent.head.hash)
                report = report.model_copy(update={"ledger": head})
        return Message(to_records(report, buckets), reply_to=to), cost

    def _require_answer(self, report: Report, buckets: Sequence[bytes]) -> None:
        told, study = self.assignment, self.assignment.study
        for field in ("study_id", "round", "task", "attempt"):
            if getattr(report, field) != getattr(told, field):
                raise DoorError(f"the trainer's report is of another {field.replace('_', ' ')}")
        if report.site != self.site.name:
            raise DoorError("the trainer's report is of another site")
        lacking = sorted(set(self.site.privacy.require) - study.privacy.protections)
        if lacking and report.outcome == "ok":
            raise DoorError(f"the study lacks what privacy.require demands: {', '.join(lacking)}")
        if study.privacy.secure_aggregation and buckets and told.attempt is None:
            raise DoorError("an update without masks in a study with secure aggregation")
        if report.outcome == "ok" and report.task == "memorisation":
            asked = opened(told.enclosed, GeneratedClips).clips
            if len(opened(report.enclosed, NearestClips).near) != asked:
                raise DoorError(f"the trainer's report is not of the {asked} clips that came")
        is_update = report.outcome == "ok" and report.task == "train"
        if is_update != bool(buckets):
            raise DoorError(f"the trainer sends {len(buckets)} buckets with such a report")

    def _released(self, report: Report, buckets: Sequence[bytes]) -> Spent | None:
        """Enter an update's leaving in the ledger; return what it says then."""
        if self.assignment.study.privacy.patient is None:
            return None
        ledger = Ledger(self.site.store, self.site.name)
        if buckets:
            return ledger.release(
                report.study_id,
                report.round,
                steps=report.steps + report.skipped_steps,
                update_sha256=digest_of_buckets(buckets),
            )
        try:
            return ledger.read()
        except (LedgerError, AuditError):
            return None  # why is in the log of who declined the round


def allowed(report: Report, study: StudyConfig, site: SiteConfig) -> Report:
    """Return a report of the fields that its task and outcome may have, and no other's value.

    Under differential privacy what depends on the patients is not among them, but for what the
    site's ``privacy.tell`` and ``release.tell`` let out.

    Raises
    ------
    ProtocolError
        If what it encloses is not of its task's kind.
    """
    fields = set(_ALWAYS)
    if report.outcome != "ok":
        fields |= _NOT_DONE
    elif report.task in _ENCLOSED:
        fields |= _AGREED
        # Made anew, so that it holds nothing but the fields of its kind.
        message = opened(report.enclosed, _ENCLOSED[report.task])
        if isinstance(message, NearestClips):
            message = message.told(release_told(site, study))
        report = report.model_copy(update={"enclosed": enclose(message)})
    else:
        private = study.privacy.patient or study.privacy.central
        told = _TOLD if not private else {each: _TOLD[each] for each in site.privacy.tell}
        fields |= _TRAINED.union(*told.values())
        if report.task == "evaluate":
            fields -= _OF_TRAINING
    kept = {name: value for name, value in report.model_dump().items() if name in fields}
    is_counted = report.outcome == "ok" and report.task not in _ENCLOSED
    least = {"examples": 1} if is_counted else {}
    return Report.model_validate(least | kept)


def release_told(site: SiteConfig, study: StudyConfig) -> ReleaseTold:
    """Return what is told of generated clips.

    A question comes with a study, which the server may say anything of. Where patients were trained
    on with DP-SGD, in whatever study, no scores are told unless the site's file says so.
    """
    told = site.release.told(study.privacy, site.privacy)
    unsaid = site.release.tell is None and told == "scores"
    return "verdicts" if unsaid and (site.store / LEDGER_FOLDER).exists() else told


def require_update(buckets: Sequence[bytes], study: StudyConfig) -> None:
    """Raise :class:`ProtocolError` unless these are the update's tensors and not a byte more."""
    for _ in unpack_groups(buckets, update_parts(study)):
        pass  # each is checked as it is read
    if not all(map(_is_plain, buckets)):
        raise ProtocolError("a bucket holds more than its tensors", refusal="tensors")


def _is_plain(bucket: bytes) -> bool:
    """Whether a safetensors file has no metadata, and no room in its header for anything else."""
    size = int.from_bytes(bucket[:8], "little")
    header = json.loads(bucket[8 : 8 + size])
    if any(each.keys() != {"dtype", "shape", "data_offsets"} for each in header.values()):
        return False
    plain = json.dumps(header, separators=(",", ":")).encode()
    return bucket[8 : 8 + size] == plain + b" " * (-len(plain) % 8)


def update_parts(study: StudyConfig) -> Mapping[str, Mapping[str, Part]]:
    """Return shape and dtype of each part of an update as it travels, by the tensor's name."""
    schema = state_schema(study.model)
    if study.privacy.secure_aggregation is not None:
        masked = masked_schema(schema, counters=num_counters(study))
        return wire_schema(masked, None)
    return wire_schema(schema, form_of(study.transfer, "up"))

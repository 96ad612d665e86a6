"""A site's answer, checked before it touches anything; the site is taken for hostile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from flwr.app import Message
from flwr.common.constant import ErrorCode
from torch import Tensor

from feat_fed.config import TrainingConfig
from feat_fed.errors import ProtocolError, RefusalCode
from feat_fed.masked import num_counters, unpack_masked
from feat_fed.protocol import DECLINES, FAILURES, Assignment, Report
from feat_fed.report.records import SiteRound, SiteStatus
from feat_fed.train.steps import planned_steps
from feat_fed.wire import carried, from_records
from feat_fed_server.outgoing import Outgoing
from feat_fed_server.roster import Roster
from feat_fed_server.screening import log_norm
from feat_fed_server.standing import Answer

NOT_APPROVED = (
    "the site has not approved this server's application bundle (`feat-fed site trust` there "
    "shows it)"
)

TAKEN_OUT = "its key was taken out in the middle of the round"


@dataclass(frozen=True)
class Reply:
    """What a site answered, in words of ours."""

    site: str
    status: SiteStatus
    reason: str = ""
    report: Report | None = None
    weights: Mapping[str, Tensor] | None = None
    """Until they are in the round's inbox."""
    bytes_up: int = 0
    code: RefusalCode | None = None
    """Of a refusal: what the site is told."""
    digest: str | None = None
    """Of the update as it travelled."""
    norm: float | None = None
    """L2 of the update, where it was measured."""
    answer_sec: float | None = None
    """From asking to the answer."""
    answered_at: float | None = None
    """Unix time."""
    answers_round: int | None = None
    """The earlier round that an update answers, where it came late."""
    bytes_down: int = 0
    """Of weights that were sent to the site until this came of it."""

    @property
    def lacks_base(self) -> bool:
        """Whether the site was sent a difference from weights that it does not have."""
        return self.status == "failed" and self.report is not None and self.report.code == "base"

    @property
    def may_change_soon(self) -> bool:
        """Whether the site declined for the time being."""
        return self.report is not None and self.report.code in ("paused", "hours")

    def record(self, bytes_down: int, training: TrainingConfig) -> SiteRound:
        """Return the line of the run's record."""
        told = self.report if self.status == "ok" else None
        return SiteRound(
            site=self.site,
            status=self.status,
            reason=self.reason,
            code=self.code or (self.report.code if self.report else None) or "",
            examples=told.examples if told else 0,
            steps=told.steps if told else 0,
            planned_steps=planned_steps(training, num_clips=told.examples) if told else 0,
            ended_by=told.ended_by if told else "steps",
            skipped_steps=told.skipped_steps if told else 0,
            train_loss=told.train_loss if told else None,
            heldout_loss=told.heldout_loss if told else None,
            train_sec=told.train_sec if told else 0.0,
            version=(told.version or "") if told else "",
            bytes_down=bytes_down,
            bytes_up=self.bytes_up,
            answers_round=self.answers_round,
            patients_only_here=told.patients_only_here if told else False,
        )

    def refused(self, error: ProtocolError) -> Reply:
        """Return it as one that is turned away."""
        return replace(self, status="refused", reason=str(error), code=error.refusal, weights=None)

    def answer(self) -> Answer:
        """Return what of it counts for the site's standing."""
        report = self.report
        measured = report is not None and self.norm is not None and self.status == "ok"
        return Answer(
            site=self.site,
            status=self.status,
            code=self.code,
            digest=self.digest,
            log_norm=log_norm(self.norm or 0.0, report.steps) if report and measured else None,
            answer_sec=self.answer_sec,
            train_sec=report.train_sec if report else 0.0,
            answered_at=self.answered_at,
            of_round=self.answers_round,
            ledger=report.ledger if report else None,
        )


def missing(site: str) -> Reply:
    """Return the reply of a site that gave none."""
    return Reply(site, "missing", "no answer before the deadline")


def read_reply(
    message: Message,
    site: str,
    node_id: int,
    *,
    assignment: Assignment,
    roster: Roster,
    outgoing: Outgoing | None,
) -> Reply:
    """Read a Flower message; whatever it holds, the outcome is a :class:`Reply`.

    Parameters
    ----------
    site
        Whom the message was asked of.
    outgoing
        What was sent with it; None: an update is not read.
    """
    if message.has_error():
        if message.error.code == ErrorCode.INVALID_FAB:
            return Reply(site, "failed", NOT_APPROVED)
        return Reply(site, "failed", f"Flower error {message.error.code}: the site's process ended")
    try:
        report, buckets = from_records(message.content, Report)
        site = roster.check(node_id, report.site)
        _check_answers(report, assignment)
    except ProtocolError as error:
        return Reply(site, "refused").refused(error)
    size = sum(len(bucket) for bucket in buckets)
    if report.outcome != "ok":
        return Reply(site, report.outcome, _why(report), report=report)
    if assignment.task != "train" or outgoing is None:
        return Reply(site, "ok", report=report, bytes_up=size)
    try:
        if assignment.attempt is None:
            weights = outgoing.read_update(buckets)
        else:
            counters = num_counters(assignment.study)
            weights = unpack_masked(buckets, outgoing.weights, counters=counters)
    except ProtocolError as error:
        return Reply(site, "refused", bytes_up=size).refused(error)
    digest = carried(message.content).sha256
    return Reply(site, "ok", report=report, weights=weights, bytes_up=size, digest=digest)


def _check_answers(report: Report, assignment: Assignment) -> None:
    fields: dict[str, RefusalCode] = {
        "study_id": "study",
        "round": "round",
        "task": "task",
        "attempt": "agreement",
    }
    for field, code in fields.items():
        if getattr(report, field) != getattr(assignment, field):
            raise ProtocolError(f"an answer to another {field.replace('_', ' ')}", refusal=code)
    if report.outcome == "ok" and report.task == "train":
        most = assignment.study.training.local_steps
        done = report.steps + report.skipped_steps
        if report.steps < 1 or done > most:
            raise ProtocolError(f"not between 1 and the round's {most} steps", refusal="steps")
        planned = planned_steps(assignment.study.training, num_clips=report.examples)
        if report.ended_by == "steps" and done != planned:
            raise ProtocolError(
                f"not all of the {planned} steps, and nothing that ended them", refusal="steps"
            )
        if assignment.study.strategy.weigh_by == "patients" and not report.patients:
            raise ProtocolError("no count of patients, by which the study weighs")


def _why(report: Report) -> str:
    told = next(text for code, text in (FAILURES | DECLINES).items() if code == report.code)
    where = f" (look for {report.reference} in the site's log)" if report.reference else ""
    return told + where

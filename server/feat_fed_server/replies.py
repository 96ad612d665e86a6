"""A site's answer, checked before it touches anything; the site is taken for hostile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flwr.app import Message
from flwr.common.constant import ErrorCode
from torch import Tensor

from feat_fed.config import TrainingConfig
from feat_fed.errors import ProtocolError
from feat_fed.federate import unpack
from feat_fed.protocol import DECLINES, FAILURES, Assignment, Report
from feat_fed.report.records import SiteRound, SiteStatus
from feat_fed.train.steps import planned_steps
from feat_fed.wire import from_records
from feat_fed_server.roster import Roster

NOT_APPROVED = (
    "the site has not approved this server's application bundle (`feat-fed site trust` there "
    "shows it)"
)


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
    sendings: int = 1
    """Of the question to the site, weights and all, until this came of it."""

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
            code=(self.report.code or "") if self.report else "",
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
    schema: Mapping[str, Tensor],
) -> Reply:
    """Read a Flower message; whatever it holds, the outcome is a :class:`Reply`.

    Parameters
    ----------
    site
        Whom the message was asked of.
    schema
        Tensors with the names, shapes and dtypes of the global weights.
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
        return Reply(site, "refused", str(error))
    size = sum(len(bucket) for bucket in buckets)
    if report.outcome != "ok":
        return Reply(site, report.outcome, _why(report), report=report)
    if assignment.task == "evaluate":
        return Reply(site, "ok", report=report, bytes_up=size)
    try:
        weights = unpack(buckets, schema)
    except ProtocolError as error:
        return Reply(site, "refused", str(error), bytes_up=size)
    return Reply(site, "ok", report=report, weights=weights, bytes_up=size)


def _check_answers(report: Report, assignment: Assignment) -> None:
    for field in ("study_id", "round", "task"):
        if getattr(report, field) != getattr(assignment, field):
            raise ProtocolError(f"an answer to another {field.replace('_', ' ')}")
    if report.outcome == "ok" and report.task == "train":
        most = assignment.study.training.local_steps
        done = report.steps + report.skipped_steps
        if report.steps < 1 or done > most:
            raise ProtocolError(f"not between 1 and the round's {most} steps")
        planned = planned_steps(assignment.study.training, num_clips=report.examples)
        if report.ended_by == "steps" and done != planned:
            raise ProtocolError(f"not all of the {planned} steps, and nothing that ended them")
        if assignment.study.strategy.weigh_by == "patients" and not report.patients:
            raise ProtocolError("no count of patients, by which the study weighs")


def _why(report: Report) -> str:
    told = next(text for code, text in (FAILURES | DECLINES).items() if code == report.code)
    where = f" (look for {report.reference} in the site's log)" if report.reference else ""
    return told + where

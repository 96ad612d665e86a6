"""What server and site say to each other; both sides treat the other's words as hostile.

A message is a header (one of the models here, as JSON) and, where weights travel,
buckets of them (:mod:`feat_fed.federate.buckets`). Nothing else is read. Headers hold
numbers, names from a fixed alphabet and codes from a fixed list: there is no field
into which a text from inside a hospital could be put.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
from typing import Annotated, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from feat_fed.config.base import StrictModel
from feat_fed.config.study import Name, StudyConfig
from feat_fed.errors import ProtocolError, RefusalCode
from feat_fed.versions import installed_versions

PROTOCOL_VERSION: Literal[1] = 1
MAX_HEADER_BYTES = 256 * 1024

StudyId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Reference = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8}$")]
WeightsDigest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256 of weights: :func:`feat_fed.federate.digest_of`."""
_VERSION = r"[0-9A-Za-z.+-]{1,32}"
VersionText = Annotated[str, StringConstraints(pattern=f"^{_VERSION}$")]
Attempt = Annotated[int, Field(ge=1, le=1000)]
"""At a round with secure aggregation: one that begins again with new keys is another."""
Enclosed = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9+/]+={0,2}$", max_length=MAX_HEADER_BYTES)
]
"""Base64 of a message of :mod:`feat_fed.secagg` or :mod:`feat_fed.memorisation`, which its task
and direction tell."""
Task = Literal["train", "evaluate", "keys", "shares", "unmask", "memorisation"]
"""Only the first two move weights. Keys, shares and unmask are secure aggregation's; memorisation
asks which of the generated clips beside it are copies of the site's."""
Outcome = Literal["ok", "failed", "declined"]

FailureCode = Literal[
    "config",
    "data",
    "checkpoint",
    "training",
    "memory",
    "storage",
    "device",
    "stalled",
    "protocol",
    "base",
    "agreement",
    "internal",
]
"""Why a site could not do its part: the class of the error and nothing of its text."""

DeclineCode = Literal["paused", "hours", "traffic", "privacy", "protection", "release"]
"""Which of the site's own limits a round does not fit."""

EndedBy = Literal["steps", "minutes", "hours", "pause"]
"""Which limit ended a round's training: the study's count of steps or epochs, minutes (the
study's, the site's, or those until the round's deadline), or the site's hours or pause."""

FAILURES: dict[FailureCode, str] = {
    "config": "the site's configuration does not fit the study",
    "data": "the site has no clips that the study can use",
    "checkpoint": "the site could not read the weights that it received",
    "training": "training failed at the site",
    "memory": "the site has too little memory for the study",
    "storage": "the site's disk is full or cannot be written",
    "device": "a device of the site failed",
    "stalled": "training at the site made no progress and was ended",
    "protocol": "the site did not accept the server's message",
    "base": "the site does not have the weights to which it was sent a difference",
    "agreement": "the site found keys or sites of the secure aggregation not in order",
    "internal": "an unexpected error at the site",
}

DECLINES: dict[DeclineCode, str] = {
    "paused": "the site is paused",
    "hours": "the site does not train at this time of day",
    "traffic": "the round's weights are more than the site sends and receives in a round",
    "privacy": "the site's privacy budget does not allow the round, or its ledger is not whole",
    "protection": "the study lacks a protection of patients that the site demands",
    "release": "the site's policy tells no more of how near generated clips are to its own",
}

SHORTENED: dict[EndedBy, str] = {
    "minutes": "minutes were up",
    "hours": "the site's hours ended",
    "pause": "the site was paused",
}
"""Why a round has fewer steps than were planned."""

REFUSALS: dict[RefusalCode, str] = {
    "form": "the message was not of the protocol's form",
    "name": "the report carried another site's name",
    "study": "the update was for another study",
    "round": "the update was for another round",
    "task": "the answer was to another task",
    "steps": "the round does not allow this number of steps",
    "tensors": "tensors were missing, unknown, or of another shape or type",
    "not-finite": "a weight was not finite",
    "zero": "all weights were zero",
    "unchanged": "the weights were those that the round began with",
    "replay": "the update was that of an earlier round",
    "copy": "the update was another site's",
    "moved": "a weight moved further than the round's steps can move it",
    "norm": "the update was far larger than the others'",
    "share": "the site would have had almost all of the weight in the mean",
    "agreement": "its part in the secure aggregation was not in order",
}
"""Why the server does not take an update."""

HeaderT = TypeVar("HeaderT", bound=BaseModel)

UNKNOWN_KEY = 9401
WRONG_CLOCK = 9402
BAD_SIGNATURE = 9403
PENDING_KEY = 9404
REVOKED_KEY = 9405
UNKNOWN_TOKEN = 9410
USED_TOKEN = 9411
EXPIRED_TOKEN = 9412
BAD_REQUEST = 9413
TOO_OFTEN = 9429
"""Codes of the refusals of the server's door, in the form of Flower's errors."""

JOIN_PATH = "/feat-fed/join"
"""Where a hospital with a token asks to take part (:mod:`feat_fed.joining`)."""

PROBE_PATH = "/feat-fed/probe"
"""Where a registered site measures the way to the server: it posts bytes and gets bytes."""
PROBE_BYTES_HEADER = "feat-fed-probe-bytes"
"""Of the request: how many to send back."""
PROBE_ANSWER_HEADER = "feat-fed-probe"
"""Of the answer: a :class:`ProbeAnswer`."""
MAX_PROBE_BYTES = 8 * 1024**2
"""In each direction."""


class Versions(StrictModel):
    """What is installed at one side, as far as it can keep the two from working together."""

    feat_fed: VersionText
    python: VersionText
    torch: VersionText | None = None
    flwr: VersionText | None = None
    deepspeed: VersionText | None = None

    @classmethod
    def installed(cls) -> Versions:
        """Return those of this process; one that is no plain version is left out."""
        found = {name.replace("-", "_"): each for name, each in installed_versions().items()}
        plain = {name: each for name, each in found.items() if re.fullmatch(_VERSION, each)}
        return cls.model_validate({name: plain.get(name) for name in cls.model_fields})


class ProbeAnswer(StrictModel):
    """The door to a site: under which name it is known, and what the server runs."""

    site: Name
    received_bytes: int = Field(ge=0, le=MAX_PROBE_BYTES)
    versions: Versions


class LedgerHead(StrictModel):
    """The last line of a site's privacy ledger: a later one must still hold it."""

    line: int = Field(ge=1, le=10**9)
    hash: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Verdict(StrictModel):
    """What became of a site's last answer."""

    round: int = Field(ge=1, le=100_000)
    outcome: Literal["accepted", "late", "refused"]
    code: RefusalCode | None = None
    in_a_row: int = Field(0, ge=0, le=100_000, description="rounds with a refused update")

    @model_validator(mode="after")
    def _refusal_is_told(self) -> Self:
        if (self.outcome == "refused") != (self.code is not None):
            raise ValueError("a refusal, and nothing else, carries a code")
        return self


class Assignment(StrictModel):
    """Server to site: a task, with the global weights beside it."""

    protocol: Literal[1] = PROTOCOL_VERSION
    study_id: StudyId
    round: int = Field(ge=1, le=100_000)
    task: Task
    first_step: int = Field(ge=0, description="optimiser steps that the study has taken before")
    study: StudyConfig
    versions: Versions | None = Field(None, description="of the server")
    answer_within_sec: float | None = Field(
        None, gt=0, description="from the sending; a later answer is late"
    )
    verdict: Verdict | None = Field(None, description="on the site's last answer")
    weights: WeightsDigest | None = Field(
        None, description="that the task starts from; None: they came whole, and are not kept"
    )
    base: WeightsDigest | None = Field(
        None,
        description="of the weights from which a difference came, none if they are the same; None: "
        "the weights came whole",
    )
    taken: int | None = Field(
        None,
        ge=0,
        le=100_000,
        description="the last round of which the server used this site's update, 0: none; None: "
        "the server does not know the site by name yet",
    )
    attempt: Attempt | None = Field(
        None, description="whose keys mask the update; None: it is not masked"
    )
    enclosed: Enclosed | None = None
    clip_norm: float | None = Field(
        None, gt=0, description="longest update in this round, where the study has central privacy"
    )
    ledger: LedgerHead | None = Field(
        None, description="of the site's privacy ledger, as the site told it last in this study"
    )

    @field_validator("study")
    @classmethod
    def _has_no_paths(cls, study: StudyConfig) -> StudyConfig:
        # Of either side's making: the server's paths stay there, and a site opens none of them.
        return study.for_sites()

    @property
    def moves_weights(self) -> bool:
        """Whether the task starts from weights."""
        return self.task in ("train", "evaluate")


class Report(StrictModel):
    """Site to server: what came of it, with the site's weights beside it after training."""

    protocol: Literal[1] = PROTOCOL_VERSION
    study_id: StudyId
    round: int = Field(ge=1, le=100_000)
    task: Task
    site: Name
    outcome: Outcome
    code: FailureCode | DeclineCode | None = None
    reference: Reference | None = Field(
        None, description="finds the error's text in the site's own log"
    )
    examples: int = Field(0, ge=0, le=10**9)
    patients: int | None = Field(
        None,
        ge=1,
        le=10**9,
        description="in training; told only where the study weighs sites by patients",
    )
    steps: int = Field(0, ge=0, le=10**9)
    skipped_steps: int = Field(
        0, ge=0, le=10**9, description="not taken, because a loss or gradient was not finite"
    )
    ended_by: EndedBy = "steps"
    train_loss: float | None = Field(None, ge=-1e12, le=1e12)
    heldout_loss: float | None = Field(None, ge=-1e12, le=1e12)
    train_sec: float = Field(0.0, ge=0, le=10**7)
    holds: WeightsDigest | None = Field(
        None, description="of the server's weights that the site keeps, for differences"
    )
    version: VersionText | None = Field(None, description="of feat-fed at the site")
    attempt: Attempt | None = Field(None, description="that of the assignment")
    enclosed: Enclosed | None = None
    within_clip_norm: bool | None = Field(
        None, description="whether the update was no longer than clip_norm before it was clipped"
    )
    patients_only_here: bool = Field(
        False, description="the site vouches that its patients are at no other site of the study"
    )
    ledger: LedgerHead | None = Field(
        None, description="of the site's privacy ledger, in a study with DP-SGD"
    )

    @model_validator(mode="after")
    def _outcome_is_told(self) -> Self:
        codes = {"ok": {None}, "failed": FAILURES.keys(), "declined": DECLINES.keys()}
        if self.code not in codes[self.outcome]:
            raise ValueError("a report of no success carries a code of its kind")
        moves_weights = self.task in ("train", "evaluate")
        if self.outcome == "ok" and moves_weights and self.examples < 1:
            raise ValueError("a report of success carries at least one example")
        return self


def verdict_text(verdict: Verdict, quarantine_after: int | None = None) -> str:
    """Return what a person at the site is told of a verdict."""
    if verdict.outcome != "refused" or verdict.code is None:
        return "the server took it" if verdict.outcome == "accepted" else "it came too late"
    told = f"the server refused it: {REFUSALS[verdict.code]}"
    if verdict.in_a_row and quarantine_after is not None:
        told += (
            f" (refusal {verdict.in_a_row} of {quarantine_after} in a row, after which the server "
            "asks this site no more)"
        )
    return told


def parse_header(model: type[HeaderT], text: str) -> HeaderT:
    """Parse a header that came over the wire.

    Raises
    ------
    ProtocolError
        If it is too long, no JSON, of another protocol version or breaks the schema. The
        message names the fields and holds none of the sender's text.
    """
    if len(text) > MAX_HEADER_BYTES:
        raise ProtocolError(f"a header of {len(text)} characters; at most {MAX_HEADER_BYTES}")
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        known = set(model.model_fields)
        fields = sorted({str(each["loc"][0]) for each in error.errors() if each["loc"]} & known)
        raise ProtocolError(
            f"a header that is no {model.__name__} of protocol {PROTOCOL_VERSION}"
            f" (wrong: {', '.join(fields) or 'its form'})"
        ) from None


def enclose(message: BaseModel) -> str:
    """Return a message as a header carries it beside its own fields."""
    return base64.b64encode(message.model_dump_json().encode()).decode()


def opened(text: str | None, model: type[HeaderT]) -> HeaderT:
    """Return a message that came inside a header.

    Raises
    ------
    ProtocolError
        If there is none, or it breaks the schema.
    """
    try:
        return model.model_validate_json(base64.b64decode(text or "", validate=True))
    except ValueError:  # pydantic's errors are some, too
        error = ProtocolError(f"a header that encloses no {model.__name__}", refusal="agreement")
        raise error from None


def refusal_code(content: bytes) -> int | None:
    """Return the code in the body of a refusal by the server's door, if it holds one."""
    with contextlib.suppress(ValueError):
        told = json.loads(content)
        code = told.get("code") if isinstance(told, dict) else None
        return code if isinstance(code, int) else None
    return None

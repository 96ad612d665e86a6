"""The errors that this library raises on purpose.

::

    FeatFedError
    ├── ConfigError          a YAML file, a flag or an environment variable is wrong
    ├── MissingExtraError    a command needs a part of feat-fed that is not installed
    ├── DataError            a folder of clips cannot be used
    │   └── ClipError        one file cannot be read; the others can
    ├── CheckpointError      a weights file is damaged, foreign or of another model
    │   └── StorageError     a file cannot be written, as on a full disk
    ├── TrainingError        local training cannot go on
    │   ├── MemoryShortError what is to be computed does not fit into memory
    │   ├── DeviceError      the GPU was lost, or the driver under it
    │   └── StalledError     training has made no progress for too long
    ├── ProtocolError        a message from the other side breaks the protocol
    │   ├── MissingBaseError it builds on weights that this side does not have
    │   └── AgreementError   keys, shares or sites of a secure aggregation are not in order
    ├── FederationError      the study cannot go on
    │   ├── DropoutError     too few sites are left in a round with secure aggregation
    │   ├── RefusedError     the other side turned this one away
    │   └── ChildError       a process that we started has ended
    ├── RunError             a run's folder cannot be used
    ├── BackupError          a backup cannot be made, is not whole, or would replace something
    ├── AuditError           there is no audit log, or it cannot be read
    └── PrivacyError         patients here would be less protected than the site demands
        ├── LedgerError      the privacy ledger is damaged, cut off or another site's
        └── BudgetError      a round would spend more than is left

A message says what was wrong, with the value, and what to do next. It is meant
for a screen or a log of the machine where it was raised: it may hold paths, so it
never travels. What may travel is :meth:`FeatFedError.shareable`.
"""

from __future__ import annotations

from typing import ClassVar, Literal

RefusalCode = Literal[
    "form",
    "name",
    "study",
    "round",
    "task",
    "steps",
    "tensors",
    "not-finite",
    "zero",
    "unchanged",
    "replay",
    "copy",
    "moved",
    "norm",
    "share",
    "agreement",
]
"""Why a message is turned away: all that its sender learns of it."""


class FeatFedError(Exception):
    """Base of all; the command line prints it without a traceback."""

    code: ClassVar[str] = "error"

    def shareable(self) -> str:
        """Return what a report that is given away may say of this error."""
        return f"{self.code} error; the log says more"


class ConfigError(FeatFedError):
    """A configuration file, a flag or an environment variable is wrong."""

    code = "config"


class MissingExtraError(FeatFedError):
    """A command needs packages that are not installed."""

    code = "missing-extra"


class DataError(FeatFedError):
    """A folder of clips cannot be used."""

    code = "data"


class ClipError(DataError):
    """One file cannot be read as a clip; its neighbours are unaffected.

    Parameters
    ----------
    reason
        A short phrase of ours that holds nothing of the file (no name, path, text or
        metadata value that could identify anybody), such as ``"truncated stream"``.
    """

    code = "clip"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class CheckpointError(FeatFedError):
    """A weights file is damaged, foreign or of another model."""

    code = "checkpoint"


class StorageError(CheckpointError):
    """A file of weights or the audit log cannot be written: the disk is full or read-only."""

    code = "storage"

    def shareable(self) -> str:
        """Return what was wrong, without where."""
        return "the disk is full, over its quota or read-only; free some and go on"


class TrainingError(FeatFedError):
    """Local training cannot go on."""

    code = "training"


class MemoryShortError(TrainingError):
    """What is to be computed does not fit into the memory of the machine or of a device."""

    code = "memory"


class DeviceError(TrainingError):
    """A device or the driver under it has failed; the process that used it cannot go on."""

    code = "device"


class StalledError(TrainingError):
    """Training has made no progress for so long that it was ended."""

    code = "stalled"


class ProtocolError(FeatFedError):
    """A message from the other side of the wire breaks the protocol.

    Parameters
    ----------
    refusal
        What the sender is told; the message is for this side's log and report.
    """

    code = "protocol"

    def __init__(self, message: str, *, refusal: RefusalCode = "form") -> None:
        super().__init__(message)
        self.refusal: RefusalCode = refusal


class MissingBaseError(ProtocolError):
    """A message is a difference from weights that this side does not have; ask for them whole."""

    code = "base"


class AgreementError(ProtocolError):
    """Keys, shares or sites of a secure aggregation are not in order."""

    code = "agreement"

    def __init__(self, message: str) -> None:
        super().__init__(message, refusal="agreement")


class FederationError(FeatFedError):
    """The study cannot go on; the message is made of site names and fixed phrases."""

    code = "federation"

    def shareable(self) -> str:
        """Return the message itself."""
        return str(self)


class DropoutError(FederationError):
    """Too few sites are left for the sum of a round to be found; the round may be asked again."""

    code = "dropouts"


class RefusedError(FederationError):
    """The other side turned this one away."""

    code = "refused"

    def shareable(self) -> str:
        """Return no message: it holds paths of this machine."""
        return FeatFedError.shareable(self)


class ChildError(FederationError):
    """A process that we started has ended on its own."""

    code = "child"

    def shareable(self) -> str:
        """Return no message: it holds paths of this machine."""
        return FeatFedError.shareable(self)


class RunError(FeatFedError):
    """A run's folder cannot be used."""

    code = "run"


class BackupError(FeatFedError):
    """A backup cannot be made, is not whole, or would replace something."""

    code = "backup"


class AuditError(FeatFedError):
    """There is no audit log, or it cannot be read."""

    code = "audit"


class PrivacyError(FeatFedError):
    """Patients of the site would be less protected than it demands."""

    code = "privacy"


class LedgerError(PrivacyError):
    """The privacy ledger cannot be believed; the message names the line."""


class BudgetError(PrivacyError):
    """A round would spend more than is left of the site's epsilon."""

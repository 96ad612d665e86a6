"""A clip as the manifest knows it: numbers, keyed hashes and phrases of ours."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, cast

from feat_fed.data.quality import Look
from feat_fed.data.quality.field import FieldFrom
from feat_fed.data.quality.rules import Outcome
from feat_fed.data.reading.clip import Box, ClipInfo, Kind

# fmt: off
_MODALITIES = frozenset((
    "AR", "ASMT", "AU", "BDUS", "BI", "BMD", "CFM", "CR", "CT", "CTPROTOCOL", "DG", "DMS",
    "DOC", "DX", "ECG", "EEG", "EMG", "EOG", "EPS", "ES", "FID", "GM", "HC", "HD", "IO",
    "IOL", "IVOCT", "IVUS", "KER", "KO", "LEN", "LS", "M3D", "MG", "MR", "NM", "OAM", "OCT",
    "OP", "OPM", "OPT", "OPTBSV", "OPTENF", "OPV", "OSS", "OT", "PA", "PLAN", "POS", "PR",
    "PT", "PX", "REG", "RESP", "RF", "RG", "RTDOSE", "RTIMAGE", "RTINTENT", "RTPLAN",
    "RTRAD", "RTRECORD", "RTSEGANN", "RTSTRUCT", "RWV", "SEG", "SM", "SMR", "SR", "SRF",
    "STAIN", "TEXTUREMAP", "TG", "US", "VA", "XA", "XAPROTOCOL", "XC",
))
# fmt: on
"""Defined terms of PS3.3 C.7.3.1.1.1; anything else could be a text that somebody typed."""

_TRANSFER_SYNTAX = r"1\.2\.840\.10008\.1\.2(\.\d{1,3}){0,3}"


@dataclass(frozen=True)
class ClipRecord:
    """A row of the manifest.

    Parameters
    ----------
    clip_id
        Keyed hash of the path, or of a series' identifier.
    number
        Clips that came earlier have lower ones.
    stamp
        Keyed hash of size and times of change: the file is unchanged while it is.
    looked_by
        What decided the look: versions of the readers and of the quality code, and rules.
    patient, study
        Keyed pseudonyms; ``in_header`` where the file itself names the patient.
    sha256
        Of the contents; of the frames' hashes in order where a clip is several files.
    stated_frames, num_frames
        As the container tells, and as the decoder gives.
    unreadable
        Why the clip has no look; empty where it has one.
    outcome, reason
        What came of all rules; the reason is empty for a usable clip.
    twin
        The clip that this one repeats, "" where it repeats none; ``None``: not compared yet.
    attempts
        How often this file, as it is, was looked at in this way.
    """

    clip_id: str
    number: int
    stamp: str
    looked_by: str
    patient: str
    in_header: bool = False
    study: str | None = None
    sha256: str | None = None
    kind: Kind | None = None
    modality: str | None = None
    transfer_syntax: str | None = None
    stated_frames: int | None = None
    num_frames: int | None = None
    height_px: int | None = None
    width_px: int | None = None
    fps: float | None = None
    burned_in: bool | None = None
    regions: tuple[Box, ...] = ()
    field: Box | None = None
    field_from: FieldFrom | None = None
    overlays: tuple[Box, ...] = ()
    fingerprint: str | None = None
    dark_share: float | None = None
    motion: float | None = None
    unreadable: str = ""
    outcome: Outcome = "excluded"
    reason: str = ""
    twin: str | None = None
    attempts: int = 1

    @property
    def info(self) -> ClipInfo:
        """What the header told, without anything that identifies; needs a look."""
        return ClipInfo(
            num_frames=self.stated_frames or 0,
            height_px=self.height_px or 0,
            width_px=self.width_px or 0,
            fps=self.fps,
            kind=cast(Kind, self.kind),
            modality=self.modality,
            transfer_syntax=self.transfer_syntax,
            burned_in=self.burned_in,
            regions=self.regions,
        )

    @property
    def look(self) -> Look | None:
        """What the frames show; ``None`` where they could not be read."""
        if self.unreadable:
            return None
        return Look(
            num_frames=cast(int, self.num_frames),
            height_px=cast(int, self.height_px),
            width_px=cast(int, self.width_px),
            dark_share=cast(float, self.dark_share),
            motion=cast(float, self.motion),
            fingerprint=cast(str, self.fingerprint),
            field=cast(Box, self.field),
            field_from=cast(FieldFrom, self.field_from),
            overlays=self.overlays,
        )


def known_modality(text: str | None) -> str | None:
    """Return a defined term as it is, and "unknown" for any other text."""
    return text if text in _MODALITIES or text is None else "unknown"


def header_columns(info: ClipInfo) -> dict[str, Any]:
    """Return what a record keeps of a header; text only where it is one of a known few."""
    syntax = info.transfer_syntax
    return {
        "kind": info.kind,
        "modality": known_modality(info.modality),
        "transfer_syntax": syntax if syntax and re.fullmatch(_TRANSFER_SYNTAX, syntax) else None,
        "stated_frames": info.num_frames,
        "height_px": info.height_px,
        "width_px": info.width_px,
        "fps": info.fps,
        "burned_in": info.burned_in,
        "regions": info.regions,
    }


def look_columns(look: Look) -> dict[str, Any]:
    """Return what a record keeps of a look."""
    return {each.name: getattr(look, each.name) for each in fields(look)}


def to_row(record: ClipRecord) -> dict[str, Any]:
    """Return the record's columns; boxes are JSON, [left, top, right, bottom]."""
    row = {each.name: getattr(record, each.name) for each in fields(record)}
    row["field"] = record.field and json.dumps(list(asdict(record.field).values()))
    for name in ("regions", "overlays"):
        row[name] = json.dumps([list(asdict(box).values()) for box in row[name]])
    return row


def from_row(row: Mapping[str, Any]) -> ClipRecord:
    """Return what :func:`to_row` wrote."""
    values = dict(row)
    values["field"] = Box(*json.loads(row["field"])) if row["field"] else None
    for name in ("regions", "overlays"):
        values[name] = tuple(Box(*each) for each in json.loads(row[name]))
    values["in_header"] = bool(row["in_header"])
    values["burned_in"] = None if row["burned_in"] is None else bool(row["burned_in"])
    return ClipRecord(**values)

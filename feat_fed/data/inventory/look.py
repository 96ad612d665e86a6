"""One clip, looked at in a process of its own: what it is, what it shows, and its contact sheet.

Everything here runs in the worker processes of :mod:`.pool`, which may be killed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from feat_fed.config import RulesConfig
from feat_fed.data.inventory.pool import NO_MEMORY
from feat_fed.data.quality import Look, look_at
from feat_fed.data.reading.clip import ClipInfo, Source, contained
from feat_fed.data.reading.reader import is_dicom, iter_frames, probe
from feat_fed.errors import ClipError, MissingExtraError

if TYPE_CHECKING:
    from feat_fed.data.reading.series import SeriesFrame

_JPEG_QUALITY = 80
_STUDY_INSTANCE_UID = 0x0020000D  # tags ascend, and PatientID's is lower

CHANGED = "file changed while it was read"
NOT_READ = "file cannot be read"

Role = Literal["file", "series"]


@dataclass(frozen=True)
class Seen:
    """What became of a clip.

    Parameters
    ----------
    source
        Its files; those of a series in order, without second copies.
    info, sha256, look, sheet
        What could be learned before ``reason`` stopped it; ``sheet`` is two JPEG files, before
        and after the treatment.
    reason
        Why there is no look; empty where there is one.
    patient_key, study_key
        Of the header, as in ``info``, where a DICOM file has one and no look.
    """

    source: Source = field(repr=False)
    info: ClipInfo | None = None
    sha256: str | None = None
    look: Look | None = None
    sheet: tuple[bytes, bytes] | None = field(default=None, repr=False)
    reason: str = ""
    patient_key: str | None = field(default=None, repr=False)
    study_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class SingleFrame:
    """A DICOM instance of one frame, which is a clip only with the others of its series."""

    series_key: str = field(repr=False)


Examine = Callable[[Source, Role, RulesConfig], Seen | SingleFrame]
"""What a worker does with a clip; raises nothing of a file's doing."""


def examine(source: Source, role: Role, rules: RulesConfig) -> Seen | SingleFrame:
    """Look at a file (or a folder's pictures), or at the instances of a series."""
    info = sha256 = None
    try:
        if role == "series":
            source = _ordered(source)
        elif len(source) == 1 and is_dicom(source[0]) and (frame := _frame(source[0])):
            return SingleFrame(frame.series_key)
        sha256 = content_sha256(source)
        info = probe(source)
        singles = info.kind in ("dicom-series", "images")
        look, sheet = look_at(
            iter_frames(source), regions=info.regions, rules=rules, must_follow=singles
        )
        pictures = (_jpeg(sheet.before), _jpeg(sheet.after))
        return Seen(source, info, sha256, look, pictures)
    except ClipError as error:
        reason = error.reason
    except MemoryError:
        reason = NO_MEMORY
    patient, study = _owner(source[0])
    return Seen(source, info, sha256, reason=reason, patient_key=patient, study_key=study)


def _ordered(source: Source) -> Source:
    """Sort instances as the series has them; of equal files, one stays."""
    frames: dict[str, tuple[tuple[float, ...], Path]] = {}
    for path in sorted(source):
        sha256, frame = content_sha256((path,)), _frame(path)
        if frame is None:  # changed since it was found
            raise ClipError(CHANGED)
        frames.setdefault(sha256, (frame.order, path))
    return tuple(path for _, path in sorted(frames.values()))


def _frame(path: Path) -> SeriesFrame | None:
    try:
        from feat_fed.data.reading.series import series_frame
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"reading DICOM needs {error.name}; install it with: pip install 'feat-fed[client]'"
        ) from None
    return series_frame(path)


def _owner(path: Path) -> tuple[str | None, str | None]:
    """Return patient and study of a damaged file, if it tells: an erasure must find it."""
    try:
        if not is_dicom(path):
            return None, None
        from feat_fed.data.reading import header, part10

        beginning = part10.beginning(path, last_tag=_STUDY_INSTANCE_UID)
        with contained(part10.UNREADABLE):
            return header.patient(beginning)[0], header.text(beginning, "StudyInstanceUID")
    except (ClipError, MemoryError):
        return None, None


def content_sha256(source: Source) -> str:
    """Hash a file's bytes, or the hashes of several files."""
    digests = []
    for path in source:
        with contained(NOT_READ), path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _jpeg(picture_HWC: npt.NDArray[np.uint8]) -> bytes:
    buffer = BytesIO()
    Image.fromarray(picture_HWC).save(buffer, format="JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()

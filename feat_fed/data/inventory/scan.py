"""The inventory of a site: which files are clips of which patient, and why others are not."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from feat_fed.config import ClipConfig, SiteDataConfig
from feat_fed.data.inventory.files import FoundFile, find_clips
from feat_fed.data.reading.clip import Box, ClipInfo, Source, contained
from feat_fed.data.reading.reader import probe
from feat_fed.errors import ClipError, DataError

Progress = Callable[[int, int], None]
"""Called with how many files are done and how many there are."""

KEY_BYTES = 32
KEY_FILE = "patients.key"
TOO_SHORT = "fewer frames than a clip needs"


@dataclass(frozen=True)
class ClipEntry:
    """One usable clip; ``patient`` is a keyed pseudonym (64 hexadecimal digits).

    ``field`` is what is kept of a frame, all of it where ``None``; ``overlays`` are blackened.
    """

    source: Source
    sha256: str
    patient: str
    num_frames: int
    height_px: int
    width_px: int
    fps: float | None
    field: Box | None = None
    overlays: tuple[Box, ...] = ()


@dataclass(frozen=True)
class Exclusion:
    """One file that looked like a clip and cannot be used; ``reason`` quotes nothing of it."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Inventory:
    """What :func:`scan` found; ``skipped`` counts files that are no video at all."""

    clips: tuple[ClipEntry, ...]
    excluded: tuple[Exclusion, ...]
    skipped: int


def scan(
    data: SiteDataConfig,
    *,
    key: bytes,
    clips: ClipConfig,
    progress: Progress | None = None,
) -> Inventory:
    """Look at every file below ``data.paths``; a bad one costs an exclusion, not the scan.

    Parameters
    ----------
    key
        The site's secret of :func:`site_key`; pseudonyms mean nothing without it.
    clips
        A file must hold ``(frames - 1) * stride_frames + 1`` frames.

    Raises
    ------
    DataError
        When a path does not exist, or nothing usable is below any of them.
    """
    candidates, skipped = find_clips(data.paths)
    usable: dict[str, ClipEntry] = {}
    excluded: list[Exclusion] = []
    for done, found in enumerate(candidates, start=1):
        try:
            entry = _entry(found, pattern=data.patient_pattern, key=key, clips=clips)
            if entry.sha256 in usable:
                raise ClipError("same content as another file")
            usable[entry.sha256] = entry
        except ClipError as error:
            excluded.append(Exclusion(found.path, error.reason))
        if progress:
            progress(done, len(candidates))
    if not usable:
        raise DataError(_nothing_usable(data.paths, excluded, skipped))
    return Inventory(tuple(usable.values()), tuple(excluded), skipped)


def window_frames(clips: ClipConfig) -> int:
    """Return the source frames that one clip spans: its first, its last and those between."""
    return (clips.frames - 1) * clips.stride_frames + 1


def site_key(store: Path) -> bytes:
    """Return the site's secret, made on first use with mode 0600 in the site's own store.

    It may be called by several processes at once: the first one's key is everyone's.

    Raises
    ------
    DataError
        When the file cannot be made, or is not a key. It is never replaced, for with another
        key every patient gets another pseudonym and may change sides of the split.
    """
    path = store / KEY_FILE
    try:
        store.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _create_key(path)
        key = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be made or read: {error.strerror}") from error
    if len(key) != KEY_BYTES:
        raise DataError(
            f"{path} holds {len(key)} bytes, not a key of {KEY_BYTES}: restore it from a backup, "
            "or remove it to start with new pseudonyms and a new split"
        )
    return key


def pseudonym(text: str, *, key: bytes) -> str:
    """Return HMAC-SHA256 of the text (RFC 2104), in hexadecimal."""
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def _entry(found: FoundFile, *, pattern: str | None, key: bytes, clips: ClipConfig) -> ClipEntry:
    info = probe(found.path)
    if info.num_frames < window_frames(clips):
        raise ClipError(TOO_SHORT)
    with contained("file cannot be read"), found.path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return ClipEntry(
        source=(found.path,),
        sha256=sha256,
        patient=pseudonym(_patient(info, found, pattern=pattern, sha256=sha256), key=key),
        num_frames=info.num_frames,
        height_px=info.height_px,
        width_px=info.width_px,
        fps=info.fps,
    )


def _patient(info: ClipInfo, found: FoundFile, *, pattern: str | None, sha256: str) -> str:
    """Apply the rule of ``SiteDataConfig.patient_pattern``.

    A path that the pattern does not match falls back to the rule without one. Equal texts are
    one patient wherever they come from, so that a folder may be named by a PatientID.
    """
    if info.patient_key:
        return info.patient_key
    if pattern and (match := re.search(pattern, found.relative.as_posix())) and match[1]:
        return match[1]
    return found.relative.parts[0] if len(found.relative.parts) > 1 else sha256


def _create_key(path: Path) -> None:
    """Write a whole key beside ``path``, then link it there unless another process was first."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        path.hardlink_to(part)
    except FileExistsError:
        return
    finally:
        part.unlink(missing_ok=True)


def _nothing_usable(paths: Iterable[Path], excluded: list[Exclusion], skipped: int) -> str:
    found = [f"{skipped} files that are no video"] if skipped else []
    for reason, count in Counter(each.reason for each in excluded).most_common():
        found.append(f"{count} unusable: {reason}")
    where = ", ".join(str(path) for path in paths)
    return (
        f"no usable clip in {where} (found {'; '.join(found) or 'nothing'}); "
        "put multi-frame DICOM or video files there, or correct data.paths"
    )

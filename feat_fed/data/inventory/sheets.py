"""Contact sheets: what a clip looks like before and after its treatment, for a person's eyes.

JPEG files in the site's store, under the clip's id. They may show burned-in names, so they are
nobody's but the site's (mode 0600, in a folder of mode 0700).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from feat_fed.atomic import write_bytes_atomically
from feat_fed.errors import DataError

FOLDER = "sheets"


def sheet_paths(store: Path, clip_id: str) -> tuple[Path, Path]:
    """Return where the pictures of a clip are, before and after; they may be absent."""
    folder = store / FOLDER
    return folder / f"{clip_id}.before.jpg", folder / f"{clip_id}.after.jpg"


def write_sheet(store: Path, clip_id: str, pictures: tuple[bytes, bytes]) -> None:
    """Write both pictures of a clip.

    Raises
    ------
    DataError
        When the disk is full or cannot be written.
    """
    try:
        (store / FOLDER).mkdir(mode=0o700, exist_ok=True)
        for path, data in zip(sheet_paths(store, clip_id), pictures, strict=True):
            write_bytes_atomically(path, data, mode=0o600, durable=False)
    except OSError as error:
        raise DataError(f"{store / FOLDER} cannot be written: {error.strerror}") from error


def drop_sheets(store: Path, clip_ids: Iterable[str]) -> int:
    """Remove the pictures of clips; return of how many clips there were some."""
    dropped = 0
    for clip_id in clip_ids:
        there = [path for path in sheet_paths(store, clip_id) if path.exists()]
        for path in there:
            path.unlink(missing_ok=True)
        dropped += bool(there)
    return dropped


def drop_other_sheets(store: Path, keep: Collection[str]) -> None:
    """Remove pictures of clips that are no more, and parts that a killed scan left."""
    folder = store / FOLDER
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name.split(".")[0] not in keep:
            path.unlink(missing_ok=True)

"""The manifest: what a site knows of its clips, in one file of the site's own store.

SQLite, because looking at a hospital's archive takes hours: each batch of rows is a transaction,
so that a scan which is killed at any moment goes on where it was, a row can be changed without
the others being written anew, several processes may read while one writes, and it is in
Python's standard library. (Parquet files are written whole.)

Nothing of a file's path, name, date, identifier or free text is in it. What would identify
somebody is a keyed hash (:mod:`.identity`), the rest is numbers, codes and phrases of ours.
Deleted content is overwritten (``secure_delete``), and the journal is a file that goes with each
transaction, so nothing lingers in a write-ahead log.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from feat_fed.data.inventory.identity import KEY_FILE, keyed, site_key
from feat_fed.data.inventory.records import ClipRecord, from_row, to_row
from feat_fed.errors import DataError

FILE = "manifest.sqlite"
LOCK = "manifest.lock"
SCHEMA = 2
_APPLICATION = 0x66656174  # "feat": tells our file from any other SQLite database
_BUSY_SEC = 30.0
_RETRY_SEC = 0.2
_PATIENCE_SEC = 8.0  # who encodes clips for hours gives way every few seconds

_TABLES = """
CREATE TABLE clips (
    clip_id TEXT PRIMARY KEY, number INTEGER NOT NULL, stamp TEXT NOT NULL,
    looked_by TEXT NOT NULL, patient TEXT NOT NULL, in_header INTEGER NOT NULL, study TEXT,
    sha256 TEXT, kind TEXT, modality TEXT, transfer_syntax TEXT, stated_frames INTEGER,
    num_frames INTEGER, height_px INTEGER, width_px INTEGER, fps REAL, burned_in INTEGER,
    regions TEXT NOT NULL, field TEXT, field_from TEXT, overlays TEXT NOT NULL, fingerprint TEXT,
    dark_share REAL, motion REAL, unreadable TEXT NOT NULL, outcome TEXT NOT NULL,
    reason TEXT NOT NULL, twin TEXT, attempts INTEGER NOT NULL
);
-- Single-frame instances; "series" is the clip's id, "place" where in it the frame stands (-1 for
-- a second copy), unknown until the series was looked at.
CREATE TABLE frames (
    file TEXT PRIMARY KEY, stamp TEXT NOT NULL, looked_by TEXT NOT NULL, series TEXT NOT NULL,
    place INTEGER
);
-- Which contents were ever whose: what a patient's erasure has to find, also of files long gone.
CREATE TABLE contents (sha256 TEXT, patient TEXT, PRIMARY KEY (sha256, patient));
CREATE TABLE decisions (sha256 TEXT PRIMARY KEY, decision TEXT NOT NULL, shown TEXT NOT NULL);
-- What the last page of the report showed of the clips that wait.
CREATE TABLE paged (sha256 TEXT PRIMARY KEY, shown TEXT NOT NULL);
CREATE TABLE sides (
    fraction TEXT, patient TEXT, side TEXT NOT NULL, PRIMARY KEY (fraction, patient)
);
CREATE TABLE refused (patient TEXT PRIMARY KEY);
CREATE TABLE refused_files (
    file TEXT PRIMARY KEY, patient TEXT NOT NULL REFERENCES refused ON DELETE CASCADE
);
-- Contents of others that show the same as a clip of somebody who was erased.
CREATE TABLE doubted (
    sha256 TEXT, patient TEXT REFERENCES refused ON DELETE CASCADE, PRIMARY KEY (sha256, patient)
);
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


@dataclass(frozen=True)
class FrameRow:
    """A single-frame instance: ``file`` and ``series`` are keyed hashes."""

    file: str
    stamp: str
    looked_by: str
    series: str
    place: int | None = None


class Manifest:
    """An open manifest; use it in a ``with`` block.

    Parameters
    ----------
    store
        The site's folder; manifest and key are made there on first use.
    alone
        Whether no other process may scan, encode or erase meanwhile: ``"wait"`` until that is so,
        ``"refuse"`` if it is not within seconds, or ``None`` for one small change.
    waiting
        Called again and again while it waits.

    Raises
    ------
    DataError
        When the file is damaged, foreign, of a newer version or made under another key, or
        another process holds it and ``alone`` is ``"refuse"``.
    """

    def __init__(
        self,
        store: Path,
        *,
        alone: Literal["wait", "refuse"] | None,
        waiting: Callable[[], None] = lambda: None,
    ) -> None:
        self.store = store
        self._path = store / FILE
        if self._path.exists() and not (store / KEY_FILE).exists():
            raise DataError(
                f"{store / KEY_FILE} is missing, and {self._path} was made with it: restore the "
                f"key from a backup, or {_ANEW}"
            )
        self.key = site_key(store)
        self._open = contextlib.ExitStack()
        try:
            if alone:
                self._open.enter_context(_alone(store, waiting, wait=alone == "wait"))
            self._database = self._open.enter_context(contextlib.closing(self._connect()))
            with self._guarded():
                self._check()
        except BaseException:
            self._open.close()
            raise

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @contextlib.contextmanager
    def changing(self) -> Iterator[sqlite3.Connection]:
        """Lend the database for one transaction: all of it happens, or nothing."""
        with self._guarded():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
            except BaseException:
                self._database.rollback()
                raise
            self._database.commit()

    def select(self, query: str, *values: object) -> list[Any]:
        """Return all rows of a query."""
        with self._guarded():
            return self._database.execute(query, values).fetchall()

    def records(self) -> dict[str, ClipRecord]:
        """Return all clips by their ids, those that came first first."""
        rows = self.select("SELECT * FROM clips ORDER BY number, clip_id")
        return {row["clip_id"]: from_row(row) for row in rows}

    def save(self, records: Iterable[ClipRecord], frames: Iterable[FrameRow] = ()) -> None:
        """Write rows, new or changed, in one transaction."""
        rows = [to_row(each) for each in records]
        with self.changing() as database:
            database.executemany(_INSERT, rows)
            database.executemany(
                "INSERT OR IGNORE INTO contents VALUES (:sha256, :patient)",
                [row for row in rows if row["sha256"]],
            )
            database.executemany(
                "INSERT OR REPLACE INTO frames VALUES (:file, :stamp, :looked_by, :series, :place)",
                [asdict(each) for each in frames],
            )

    def frames(self) -> dict[str, FrameRow]:
        """Return all single-frame instances by their files' keyed hashes."""
        return {row["file"]: FrameRow(**row) for row in self.select("SELECT * FROM frames")}

    def shrink(self) -> None:
        """Write the file anew without what was deleted."""
        with self._guarded():
            self._database.execute("VACUUM")

    def _connect(self) -> sqlite3.Connection:
        with self._guarded():
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))  # never more open than so
            database = sqlite3.connect(self._path, timeout=_BUSY_SEC, isolation_level=None)
            database.row_factory = lambda cursor, row: dict(
                zip((each[0] for each in cursor.description), row, strict=True)
            )
            return database

    def _check(self) -> None:
        for pragma in ("secure_delete = ON", "journal_mode = DELETE", "foreign_keys = ON"):
            self._database.execute(f"PRAGMA {pragma}")
        if self._number("user_version") == 0 and not self.select("SELECT 1 FROM sqlite_master"):
            self._create()
        version, application = self._number("user_version"), self._number("application_id")
        if application != _APPLICATION:
            raise DataError(f"{self._path} is no manifest of feat-fed; move it away")
        if version != SCHEMA:
            raise DataError(
                f"{self._path} was written by another version of feat-fed (its form is {version}, "
                f"this one reads {SCHEMA}): use that version, or {_ANEW}"
            )
        made_with = self.select("SELECT value FROM facts WHERE name = 'key'")[0]["value"]
        if made_with != keyed("key", "", key=self.key):
            raise DataError(
                f"{self._path} was made under another key than {self.store / KEY_FILE} is now: "
                f"put the old key back, or {_ANEW}"
            )

    def _create(self) -> None:
        with self.changing() as database:
            if self.select("SELECT 1 FROM sqlite_master"):  # another process was faster
                return
            for statement in _TABLES.split(";\n"):
                database.execute(statement)
            database.execute(f"PRAGMA application_id = {_APPLICATION}")
            database.execute(f"PRAGMA user_version = {SCHEMA}")
            database.execute(
                "INSERT INTO facts VALUES ('key', ?)", (keyed("key", "", key=self.key),)
            )

    def _number(self, pragma: str) -> int:
        (row,) = self.select(f"PRAGMA {pragma}")
        return int(row[pragma])

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Turn what the database or the disk says into an error with a mend."""
        try:
            yield
        except sqlite3.OperationalError as error:  # busy, full, read-only
            raise DataError(f"{self._path} cannot be used: {error}") from error
        except sqlite3.DatabaseError as error:
            raise DataError(
                f"{self._path} is damaged ({error}): restore it from a backup, or {_ANEW}"
            ) from error
        except OSError as error:
            raise DataError(f"{self._path} cannot be used: {error.strerror}") from error


def records(store: Path) -> tuple[ClipRecord, ...]:
    """Return what the manifest of a store says of each clip, for a report."""
    with Manifest(store, alone=None) as manifest:
        return tuple(manifest.records().values())


_ANEW = (
    "remove it: the next `feat-fed data scan` builds it anew, but approvals, refused patients and "
    "the recorded sides of the split are lost with it"
)
_NAMES = [each.name for each in fields(ClipRecord)]
_INSERT = (
    f"INSERT OR REPLACE INTO clips ({', '.join(_NAMES)}) "  # noqa: S608 (names of ours)
    f"VALUES ({', '.join(f':{name}' for name in _NAMES)})"
)


@contextlib.contextmanager
def _alone(store: Path, waiting: Callable[[], None], *, wait: bool) -> Iterator[None]:
    """Hold the store's lock, which ends with the process however that ends."""
    try:
        lock = (store / LOCK).open("w")
    except OSError as error:
        raise DataError(f"{store / LOCK} cannot be made: {error.strerror}") from error
    refused_at = time.monotonic() + _PATIENCE_SEC
    with lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not wait and time.monotonic() >= refused_at:
                    raise DataError(
                        f"another feat-fed is at work on the clips of {store}; try again when it "
                        "has finished, or stop it"
                    ) from None
                waiting()
                time.sleep(_RETRY_SEC)
        yield

"""Everything of a patient goes, and the patient is not read again."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from feat_fed.data.inventory.identity import keyed, pseudonym
from feat_fed.data.inventory.manifest import Manifest
from feat_fed.data.inventory.sheets import drop_sheets


@dataclass(frozen=True)
class Traces:
    """What a site's store has of a patient.

    Parameters
    ----------
    clip_ids
        Rows of the manifest.
    sha256s
        Contents that were ever this patient's: latents are found by them.
    shared
        How many clips of other patients show the same, encoded alike or anew. They stay, and
        wait for a person to say whether they are this patient's, too.
    """

    clip_ids: tuple[str, ...]
    sha256s: tuple[str, ...]
    shared: int


_ALIKE = """
WITH
    mine AS (SELECT sha256 FROM contents WHERE patient = ?1),
    firsts AS (SELECT coalesce(nullif(twin, ''), clip_id) FROM clips WHERE patient = ?1)
SELECT clip_id, sha256 FROM clips WHERE patient != ?1 AND sha256 IS NOT NULL
    AND (sha256 IN mine OR twin IN firsts OR clip_id IN firsts)
"""


def find_patient(manifest: Manifest, patient_id: str) -> Traces:
    """Return what there is of a patient, by the id as it is in the files or the folder's name."""
    patient = pseudonym(patient_id.strip(), key=manifest.key)
    clips = manifest.select("SELECT clip_id FROM clips WHERE patient = ?", patient)
    contents = manifest.select(
        "SELECT DISTINCT sha256 FROM contents WHERE patient IN (?, ?)",
        patient,
        keyed("refused", patient, key=manifest.key),
    )
    shared = manifest.select(_ALIKE, patient)
    return Traces(
        tuple(each["clip_id"] for each in clips),
        tuple(each["sha256"] for each in contents),
        len(shared),
    )


def erase_patient(manifest: Manifest, patient_id: str) -> int:
    """Remove a patient's rows, sheets, approvals and side of the split; return the sheets' number.

    What was decided on contents that another patient has, too, stays: it is of that one's clips.
    Latents go first and elsewhere, by :func:`find_patient`. What stays is a keyed hash of the
    patient, and of each file, on the list of those that are not read.
    """
    traces, key = find_patient(manifest, patient_id), manifest.key
    patient = pseudonym(patient_id.strip(), key=key)
    refused = keyed("refused", patient, key=key)
    series = "SELECT clip_id FROM clips WHERE patient = ?"
    files = manifest.select(
        f"SELECT file, stamp FROM frames WHERE series IN ({series}) "  # noqa: S608 (a constant)
        "UNION SELECT clip_id, stamp FROM clips WHERE patient = ? AND clip_id NOT IN "
        "(SELECT series FROM frames)",
        patient,
        patient,
    )
    alike = manifest.select(_ALIKE, patient)
    sheets = drop_sheets(manifest.store, traces.clip_ids)
    with manifest.changing() as database:
        database.execute("INSERT OR IGNORE INTO refused VALUES (?)", (refused,))
        database.executemany(
            "INSERT OR IGNORE INTO doubted VALUES (?, ?)",
            [(each["sha256"], refused) for each in alike],
        )
        database.executemany(
            "INSERT OR REPLACE INTO refused_files VALUES (?, ?)",
            [
                (keyed("refused", f"{each['file']} {each['stamp']}", key=key), refused)
                for each in files
            ],
        )
        for statement in (
            f"DELETE FROM frames WHERE series IN ({series})",  # noqa: S608
            f"UPDATE clips SET twin = NULL WHERE twin IN ({series})",  # noqa: S608
            "DELETE FROM clips WHERE patient = ?",
            "DELETE FROM contents WHERE patient = ?",
            "DELETE FROM sides WHERE patient = ?",
        ):
            database.execute(statement, (patient,))
        _forget_unowned(database)
    manifest.shrink()
    return sheets


def left_behind(manifest: Manifest) -> tuple[str, ...]:
    """Return contents that turned out to be of somebody erased after they were another's.

    Another ``data.patient_pattern`` does that. Their latents have to go, then
    :func:`forget_left_behind` does.
    """
    rows = manifest.select(
        "SELECT DISTINCT sha256 FROM contents WHERE patient IN (SELECT patient FROM refused)"
    )
    return tuple(each["sha256"] for each in rows)


def forget_left_behind(manifest: Manifest) -> None:
    """Drop what :func:`left_behind` returns, for the latents are gone."""
    refused = "SELECT patient FROM refused"
    theirs = f"SELECT sha256 FROM contents WHERE patient IN ({refused})"  # noqa: S608
    here = "SELECT sha256 FROM clips WHERE sha256 IS NOT NULL"
    with manifest.changing() as database:
        database.execute(
            f"DELETE FROM contents WHERE sha256 IN ({theirs}) "  # noqa: S608
            f"AND (patient IN ({refused}) OR sha256 NOT IN ({here}))"
        )
        _forget_unowned(database)
    manifest.shrink()


def _forget_unowned(database: sqlite3.Connection) -> None:
    """Drop what is kept by contents that are nobody's any more, and what a page has shown."""
    database.execute("DELETE FROM paged")
    for table in ("decisions", "doubted"):
        database.execute(
            f"DELETE FROM {table} WHERE sha256 NOT IN (SELECT sha256 FROM contents)"  # noqa: S608
        )


def erased_of(manifest: Manifest, patients: Iterable[str]) -> frozenset[str]:
    """Return which of these pseudonyms are of patients who were erased."""
    refused = {row["patient"] for row in manifest.select("SELECT patient FROM refused")}
    return frozenset(
        each for each in patients if keyed("refused", each, key=manifest.key) in refused
    )


def allow_again(manifest: Manifest, patient_id: str) -> bool:
    """Take a patient off the list; return whether the patient was on it."""
    patient = keyed("refused", pseudonym(patient_id.strip(), key=manifest.key), key=manifest.key)
    with manifest.changing() as database:
        return database.execute("DELETE FROM refused WHERE patient = ?", (patient,)).rowcount > 0

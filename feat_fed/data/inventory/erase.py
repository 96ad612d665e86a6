"""Everything of a patient goes, and the patient is not read again."""

from __future__ import annotations

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
        How many of these contents lie under another patient too, and stay there.
    """

    clip_ids: tuple[str, ...]
    sha256s: tuple[str, ...]
    shared: int


def find_patient(manifest: Manifest, patient_id: str) -> Traces:
    """Return what there is of a patient, by the id as it is in the files or the folder's name."""
    patient = pseudonym(patient_id.strip(), key=manifest.key)
    clips = manifest.select("SELECT clip_id FROM clips WHERE patient = ?", patient)
    contents = manifest.select("SELECT sha256 FROM contents WHERE patient = ?", patient)
    shared = manifest.select(
        "SELECT DISTINCT sha256 FROM clips WHERE patient != ? "
        "AND sha256 IN (SELECT sha256 FROM contents WHERE patient = ?)",
        patient,
        patient,
    )
    return Traces(
        tuple(each["clip_id"] for each in clips),
        tuple(each["sha256"] for each in contents),
        len(shared),
    )


def erase_patient(manifest: Manifest, patient_id: str) -> int:
    """Remove a patient's rows, sheets, approvals and side of the split; return the sheets' number.

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
    sheets = drop_sheets(manifest.store, traces.clip_ids)
    with manifest.changing() as database:
        database.execute("INSERT OR IGNORE INTO refused VALUES (?)", (refused,))
        database.executemany(
            "INSERT OR REPLACE INTO refused_files VALUES (?, ?)",
            [
                (keyed("refused", f"{each['file']} {each['stamp']}", key=key), refused)
                for each in files
            ],
        )
        mine = "SELECT sha256 FROM contents WHERE patient = ?"
        for statement in (
            f"DELETE FROM decisions WHERE sha256 IN ({mine})",  # noqa: S608
            f"DELETE FROM frames WHERE series IN ({series})",  # noqa: S608
            f"UPDATE clips SET twin = NULL WHERE twin IN ({series})",  # noqa: S608
            "DELETE FROM clips WHERE patient = ?",
            "DELETE FROM contents WHERE patient = ?",
            "DELETE FROM sides WHERE patient = ?",
        ):
            database.execute(statement, (patient,))
    manifest.shrink()
    return sheets


def allow_again(manifest: Manifest, patient_id: str) -> bool:
    """Take a patient off the list; return whether the patient was on it."""
    patient = keyed("refused", pseudonym(patient_id.strip(), key=manifest.key), key=manifest.key)
    with manifest.changing() as database:
        return database.execute("DELETE FROM refused WHERE patient = ?", (patient,)).rowcount > 0

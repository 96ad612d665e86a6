"""From what was seen to what is used: rules, duplicates, and what a person decided."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Literal

from feat_fed.config import RulesConfig
from feat_fed.data.inventory.duplicates import find_twins
from feat_fed.data.inventory.manifest import Manifest
from feat_fed.data.inventory.records import ClipRecord
from feat_fed.data.quality import judge
from feat_fed.errors import DataError

SAME_FILE = "same content as another file"
SAME_CLIP = "shows the same clip as another file"
OTHER_PATIENT = "same clip as one of another patient"
REJECTED = "rejected by a person"

Decision = Literal["approved", "rejected"]


def settle(manifest: Manifest, rules: RulesConfig) -> dict[str, ClipRecord]:
    """Judge every clip anew, write what has changed, and return all, by their ids.

    Nothing is read again: a change of rules that only judge costs no more than this.
    """
    records = manifest.records()
    decisions = {each["sha256"]: each for each in manifest.select("SELECT * FROM decisions")}
    judged = {clip: _judged(record, rules) for clip, record in records.items()}
    fit = [each for each in judged.values() if each.outcome != "excluded"]
    if not _compared_alike(manifest, rules):
        fit = [replace(each, twin=None) for each in fit]
    twins = find_twins(fit, bits=rules.duplicate_bits)
    for clip, twin in twins.items():
        record, other = judged[clip], judged.get(twin)
        decision = decisions.get(record.sha256, {})
        if decision.get("decision") == "rejected":
            record = replace(record, outcome="excluded", reason=REJECTED)
        elif other is not None:
            record = replace(record, outcome="excluded", reason=_repeats(record, other))
        elif record.outcome == "review" and decision.get("shown") == shown(record, rules):
            record = replace(record, outcome="usable", reason="")
        judged[clip] = replace(record, twin=twin)
    _write(manifest, [each for each in judged.values() if each != records[each.clip_id]], rules)
    return judged


def decide(
    manifest: Manifest, clip_ids: tuple[str, ...], decision: Decision, rules: RulesConfig
) -> int:
    """Keep what a person decided on clips, under their contents; return how many clips it was.

    An approval holds for what the person was shown: it ends when another part of the pictures
    would be seen.

    Parameters
    ----------
    clip_ids
        Ids, or beginnings of ids that fit one clip only; empty: all that await approval.

    Raises
    ------
    DataError
        When an id fits no clip or several, or the clip is excluded for another reason.
    """
    records = manifest.records()
    waiting = [each for each in records.values() if each.outcome == "review"]
    chosen = [_chosen(records, each) for each in clip_ids] if clip_ids else waiting
    for each in chosen:
        if each.outcome == "excluded" and each.reason != REJECTED:
            raise DataError(
                f"{each.clip_id[:12]} is left out for another reason ({each.reason}), which no "
                "approval changes; see data.rules in the site's file"
            )
    with manifest.changing() as database:
        for each in chosen:
            database.execute(
                "INSERT OR REPLACE INTO decisions VALUES (?, ?, ?)",
                (each.sha256, decision, shown(each, rules)),
            )
    settle(manifest, rules)
    return len(chosen)


def shown(record: ClipRecord, rules: RulesConfig) -> str:
    """Return a hash of what of the pictures is seen: an approval is for that alone."""
    treatment = (record.field, record.overlays, rules.crop, rules.overlays)
    return hashlib.sha256(repr(treatment).encode()).hexdigest()


def _judged(record: ClipRecord, rules: RulesConfig) -> ClipRecord:
    look = record.look
    if look is None:
        return replace(record, outcome="excluded", reason=record.unreadable, twin=None)
    verdict = judge(record.info, look, rules)
    twin = None if verdict.outcome == "excluded" else record.twin
    return replace(record, outcome=verdict.outcome, reason=verdict.reason, twin=twin)


def _repeats(record: ClipRecord, other: ClipRecord) -> str:
    if record.patient != other.patient:
        return OTHER_PATIENT
    return SAME_FILE if record.sha256 == other.sha256 else SAME_CLIP


def _compared_alike(manifest: Manifest, rules: RulesConfig) -> bool:
    rows = manifest.select("SELECT value FROM facts WHERE name = 'duplicate_bits'")
    return bool(rows) and rows[0]["value"] == str(rules.duplicate_bits)


def _write(manifest: Manifest, changed: list[ClipRecord], rules: RulesConfig) -> None:
    with manifest.changing() as database:
        database.executemany(
            "UPDATE clips SET outcome = ?, reason = ?, twin = ? WHERE clip_id = ?",
            [(each.outcome, each.reason, each.twin, each.clip_id) for each in changed],
        )
        database.execute(
            "INSERT OR REPLACE INTO facts VALUES ('duplicate_bits', ?)",
            (str(rules.duplicate_bits),),
        )


def _chosen(records: dict[str, ClipRecord], beginning: str) -> ClipRecord:
    fits = [each for clip, each in records.items() if clip.startswith(beginning.lower())]
    if len(fits) != 1:
        raise DataError(
            f"{beginning!r} is the beginning of {len(fits)} clips' ids; `feat-fed data scan` "
            "lists those that await approval"
        )
    return fits[0]

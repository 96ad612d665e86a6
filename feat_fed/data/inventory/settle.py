"""From what was seen to what is used: rules, duplicates, and what a person decided."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import replace

from feat_fed.config import RulesConfig
from feat_fed.data.inventory.duplicates import find_twins
from feat_fed.data.inventory.manifest import Manifest
from feat_fed.data.inventory.records import ClipRecord
from feat_fed.data.quality import judge

SAME_FILE = "same content as another file"
SAME_CLIP = "shows the same clip as another file"
OTHER_PATIENT = "same clip as one of another patient"
REJECTED = "rejected by a person"
DOUBTED = "same clip as one of a patient who was erased; see whose it is, then approve or reject"


def settle(manifest: Manifest, rules: RulesConfig) -> dict[str, ClipRecord]:
    """Judge every clip anew, write what has changed, and return all, by their ids.

    Nothing is read again: a change of rules that only judge costs no more than this.
    """
    records = manifest.records()
    decisions = {each["sha256"]: each for each in manifest.select("SELECT * FROM decisions")}
    doubts = doubted(manifest)
    judged = {clip: _judged(record, rules, doubts) for clip, record in records.items()}
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
        elif record.outcome == "review" and decision.get("shown") == shown(record, rules, doubts):
            record = replace(record, outcome="usable", reason="")
        judged[clip] = replace(record, twin=twin)
    _write(manifest, [each for each in judged.values() if each != records[each.clip_id]], rules)
    return judged


def doubted(manifest: Manifest) -> frozenset[str]:
    """Return contents that show the same as a clip of somebody who was erased."""
    return frozenset(each["sha256"] for each in manifest.select("SELECT sha256 FROM doubted"))


def shown(record: ClipRecord, rules: RulesConfig, doubts: Collection[str]) -> str:
    """Return a hash of what a person is asked: which pictures, and whose; an approval is for that.

    ``doubts`` are those of :func:`doubted`.
    """
    treatment = (record.field, record.overlays, rules.crop, rules.overlays)
    return hashlib.sha256(repr((treatment, record.sha256 in doubts)).encode()).hexdigest()


def _judged(record: ClipRecord, rules: RulesConfig, doubts: Collection[str]) -> ClipRecord:
    look = record.look
    if look is None:
        return replace(record, outcome="excluded", reason=record.unreadable, twin=None)
    verdict = judge(record.info, look, rules)
    twin = None if verdict.outcome == "excluded" else record.twin
    if verdict.outcome != "excluded" and record.sha256 in doubts:
        return replace(record, outcome="review", reason=DOUBTED)
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

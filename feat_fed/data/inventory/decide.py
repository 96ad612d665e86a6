"""What a person decided on clips, and what that person was shown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from feat_fed.config import RulesConfig
from feat_fed.data.inventory.manifest import Manifest
from feat_fed.data.inventory.records import ClipRecord
from feat_fed.data.inventory.settle import REJECTED, doubted, settle, shown
from feat_fed.errors import DataError

Decision = Literal["approved", "rejected"]


def decide(
    manifest: Manifest, clip_ids: tuple[str, ...], decision: Decision, rules: RulesConfig
) -> int:
    """Keep what a person decided on clips, under their contents; return how many clips it was.

    An approval holds for what the person was shown: it ends when another part of the pictures
    would be seen, or somebody is erased who has the same clip.

    Parameters
    ----------
    clip_ids
        Ids, or beginnings of ids that fit one clip only; empty: all that await approval and
        were on the last page (:func:`note_paged`), as they were there.

    Raises
    ------
    DataError
        When an id fits no clip or several, the clip is excluded for another reason, or clips
        await approval and no page showed any.
    """
    records, doubts = manifest.records(), doubted(manifest)
    chosen = (
        [_chosen(records, each) for each in clip_ids]
        if clip_ids
        else _paged(manifest, records.values(), rules)
    )
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
                (each.sha256, decision, shown(each, rules, doubts)),
            )
    settle(manifest, rules)
    return len(chosen)


def note_paged(manifest: Manifest, clip_ids: Iterable[str], rules: RulesConfig) -> None:
    """Remember which clips a page has just shown for approval, instead of an earlier page's."""
    records, doubts = manifest.records(), doubted(manifest)
    paged = [records[each] for each in clip_ids]
    with manifest.changing() as database:
        database.execute("DELETE FROM paged")
        database.executemany(
            "INSERT OR REPLACE INTO paged VALUES (?, ?)",
            [(each.sha256, shown(each, rules, doubts)) for each in paged],
        )


def count_waiting(manifest: Manifest) -> int:
    """Return how many clips await approval."""
    return len(manifest.select("SELECT 1 FROM clips WHERE outcome = 'review'"))


def _paged(
    manifest: Manifest, records: Iterable[ClipRecord], rules: RulesConfig
) -> list[ClipRecord]:
    waiting, doubts = [each for each in records if each.outcome == "review"], doubted(manifest)
    rows = manifest.select("SELECT * FROM paged")
    paged = {(row["sha256"], row["shown"]) for row in rows}
    found = [each for each in waiting if (each.sha256, shown(each, rules, doubts)) in paged]
    if waiting and not found:
        raise DataError(
            f"{len(waiting)} clips await approval, and no page has shown them as they are now: "
            "write one with `feat-fed data report SITE.yaml`, look at it, and say --all then"
        )
    return found


def _chosen(records: dict[str, ClipRecord], beginning: str) -> ClipRecord:
    fits = [each for clip, each in records.items() if clip.startswith(beginning.lower())]
    if len(fits) != 1:
        raise DataError(
            f"{beginning!r} is the beginning of {len(fits)} clips' ids; `feat-fed data scan` "
            "lists those that await approval"
        )
    return fits[0]

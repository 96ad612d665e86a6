"""From a site's manifest and its contact sheets to the facts of the data page."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from feat_fed.config import SiteConfig
from feat_fed.data import ClipRecord, Inventory, sheet_paths
from feat_fed.data.inventory.split import Side
from feat_fed.report.data_page import ClipFacts, SiteDataFacts

_SIDES: dict[Side, Literal["training", "held out"]] = {"train": "training", "heldout": "held out"}


def site_facts(
    site: SiteConfig,
    records: Mapping[str, ClipRecord],
    inventory: Inventory,
    *,
    sides: Mapping[str, Side],
    show_paths: bool,
) -> SiteDataFacts:
    """Join what a scan has just settled with the pictures in the site's store.

    Verdicts are the scan's, for it knows what is there now. Paths come from the scan too: the
    manifest has none.
    """
    paths = {each.clip_id: each.source[0] for each in inventory.clips}
    paths |= {each.clip_id: each.path for each in (*inventory.waiting, *inventory.excluded)}
    clips = []
    for clip_id, path in paths.items():
        if (record := records.get(clip_id)) is None:
            continue
        side = sides.get(record.patient)
        clips.append(
            ClipFacts(
                record,
                encoding=_syntax_name(record.transfer_syntax),
                side=_SIDES[side] if side else None,
                sheet=sheet_paths(site.store, clip_id),
                path=_readable(path) if show_paths else None,
            )
        )
    return SiteDataFacts(site.name, site.data.rules, tuple(clips), inventory.skipped)


def default_page(site: SiteConfig) -> Path:
    """Return where the page is unless somebody names another place."""
    return site.store / "data.html"


def drop_page(site: SiteConfig) -> None:
    """Remove the page and its counts: they may show a patient who is being erased."""
    for path in (default_page(site), default_page(site).with_suffix(".json")):
        path.unlink(missing_ok=True)


def _readable(path: Path) -> str:
    """Return a path as text, also where its bytes are no UTF-8, as old Windows shares leave it."""
    return os.fsencode(path).decode("utf-8", errors="replace")


def _syntax_name(uid: str | None) -> str | None:
    """Return the name of a transfer syntax in PS3.6, where pydicom knows it."""
    from pydicom.uid import UID

    return str(UID(uid).name) if uid else None

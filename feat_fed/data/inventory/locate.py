"""Files of some clips of the manifest, found without looking at all there are."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import islice
from pathlib import Path

from feat_fed.data.inventory.files import FoundClip, files_below
from feat_fed.data.inventory.identity import keyed


def locate(
    paths: Sequence[Path], clip_ids: Collection[str], *, key: bytes, at_most: int, names: int
) -> dict[str, Path]:
    """Return files by clip id: the first ``at_most`` met among the first ``names`` of a walk.

    Clips that are several files are not found.

    Raises
    ------
    DataError
        When one of ``paths`` does not exist or cannot be searched.
    """
    found: dict[str, Path] = {}
    for root in paths:
        for path in islice(files_below(root), names):
            if len(found) == at_most:
                return found
            clip_id = keyed("clip", FoundClip((path,), path, "", 0).name, key=key)
            if clip_id in clip_ids:
                found[clip_id] = path
    return found

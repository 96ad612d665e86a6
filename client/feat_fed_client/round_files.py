"""What a site's store holds of rounds: one that is under way, an update that waits, moments.

::

    rounds/STUDY_ID/under-way.safetensors     feat_fed.train.mid_round
    spool/STUDY_ID/round-0003.safetensors     feat_fed_client.spool
    optimiser/STUDY_ID/after-0003.safetensors feat_fed_client.optimiser_store
    training/round-1a2b3c4d/, worker-0.log    feat_fed.train.workers
"""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path

from feat_fed.atomic import remove_parts
from feat_fed.errors import DataError
from feat_fed.report.live import LIVE_FILE
from feat_fed.train.mid_round import MidRoundFile

KEEP_DAYS = 30
"""Rounds of a study that was not heard of for so long are removed."""

_OF_ROUNDS = ("rounds", "spool")
_LEARNT = (*_OF_ROUNDS, "optimiser", "training")


def under_way(store: Path, *, study_id: str, job: str) -> MidRoundFile:
    """Name the file of the study's round that is under way; one that a kill left half goes."""
    folder = store / "rounds" / study_id
    remove_parts(folder)
    return MidRoundFile(folder / "under-way.safetensors", job)


def tidy(store: Path, *, study_id: str) -> None:
    """Remove what is left of other studies' rounds after :data:`KEEP_DAYS`."""
    remove_parts(store, LIVE_FILE)
    remove_parts(store / "optimiser" / study_id)
    long_ago = time.time() - KEEP_DAYS * 86400
    for folder in (each for kind in _OF_ROUNDS for each in _folders(store / kind)):
        if folder.name != study_id and _newest(folder) < long_ago:
            shutil.rmtree(folder, ignore_errors=True)


def forget_rounds(store: Path) -> int:
    """Remove all that rounds left here and that was learnt from the site's clips.

    Returns
    -------
    int
        How many files.

    Raises
    ------
    DataError
        If one cannot be removed.
    """
    folders = [store / kind for kind in _LEARNT if (store / kind).is_dir()]
    files = sum(each.is_file() for folder in folders for each in folder.rglob("*"))
    for folder in folders:
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise DataError(f"{folder} cannot be removed: {error}; remove it by hand") from error
    return files


def _folders(folder: Path) -> list[Path]:
    return [each for each in folder.iterdir() if each.is_dir()] if folder.is_dir() else []


def _newest(folder: Path) -> float:
    """Return when the folder, or a file in it, was last written."""
    times = [0.0]
    for each in (folder, *folder.iterdir()):
        with contextlib.suppress(FileNotFoundError):
            times.append(each.stat().st_mtime)
    return max(times)

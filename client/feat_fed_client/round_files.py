"""What a site's store holds of rounds: one that is under way, an update that waits, and so on.

::

    rounds/STUDY_ID/under-way.safetensors      feat_fed.train.mid_round
    spool/STUDY_ID/round-0003.safetensors      feat_fed_client.spool, and second-0003.safetensors
    optimiser/STUDY_ID/after-0003.safetensors  feat_fed_client.optimiser_store
    received/STUDY_ID/reference.safetensors    feat_fed_client.exchanged
    residual/STUDY_ID/after-0003.safetensors   feat_fed_client.residual_store
    secagg/STUDY_ID/state.json, last.json      feat_fed_client.secure
    training/round-1a2b3c4d/, worker-0.log     feat_fed.train.workers
    memorisation/round-0003-1a2b3c4d5e6f7a8b/  feat_fed_client.copies
    parts/                                     feat_fed.parts, while the client runs
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from feat_fed.atomic import remove_parts
from feat_fed.errors import DataError
from feat_fed.report.live import LIVE_FILE
from feat_fed.train.exchange import clear_exchanges
from feat_fed.train.mid_round import MidRoundFile

KEEP_DAYS = 30
"""What rounds of another study left is removed when nothing of it was written for so long."""

KEEP_STUDIES = 2
"""Other studies of which something is kept at all: a server may name as many as it likes."""

_WEIGHTS = ("rounds", "spool", "optimiser", "received", "residual")
_SECRETS = Path("secagg"), "state.json"
_LEARNT = (*_WEIGHTS, "training", "memorisation", "parts")


def under_way(store: Path, *, study_id: str, job: str) -> MidRoundFile:
    """Name the file of the study's round that is under way; one that a kill left half goes."""
    folder = store / "rounds" / study_id
    remove_parts(folder)
    return MidRoundFile(folder / "under-way.safetensors", job)


def tidy(store: Path, *, study_id: str) -> None:
    """Remove what killed trainers left, and what is left of other studies' rounds.

    That of the :data:`KEEP_STUDIES` that were written to last stays for :data:`KEEP_DAYS`. Of
    secure aggregation the secrets go, and what keeps a round from being unmasked twice stays.
    """
    clear_exchanges(store / "training")
    remove_parts(store, LIVE_FILE)
    for kind in ("optimiser", "received", "residual"):
        remove_parts(store / kind / study_id)
    for kind in _WEIGHTS:
        for folder in _outdated(_folders(store / kind), study_id):
            shutil.rmtree(folder, ignore_errors=True)
    below, secrets = _SECRETS
    holding = [each for each in _folders(store / below) if (each / secrets).exists()]
    for folder in _outdated(holding, study_id):
        (folder / secrets).unlink(missing_ok=True)


def _outdated(folders: Sequence[Path], study_id: str) -> list[Path]:
    """Return which folders of other studies than this one are not kept."""
    others = [each for each in folders if each.name != study_id]
    others.sort(key=_newest, reverse=True)
    long_ago = time.time() - KEEP_DAYS * 86400
    return [
        each
        for place, each in enumerate(others)
        if place >= KEEP_STUDIES or _newest(each) < long_ago
    ]


def forget_rounds(store: Path) -> int:
    """Remove all that rounds left here and that was learnt from the site's clips.

    What processes that train at this moment hand to each other stays, and goes with their round. A
    message that is on its way is lost, and asked for again.

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
    before = _num_files(folders)
    for folder in folders:
        try:
            if folder.name == "training":
                _forget_training(folder)
            elif folder.name == "parts":
                _forget_parts(folder)
            else:
                shutil.rmtree(folder, onerror=_unless_gone)
        except OSError as error:
            raise DataError(f"{folder} cannot be removed: {error}; remove it by hand") from error
    return max(0, before - _num_files(folders))


def _forget_training(folder: Path) -> None:
    clear_exchanges(folder)
    for log in folder.glob("worker-*"):
        log.unlink(missing_ok=True)


def _forget_parts(folder: Path) -> None:
    """Remove messages on their way; a client that is running goes on to use the folder."""
    for part in folder.iterdir():
        part.unlink(missing_ok=True)


def _unless_gone(
    _: object, path: str, raised: tuple[type[BaseException], BaseException, TracebackType]
) -> None:
    """Pass over what somebody else has removed meanwhile."""
    if not isinstance(raised[1], FileNotFoundError):
        raise raised[1]


def _num_files(folders: Sequence[Path]) -> int:
    return sum(len(files) for folder in folders for _, _, files in os.walk(folder))


def _folders(folder: Path) -> list[Path]:
    return [each for each in folder.iterdir() if each.is_dir()] if folder.is_dir() else []


def _newest(folder: Path) -> float:
    """Return when the folder, or a file in it, was last written."""
    times = [0.0]
    for each in (folder, *folder.iterdir()):
        with contextlib.suppress(FileNotFoundError):
            times.append(each.stat().st_mtime)
    return max(times)

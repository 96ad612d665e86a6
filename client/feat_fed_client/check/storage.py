"""Whether the store can hold what training leaves there, and who else can read it."""

from __future__ import annotations

import shutil
import stat
import tempfile
from pathlib import Path

from feat_fed.codec.prepare import latent_bytes
from feat_fed.config import SiteConfig
from feat_fed.data.inventory.identity import KEY_FILE
from feat_fed.data.inventory.manifest import FILE as MANIFEST_FILE
from feat_fed.data.inventory.manifest import LOCK as MANIFEST_LOCK
from feat_fed.errors import ConfigError, DataError
from feat_fed.findings import Finding, Number, amber, green, red
from feat_fed.lock import is_held
from feat_fed.report.live import LIVE_FILE, SiteLive
from feat_fed.report.units import format_bytes
from feat_fed_client.check.data import missing_of
from feat_fed_client.check.subject import Subject
from feat_fed_client.running import client_is_running

_LOGS_BYTES = 10**8
_ROOM = 1.5
"""Times what is needed, below which a disk counts as nearly full."""
_CHECKPOINT_WEIGHTS = 3
"""A checkpoint inside a round: weights and AdamW's two moments."""
_KEPT_STATES = 3
"""States of the optimiser: two that are kept and the one that is being written."""
_RESIDUALS = 3
"""The one that an update is made from, the one that it leaves, and the one being written."""
_OTHERS = 0o077


def disk(subject: Subject) -> Finding:
    """Compare the free space with what is to come."""
    free_bytes = shutil.disk_usage(_existing(subject.site.store)).free
    needed_bytes = _LOGS_BYTES + sum(_needs(subject).values())
    numbers: dict[str, Number] = {"free_bytes": free_bytes, "needed_bytes": needed_bytes}
    numbers |= {f"{name}_bytes": each for name, each in _needs(subject).items()}
    found = f"{format_bytes(free_bytes)} free, about {format_bytes(needed_bytes)} to come"
    mend = "make room, or put the store on a larger disk"
    if free_bytes < needed_bytes:
        return red(found, mend, **numbers)
    if free_bytes < _ROOM * needed_bytes:
        return amber(f"{found}: that is close", mend, **numbers)
    if subject.study is None:
        return amber(
            f"{format_bytes(free_bytes)} free", "give --study to see what it needs", **numbers
        )
    return green(found, **numbers)


def store(subject: Subject) -> Finding:
    """See whether the store can be made or written."""
    folder = subject.site.store
    if folder.exists() and not folder.is_dir():
        return red("store is a file", "name a folder as store")
    if not _takes_files(_existing(folder)):
        return red(
            "store cannot be written by this user", "give this user the folder, or another store"
        )
    if not folder.exists():
        return green("store will be made")
    return green("store can be written")


def _takes_files(folder: Path) -> bool:
    """Try it: rights alone do not tell of a file system that takes none."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def permissions(subject: Subject) -> Finding:
    """See whether other users of this machine can read what is the site's own."""
    site = subject.site
    secrets = {
        "server.private_key": site.server.private_key if site.server else None,
        f"store/{KEY_FILE}": site.store / KEY_FILE,
        f"store/{MANIFEST_FILE}": site.store / MANIFEST_FILE,
    }
    open_to_others = [name for name, path in secrets.items() if path and _mode(path) & _OTHERS]
    if open_to_others:
        return red(
            f"other users may read {', '.join(open_to_others)}",
            f"chmod 600 {' '.join(open_to_others)}, and see who has read them",
            files=len(open_to_others),
        )
    if _mode(site.store) & _OTHERS:
        return amber("other users may look into store", "chmod 700 store", files=0)
    return green("nobody else can read keys and store", files=0)


def running(subject: Subject) -> Finding:
    """Tell what else is at work with the store."""
    folder = subject.site.store
    if client_is_running(folder):
        live = SiteLive.read(folder / LIVE_FILE)
        doing = f"{live.phase}, round {live.round}" if live else "waiting for the server"
        return amber(
            f"a client is running ({doing})",
            "nothing, if that is meant; a second one is refused",
            phase=live.phase if live else None,
        )
    if is_held(folder / MANIFEST_LOCK):
        return amber("a scan or an encoding is at work", "nothing, if that is meant")
    return green("no feat-fed is running with this store")


def _needs(subject: Subject) -> dict[str, int]:
    """Return the bytes that each kind of file will take."""
    study, site = subject.study, subject.site
    if study is None:
        return {}
    weights_bytes = subject.weights_bytes
    inside, kept = site.checkpoint_minutes is not None, study.training.optimiser_state == "kept"
    return {
        "latents": _latents_bytes(subject),
        # One is written beside the other before it takes its place.
        "checkpoint": 2 * _CHECKPOINT_WEIGHTS * weights_bytes if inside else 0,
        "spool": 2 * weights_bytes,
        "received": 2 * weights_bytes,
        "parts": 2 * weights_bytes,  # of the question and of the answer
        "residual": _RESIDUALS * weights_bytes if study.transfer.up != "fp32" else 0,
        "optimiser": _KEPT_STATES * 2 * weights_bytes if kept else 0,
        "exchange": _exchange_weights(site, kept=kept) * weights_bytes,
    }


def _exchange_weights(site: SiteConfig, *, kept: bool) -> int:
    """Return how many times the weights the files between several processes take at most."""
    if site.compute.num_devices == 1:
        return 0
    with_moments = 3 if kept else 1
    if site.checkpoint_minutes is None:
        return 2 * with_moments  # the job and the result
    # The job, where it goes on from, its own checkpoint, and the next one or the result.
    return with_moments + 3 * _CHECKPOINT_WEIGHTS


def _latents_bytes(subject: Subject) -> int:
    study, codec = subject.study, subject.codec
    try:
        if study is None or isinstance(codec, ConfigError):
            return 0
        missing = missing_of(subject, codec)
        return sum(latent_bytes(each, codec, study.clips) for each in missing)
    except DataError:  # the manifest is unusable: the clips' check says so
        return 0


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that there is."""
    return next(each for each in (folder, *folder.parents) if each.exists())


def _mode(path: Path) -> int:
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return 0

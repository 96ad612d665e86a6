"""A site's clips into its store of latents, while others may be at work on the same clips."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import sleep

import torch

from feat_fed.codec.base import VideoCodec
from feat_fed.codec.prepare import LatentClips, prepare
from feat_fed.codec.store import LatentStore
from feat_fed.config import ClipConfig, SiteConfig
from feat_fed.data.inventory.entries import ClipEntry, Progress
from feat_fed.data.inventory.erase import erased_of, forget_left_behind, left_behind
from feat_fed.data.inventory.manifest import Manifest
from feat_fed.data.inventory.pool import cores

_PAUSE_SEC = 0.5  # longer than another process takes to see that the manifest is free


def prepare_at_site(
    site: SiteConfig,
    entries: Sequence[ClipEntry],
    *,
    clips: ClipConfig,
    codec: VideoCodec,
    device: torch.device,
    progress: Progress | None = None,
    waiting: Callable[[], None] = lambda: None,
) -> LatentClips:
    """Encode a site's clips with as many processes as it allows, and give way to others.

    The manifest is held for seconds at a time, so a patient can be erased while a hospital's
    archive is encoded; such a patient's clips are left out. It must not be held by the caller.

    Parameters
    ----------
    device
        Where ``codec`` computes; one on a GPU is used by this process alone.
    waiting
        Called again and again while another process holds the manifest.

    Raises
    ------
    DataError, ConfigError
        As :func:`.prepare.prepare` does.
    """
    patients = {each.patient for each in entries}
    return prepare(
        entries,
        store=LatentStore(site.store / "latents", site.latents),
        codec=codec,
        clips=clips,
        progress=progress,
        workers=(site.data.workers or cores()) if device.type == "cpu" else 0,
        turn=lambda: _turn(site.store, patients, waiting),
    )


def finish_erasing(site: SiteConfig, manifest: Manifest) -> None:
    """Remove latents of clips that a scan found to be of somebody who was erased.

    Raises
    ------
    DataError
        When another process goes on encoding, or the files cannot be removed.
    """
    if sha256s := left_behind(manifest):
        LatentStore(site.store / "latents", site.latents).erase(sha256s)
        forget_left_behind(manifest)


@contextmanager
def _turn(
    store: Path, patients: Collection[str], waiting: Callable[[], None]
) -> Iterator[Collection[str]]:
    with Manifest(store, alone="wait", waiting=waiting) as manifest:
        yield erased_of(manifest, patients)
    sleep(_PAUSE_SEC)

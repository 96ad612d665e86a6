"""Clips into latents, once.

This is the one place where codecs and files meet: :mod:`feat_fed.data` knows no codec, and the
codecs, the store and the windows beside this module know no file format.

Legend: F frames, C channels, H and W of pixels, h and w of the latent.
"""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from itertools import islice
from operator import add

import numpy as np
import numpy.typing as npt
import torch

from feat_fed.child import end_with_parent
from feat_fed.codec.base import VideoCodec
from feat_fed.codec.encoded import EncodedClip
from feat_fed.codec.latent_file import Recipe, StoredLatent
from feat_fed.codec.stats import LatentStats
from feat_fed.codec.store import LatentStore
from feat_fed.config import ClipConfig
from feat_fed.data.frames import SQUARE_VERSION, square_video
from feat_fed.data.inventory.scan import TOO_SHORT, ClipEntry, Exclusion, Progress, window_frames
from feat_fed.data.quality import QUALITY_VERSION, cleaned
from feat_fed.data.reading.clip import contained
from feat_fed.data.reading.reader import READER_VERSION, iter_frames
from feat_fed.errors import ClipError, DataError

_CHUNK_FRAMES = 32  # decoded frames in memory at a time, however long the file
_MOMENT_BYTES = 2
_DIGEST_BYTES = 16
_HEADER_BYTES = 4096

Made = StoredLatent | str
"""A latent, or the reason why there is none."""


@dataclass(frozen=True)
class LatentClip:
    """One clip, encoded; ``num_frames`` is what the decoder really gave."""

    latent: StoredLatent
    patient: str

    @property
    def num_frames(self) -> int:
        """Frames of the latent, one for each of the source."""
        return self.latent.num_frames


@dataclass(frozen=True)
class LatentClips:
    """What :func:`prepare` made, in the order of its entries, and what it could not."""

    clips: tuple[LatentClip, ...]
    excluded: tuple[Exclusion, ...]

    @property
    def num_bytes(self) -> int:
        """Of the latents on disk."""
        return sum(clip.latent.num_bytes for clip in self.clips)

    @property
    def stats(self) -> LatentStats | None:
        """Scale of all latents and what their rounding lost; None without a clip."""
        return reduce(add, (clip.latent.stats for clip in self.clips)) if self.clips else None

    def of_patients(self, patients: Iterable[str]) -> LatentClips:
        """Return the clips of some patients alone."""
        wanted = set(patients)
        return LatentClips(
            tuple(clip for clip in self.clips if clip.patient in wanted), self.excluded
        )


def prepare(
    entries: Iterable[ClipEntry],
    *,
    store: LatentStore,
    codec: VideoCodec,
    clips: ClipConfig,
    progress: Progress | None = None,
    workers: int = 0,
) -> LatentClips:
    """Encode what the store does not hold yet, whole files at their own frame rate.

    A clip that turns out damaged or too short on the way costs an exclusion.

    Parameters
    ----------
    workers
        Processes that encode, for a codec on the CPU; 0: this one alone.

    Raises
    ------
    DataError
        When the store cannot be written, or its bound cannot hold the clips: that is told
        before the first is encoded.
    ConfigError
        When the codec's latents do not fit the store's numbers.
    """
    entries = tuple(entries)
    jobs = [_Job(entry, _recipe(entry, codec, clips, store.config.dtype)) for entry in entries]
    with store.writing():
        found = [store.find(job.recipe) for job in jobs]
        missing = [job for job, latent in zip(jobs, found, strict=True) if latent is None]
        store.make_room(sum(latent_bytes(job.entry, codec, clips) for job in missing))
        made: list[Made] = []
        with _mapped(_Encoder(store, codec, clips), missing, workers) as fresh:
            for latent in found:
                made.append(latent or next(fresh))
                if progress:
                    progress(len(made), len(jobs))
        store.keep(each.path for each in made if isinstance(each, StoredLatent))
    return _sorted_out(jobs, made, window_frames(clips))


def latent_bytes(entry: ClipEntry, codec: VideoCodec, clips: ClipConfig) -> int:
    """Return what the clip's latent will take on disk, by what its container tells."""
    shape = codec.latent_shape(entry.num_frames, clips.size_px, clips.size_px)
    moments = math.prod(shape) * (1 + codec.has_logvar) * _MOMENT_BYTES
    views = 1 + _encodes_mirrored(codec, clips)
    return (moments + entry.num_frames * _DIGEST_BYTES) * views + _HEADER_BYTES


@dataclass(frozen=True)
class _Job:
    entry: ClipEntry
    recipe: Recipe


@dataclass(frozen=True)
class _Encoder:
    """Encodes one clip into the store; a worker process gets a copy."""

    store: LatentStore
    codec: VideoCodec
    clips: ClipConfig

    def __call__(self, job: _Job) -> Made:
        try:
            return self.store.put(job.recipe, self._encoded(job.entry))
        except ClipError as error:
            return error.reason

    @torch.no_grad()
    def _encoded(self, entry: ClipEntry) -> EncodedClip:
        encoded = EncodedClip(self.store.config.dtype)
        mirrors = _encodes_mirrored(self.codec, self.clips)
        for frames_FhwC in _chunks(entry):
            video_FCHW = square_video(frames_FhwC, size_px=self.clips.size_px, fit=self.clips.fit)
            video_BFCHW = video_FCHW[None]
            encoded.add(
                self.codec.encode(video_BFCHW),
                self.codec.encode(video_BFCHW.flip(-1)) if mirrors else None,
            )
        if not encoded.num_frames:
            raise ClipError(TOO_SHORT)
        return encoded


def _recipe(entry: ClipEntry, codec: VideoCodec, clips: ClipConfig, dtype: str) -> Recipe:
    return Recipe(
        entry.sha256,
        (
            f"reader {READER_VERSION}",
            f"cleaned {QUALITY_VERSION} {entry.field} {entry.overlays}",
            f"square {SQUARE_VERSION} {clips.size_px} px {clips.fit}",
            f"codec {codec.fingerprint}",
            f"{dtype}{' and mirrored' if _encodes_mirrored(codec, clips) else ''}",
        ),
    )


def _encodes_mirrored(codec: VideoCodec, clips: ClipConfig) -> bool:
    return clips.flip and codec.flip_signs is None


def _chunks(entry: ClipEntry) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield what may be seen of the frames, a chunk after the other."""
    frames = iter_frames(entry.source)
    while chunk := list(islice(frames, _CHUNK_FRAMES)):
        with contained("frames that its field does not fit"):
            frames_FhwC = cleaned(np.stack(chunk), field=entry.field, overlays=entry.overlays)
        yield frames_FhwC


def _sorted_out(jobs: Sequence[_Job], made: Sequence[Made], shortest: int) -> LatentClips:
    done: list[LatentClip] = []
    excluded: list[Exclusion] = []
    for job, latent in zip(jobs, made, strict=True):
        if isinstance(latent, str):
            excluded.append(Exclusion(job.entry.source[0], latent))
        elif latent.num_frames < shortest:
            excluded.append(Exclusion(job.entry.source[0], TOO_SHORT))
        else:
            done.append(LatentClip(latent, job.entry.patient))
    return LatentClips(tuple(done), tuple(excluded))


@contextmanager
def _mapped(
    encode: Callable[[_Job], Made], jobs: Sequence[_Job], workers: int
) -> Iterator[Iterator[Made]]:
    """Lend the results in order, as they come."""
    if not workers or len(jobs) < 2:
        yield map(encode, jobs)
        return
    workers = min(workers, len(jobs))
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(os.getpid(), encode, max(1, (os.cpu_count() or 1) // workers)),
    )
    try:
        yield pool.map(_work, jobs)
    except BrokenProcessPool as error:
        raise DataError(
            "a process that encoded clips was killed, perhaps for want of memory; take fewer "
            "workers, and what is done stays done"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_encode_here: Callable[[_Job], Made]


def _start_worker(parent_pid: int, encode: Callable[[_Job], Made], threads: int) -> None:
    global _encode_here
    end_with_parent(parent_pid)
    torch.set_num_threads(threads)
    _encode_here = encode


def _work(job: _Job) -> Made:
    return _encode_here(job)

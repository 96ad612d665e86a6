"""Clips into latents, once.

This is the one place where codecs and files meet: :mod:`feat_fed.data` knows no codec, and the
codecs, the store and the windows beside this module know no file format.

Legend: F frames, C channels, H and W of pixels, h and w of the latent.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import reduce
from itertools import islice
from operator import add
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from feat_fed.codec.base import VideoCodec
from feat_fed.codec.encoded import EncodedClip
from feat_fed.codec.encoders import Encode, encoders
from feat_fed.codec.latent_file import Recipe, StoredLatent, find_latent
from feat_fed.codec.stats import LatentStats
from feat_fed.codec.store import LatentStore
from feat_fed.config import ClipConfig
from feat_fed.data.frames import SQUARE_VERSION, square_video
from feat_fed.data.inventory.look import CHANGED, content_sha256
from feat_fed.data.inventory.scan import TOO_SHORT, ClipEntry, Exclusion, Progress, window_frames
from feat_fed.data.quality import QUALITY_VERSION, cleaned
from feat_fed.data.reading.clip import contained
from feat_fed.data.reading.reader import READER_VERSION, iter_frames
from feat_fed.errors import ClipError

_CHUNK_FRAMES = 32  # decoded frames in memory at a time, however long the file
_MOMENT_BYTES = 2
_DIGEST_BYTES = 16
_HEADER_BYTES = 4096

ERASED = "its patient was erased"
TURN_SEC = 5.0
"""Nothing new is begun in a turn after this; it ends with the clips that are being encoded."""

Made = StoredLatent | str
"""A latent, or the reason why there is none."""

Turn = Callable[[], AbstractContextManager[Collection[str]]]
"""A block in which nobody is erased; it lends the pseudonyms of those who were."""


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
    store: LatentStore | None = field(default=None, compare=False, repr=False)
    """Held, since what it found stays on the disk while it is there."""

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
            tuple(clip for clip in self.clips if clip.patient in wanted), self.excluded, self.store
        )


def prepare(
    entries: Iterable[ClipEntry],
    *,
    store: LatentStore,
    codec: VideoCodec,
    clips: ClipConfig,
    progress: Progress | None = None,
    workers: int = 0,
    turn: Turn = lambda: nullcontext(frozenset()),
) -> LatentClips:
    """Encode what the store does not hold yet, whole files at their own frame rate.

    A clip that turns out damaged, changed or too short on the way costs an exclusion.

    Parameters
    ----------
    workers
        Processes that encode, for a codec on the CPU; 0: this one alone.
    turn
        Entered for some seconds of encoding, again and again: nobody is erased meanwhile, and it
        lends the patients who were. In between, others have theirs.

    Raises
    ------
    DataError
        When the store cannot be written, or its bound cannot hold the clips: that is told
        before the first is encoded.
    ConfigError
        When the codec's latents do not fit the store's numbers.
    """
    jobs = [_Job(entry, _recipe(entry, codec, clips, store.config.dtype)) for entry in entries]
    found = {place: store.find(job.recipe) for place, job in enumerate(jobs)}
    made: dict[int, Made] = {place: latent for place, latent in found.items() if latent}
    missing = deque(place for place in found if place not in made)
    store.make_room(sum(latent_bytes(jobs[place].entry, codec, clips) for place in missing))
    if progress and made:
        progress(len(made), len(jobs))
    erased: Collection[str] = frozenset()
    work = _Encoder(store, codec, clips)
    with encoders(work, workers, jobs=len(missing)) as encode:
        while missing:
            with turn() as erased, store.writing():
                stop_at = time.monotonic() + TURN_SEC
                for place, latent in _taken(jobs, missing, encode, erased, workers, stop_at):
                    made[place] = latent
                    if isinstance(latent, StoredLatent):
                        store.use(latent.path)  # before the worker that put it ends
                    if progress:
                        progress(len(made), len(jobs))
    store.keep_to_bound()
    done, excluded = _sorted_out(jobs, made, erased, window_frames(clips))
    return LatentClips(done, excluded, store)


def latent_bytes(entry: ClipEntry, codec: VideoCodec, clips: ClipConfig) -> int:
    """Return what the clip's latent will take on disk, by what its container tells."""
    shape = codec.latent_shape(entry.num_frames, clips.size_px, clips.size_px)
    moments = math.prod(shape) * (1 + codec.has_logvar) * _MOMENT_BYTES
    views = 1 + _encodes_mirrored(codec, clips)
    return (moments + entry.num_frames * _DIGEST_BYTES) * views + _HEADER_BYTES


def missing_latents(
    entries: Iterable[ClipEntry], *, folder: Path, dtype: str, codec: VideoCodec, clips: ClipConfig
) -> tuple[ClipEntry, ...]:
    """Return the clips that :func:`prepare` would encode; nothing is touched."""
    recipes = ((each, _recipe(each, codec, clips, dtype)) for each in entries)
    return tuple(
        each for each, recipe in recipes if find_latent(folder / recipe.file_name, recipe) is None
    )


def encoding_sec(entry: ClipEntry, codec: VideoCodec, clips: ClipConfig) -> float:
    """Return the seconds that reading and encoding a clip take here; nothing is kept.

    Raises
    ------
    ClipError
        If it cannot be read.
    """
    started_sec = time.perf_counter()
    mirrors = _encodes_mirrored(codec, clips)
    with torch.no_grad():
        for frames_FhwC in _chunks(entry):
            video_BFCHW = square_video(frames_FhwC, size_px=clips.size_px, fit=clips.fit)[None]
            for video in (video_BFCHW, video_BFCHW.flip(-1))[: 1 + mirrors]:
                codec.encode(video)
    return time.perf_counter() - started_sec


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
            with EncodedClip(self.store.config.dtype, self.store.folder) as encoded:
                self._encode(job.entry, encoded)
                return self.store.put(job.recipe, encoded)
        except ClipError as error:
            return error.reason

    @torch.no_grad()
    def _encode(self, entry: ClipEntry, encoded: EncodedClip) -> None:
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
        if content_sha256(entry.source) != entry.sha256:
            raise ClipError(CHANGED)  # what was just read may be of another patient


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


def _taken(
    jobs: Sequence[_Job],
    missing: deque[int],
    encode: Encode[_Job, Made],
    erased: Collection[str],
    workers: int,
    stop_at: float,
) -> Iterator[tuple[int, Made]]:
    """Take clips off the queue until it is time, and yield what came of each."""
    running: deque[tuple[int, Future[Made]]] = deque()
    while True:
        while missing and len(running) <= workers and time.monotonic() < stop_at:
            place = missing.popleft()
            if jobs[place].entry.patient in erased:
                yield place, ERASED
            else:
                running.append((place, encode(jobs[place])))
        if not running:
            return
        place, future = running.popleft()
        yield place, future.result()


def _sorted_out(
    jobs: Sequence[_Job], made: Mapping[int, Made], erased: Collection[str], shortest: int
) -> tuple[tuple[LatentClip, ...], tuple[Exclusion, ...]]:
    done: list[LatentClip] = []
    excluded: list[Exclusion] = []
    for place, job in enumerate(jobs):
        latent = ERASED if job.entry.patient in erased else made[place]
        if isinstance(latent, StoredLatent) and latent.num_frames < shortest:
            latent = TOO_SHORT
        if isinstance(latent, str):
            excluded.append(Exclusion(job.entry.source[0], latent))
        else:
            done.append(LatentClip(latent, job.entry.patient))
    return tuple(done), tuple(excluded)

"""Training clips cut out of stored latents; a seed and a step say which, on every replay.

Legend: B batch, N clips, F frames, C channels, h and w of the latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from feat_fed.codec.base import flip_latent
from feat_fed.codec.prepare import LatentClip, LatentClips
from feat_fed.codec.whole import WholeClip
from feat_fed.config import ClipConfig
from feat_fed.config.base import StrictModel
from feat_fed.data.inventory.scan import window_frames
from feat_fed.errors import DataError


class Mirroring(Protocol):
    """What windows need to know of a codec."""

    @property
    def flip_signs(self) -> tuple[int, ...] | None:
        """As of :class:`~feat_fed.codec.base.VideoCodec`."""
        ...


class WindowsSource(StrictModel):
    """Windows as a text that another process of the site opens them by.

    The latents stay on the disk as long as the windows that this was taken from are there.
    """

    clips: tuple[LatentClip, ...]
    flip_signs: tuple[int, ...] | None
    config: ClipConfig

    def open(self) -> LatentWindows:
        """Return windows that give the same clips."""
        return LatentWindows(LatentClips(self.clips, ()), codec=self, clips=self.config)


class LatentWindows(Dataset[Tensor]):
    """A map-style dataset of windows of ``clips.frames`` frames.

    Parameters
    ----------
    prepared
        Latents of at least ``window_frames(clips)`` frames each, as ``prepare`` gives them.
    codec
        The one that made them: it knows how a latent is mirrored.

    Raises
    ------
    DataError
        When there is no clip.
    """

    def __init__(self, prepared: LatentClips, *, codec: Mirroring, clips: ClipConfig) -> None:
        if not prepared.clips:
            raise DataError("there is no clip to take windows from")
        self._prepared = prepared  # all of it: what it holds keeps the files from being removed
        self._clips = prepared.clips
        self._flip_signs = codec.flip_signs
        self._config = clips
        self._of_patient: dict[str, list[int]] = {}
        for index, clip in enumerate(self._clips):
            self._of_patient.setdefault(clip.patient, []).append(index)

    @property
    def num_clips(self) -> int:
        """Clips that windows come from."""
        return len(self._clips)

    @property
    def digest(self) -> str:
        """Of which clips these are and how they are cut: equal where all batches are."""
        names = "\n".join(clip.latent.path.name for clip in self._clips)
        return sha256(f"{self._config.model_dump_json()}\n{names}".encode()).hexdigest()

    @property
    def num_patients(self) -> int:
        """Patients who are on them."""
        return len(self._of_patient)

    @property
    def patients(self) -> tuple[str, ...]:
        """Their pseudonyms."""
        return tuple(self._of_patient)

    def source(self) -> WindowsSource:
        """Return what another process needs to open them."""
        return WindowsSource(clips=self._clips, flip_signs=self._flip_signs, config=self._config)

    def whole(self) -> tuple[WholeClip, ...]:
        """Return the clips that windows come from, whole; they stay as long as this does."""
        flips = self._config.flip
        return tuple(WholeClip(each, self._flip_signs, flips) for each in self._clips)

    def of_each_patient(self, at_most: int) -> Tensor:
        """Return the middle window of one clip of each patient, ``z_NFChw``, not mirrored.

        Where there are more patients than ``at_most``, of some of them, spread over all.
        """
        firsts = [clips[0] for clips in self._of_patient.values()]
        step = max(1, -(-len(firsts) // at_most))
        return torch.stack([self[index] for index in firsts[::step]])

    def __len__(self) -> int:
        return self.num_clips

    def __getitem__(self, index: int) -> Tensor:
        """Return the middle window of one clip, ``FChw``, not mirrored."""
        return self._window(index, 0.5, np.random.default_rng(index), flip=False)

    def sample(self, *seed: int) -> Tensor:
        """Draw a window of a random clip at a random time, perhaps mirrored, ``FChw``."""
        return self._sample(range(self.num_clips), np.random.default_rng(seed))

    def windows_of(self, patient: str, number: int, seed: int) -> Tensor:
        """Draw windows as :meth:`sample` does, out of one patient's clips, ``z_NFCHW``.

        They depend on the arguments and this patient's clips, and on nobody else's.
        """
        rng, clips = np.random.default_rng(seed), self._of_patient[patient]
        return torch.stack([self._sample(clips, rng) for _ in range(number)])

    def _sample(self, clips: Sequence[int], rng: np.random.Generator) -> Tensor:
        index, at = clips[int(rng.integers(len(clips)))], float(rng.random())
        flip = bool(rng.random() < 0.5) and self._config.flip
        return self._window(index, at, rng, flip=flip)

    def batch(self, seed: int, step: int, batch_size: int) -> Tensor:
        """Draw the batch of one step, ``z_BFCHW``: equal arguments give equal batches."""
        return torch.stack([self.sample(seed, step, place) for place in range(batch_size)])

    def fixed(self, num_clips: int) -> Tensor:
        """Return ``num_clips`` windows that never change, ``z_NFCHW``, spread over all clips.

        Where more are wanted than there are clips, a clip gives several, spread over its time.
        """
        visits: dict[int, list[int]] = {}
        for place in range(num_clips):
            visits.setdefault(place * self.num_clips // num_clips, []).append(place)
        windows = [
            self._window(
                index, (turn + 0.5) / len(places), np.random.default_rng(place), flip=False
            )
            for index, places in visits.items()
            for turn, place in enumerate(places)
        ]
        return torch.stack(windows)

    def _window(self, index: int, at: float, rng: np.random.Generator, *, flip: bool) -> Tensor:
        """Cut at the share ``at`` in [0, 1) of the possible starts; sample the moments, if any."""
        latent, signs = self._clips[index].latent, self._flip_signs
        span = window_frames(self._config)
        start = int(at * (latent.num_frames - span + 1))
        mean, logvar = latent.read(start, start + span, mirrored=flip and signs is None)
        z_FCHW = mean[:: self._config.stride_frames]
        if logvar is not None:
            noise = torch.from_numpy(rng.standard_normal(z_FCHW.shape, dtype=np.float32))
            z_FCHW = z_FCHW + noise * (logvar[:: self._config.stride_frames] / 2).exp()
        return flip_latent(z_FCHW, signs) if flip and signs else z_FCHW

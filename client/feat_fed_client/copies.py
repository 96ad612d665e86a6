"""Which of a model's generated clips are copies of this site's, before anybody releases them.

::

    memorisation/round-0003-1a2b3c4d5e6f7a8b/answer.json          what was found, whole
    memorisation/round-0003-1a2b3c4d5e6f7a8b/contact-sheet.png    the nearest pairs, and as films

The pictures show patients and stay where they are; a question that is asked again is answered
from the file. What leaves is what the site's ``release.tell`` allows.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from pydantic import Field, ValidationError
from torch import Tensor

from feat_fed.atomic import write_bytes_atomically
from feat_fed.codec import LatentWindows, VideoCodec, WholeClip, build_codec
from feat_fed.config import SiteConfig
from feat_fed.config.base import StrictModel
from feat_fed.errors import StorageError
from feat_fed.federate import unpack
from feat_fed.memorisation import (
    Calibration,
    Found,
    GeneratedClips,
    NearestClips,
    calibrated_by,
    coarse,
    is_near,
    nearest,
)
from feat_fed.protocol import Assignment, Report, enclose, opened
from feat_fed.report import write_samples
from feat_fed.report.live import LIVE_FILE, SiteLive
from feat_fed.train import resolve_device
from feat_fed_client.budget import require_protections
from feat_fed_client.compared import take_clips
from feat_fed_client.limits import DeclinedError, SiteLimits
from feat_fed_client.niceness import be_nice
from feat_fed_client.session import SiteClips, SiteSession
from feat_fed_client.supervision import Witness

log = logging.getLogger(__name__)

_MOST_HELDOUT = 512
_PAIRS = 16
_GAP_PX, _PAPER = 2, 255
_FPS = 10.0


class Pair(StrictModel):
    """A generated clip and the training window that is nearest to it."""

    clip: int = Field(ge=1)
    near: bool
    score: float
    source_sha256: str = Field(description="of the training clip's file")
    start_frame: int
    mirrored: bool


class KeptAnswer(StrictModel):
    """The content of ``answer.json``."""

    answer: NearestClips
    pairs: tuple[Pair, ...] = Field(description="nearest first")


class CopySearch:
    """Answer one question for copies.

    Parameters
    ----------
    witness
        Is told again and again that the work goes on.
    """

    def __init__(
        self, site: SiteConfig, assignment: Assignment, *, witness: Witness = lambda _: None
    ) -> None:
        self._site = site
        self._told = assignment
        self._witness = witness

    def answer(self, buckets: Sequence[bytes]) -> Report:
        """Look for the clips whose latents came; return the report, whole.

        Raises
        ------
        DeclinedError
            If the site's policy, demands or limits forbid it.
        ProtocolError
            If what came are no latents of the study's clips.
        DataError
            If there is no training clip.
        """
        site, told = self._site, self._told
        be_nice(site.compute.niceness)
        require_protections(site, told.study)
        if site.release.told(told.study.privacy, site.privacy) == "nothing":
            raise DeclinedError("release", "release.tell is `nothing` for this study")
        device = resolve_device(site.compute)
        codec = build_codec(told.study.codec, weights=site.codec_weights, device=device)
        z_NFChw = self._latents(buckets, codec)
        kept = self._kept(buckets)
        if kept is None:
            SiteLimits.of(site).require_open()
            take_clips(site.store, len(z_NFChw), self._folder(buckets).name, site.release)
            kept = self._search(z_NFChw, buckets, codec, device)
        return Report(
            study_id=told.study_id,
            round=told.round,
            task=told.task,
            site=site.name,
            outcome="ok",
            enclosed=enclose(kept.answer),
        )

    def _latents(self, buckets: Sequence[bytes], codec: VideoCodec) -> Tensor:
        clips = self._told.study.clips
        number = opened(self._told.enclosed, GeneratedClips).clips
        shape = (number, *codec.latent_shape(clips.frames, clips.size_px, clips.size_px))
        return unpack(buckets, {"z": torch.empty(shape, device="meta")})["z"]

    def _search(
        self,
        z_NFChw: Tensor,
        buckets: Sequence[bytes],
        codec: VideoCodec,
        device: torch.device,
    ) -> KeptAnswer:
        self._live("preparing")
        try:
            own = SiteSession(self._site, witness=self._witness).clips(self._told)
            self._live("comparing")
            found, heldout = self._found(z_NFChw, own)
            kept = answer_of(found, heldout, own.train)
            folder = self._folder(buckets)
            try:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._draw(folder, z_NFChw, found, kept.pairs[:_PAIRS], own.train, codec, device)
                path = folder / "answer.json"
                write_bytes_atomically(path, kept.model_dump_json(indent=1).encode(), mode=0o600)
            except OSError as error:
                raise StorageError(f"{folder} cannot be written: {error}") from error
        finally:
            self._live("idle")
        near = sum(kept.answer.near)
        log.log(
            logging.WARNING if near else logging.INFO,
            "round %d: %d of %d generated clips are nearer to this site's clips than its held-out "
            "patients' are; the nearest pairs, which stay here: %s",
            self._told.round,
            near,
            len(found),
            folder,
        )
        return kept

    def _found(self, z_NFChw: Tensor, own: SiteClips) -> tuple[list[Found], list[float]]:
        """Return what is nearest to each clip, and the score of each held-out patient."""
        sought, number = z_NFChw, len(z_NFChw)
        if own.heldout is not None:
            sought = torch.cat([sought, own.heldout.of_each_patient(_MOST_HELDOUT)])
        found = nearest(
            sought,
            own.train.whole(),
            stride_frames=self._told.study.clips.stride_frames,
            alive=lambda: self._witness("working"),
        )
        return found[:number], [each.score for each in found[number:]]

    def _draw(
        self,
        folder: Path,
        z_NFChw: Tensor,
        found: Sequence[Found],
        pairs: Sequence[Pair],
        train: LatentWindows,
        codec: VideoCodec,
        device: torch.device,
    ) -> None:
        """Write each generated clip at the left of what is nearest to it."""
        shown, clips = [], train.whole()
        for pair in pairs:
            where = found[pair.clip - 1]
            window_FChw = window_of(clips[where.clip], where, z_NFChw.shape[1], self._stride)
            two_BFCHW = codec.decode(torch.stack([z_NFChw[pair.clip - 1], window_FChw]).to(device))
            self._witness("working")
            frames = ((two_BFCHW.clamp(-1, 1) + 1) * 127.5).round().byte().cpu().movedim(2, -1)
            left, right = frames.numpy()
            gap = np.full((*left.shape[:2], _GAP_PX, 3), _PAPER, dtype=np.uint8)
            shown.append(np.concatenate([left, gap, right], axis=2))
        write_samples(folder, np.stack(shown), fps=_FPS)

    @property
    def _stride(self) -> int:
        return self._told.study.clips.stride_frames

    def _folder(self, buckets: Sequence[bytes]) -> Path:
        digest = sha256(self._told.study_id.encode())
        for bucket in buckets:
            digest.update(bucket)
        name = f"round-{self._told.round:04d}-{digest.hexdigest()[:16]}"
        return self._site.store / "memorisation" / name

    def _kept(self, buckets: Sequence[bytes]) -> KeptAnswer | None:
        with contextlib.suppress(OSError, ValidationError):
            path = self._folder(buckets) / "answer.json"
            return KeptAnswer.model_validate_json(path.read_bytes())
        return None

    def _live(self, phase: str) -> None:
        self._witness("working")
        live = SiteLive.model_validate({"phase": phase, "round": self._told.round})
        with contextlib.suppress(OSError):
            live.write(self._site.store / LIVE_FILE)


def answer_of(found: Sequence[Found], heldout: Sequence[float], train: LatentWindows) -> KeptAnswer:
    """Return the verdicts on clips, by the scores of held-out patients.

    Parameters
    ----------
    found
        Of each clip.
    heldout
        Score of each held-out patient.
    """
    calibration, clips = Calibration.of(heldout), train.whole()
    near = tuple(is_near(each.score, calibration) for each in found)
    answer = NearestClips(
        near=near,
        calibrated=calibrated_by(len(heldout)),
        heldout_patients=len(heldout),
        threshold=None if calibration is None else coarse(calibration.threshold),
        scores=tuple(coarse(each.score) for each in found),
    )
    order = sorted(range(len(found)), key=lambda place: -found[place].score)
    pairs = tuple(
        Pair(
            clip=place + 1,
            near=near[place],
            score=found[place].score,
            source_sha256=clips[found[place].clip].source_sha256,
            start_frame=found[place].start_frame,
            mirrored=found[place].mirrored,
        )
        for place in order
    )
    return KeptAnswer(answer=answer, pairs=pairs)


def window_of(clip: WholeClip, where: Found, frames: int, stride_frames: int) -> Tensor:
    """Return the training window that was found, ``z_FChw``."""
    stop = where.start_frame + (frames - 1) * stride_frames + 1
    z_FChw = clip.read(where.start_frame, stop, mirrored=where.mirrored)
    return z_FChw[::stride_frames]

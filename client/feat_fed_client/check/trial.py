"""What a child of ``feat-fed check`` does: some steps of training, or the encoding of some clips.

``python -m feat_fed_client.check.trial TASK.json RESULT.json``. A process of its own, so that one
that the kernel ends for want of memory is a result and not the end of the check.
"""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import torch
from pydantic import Field

from feat_fed.codec import Latent, LatentClip, LatentClips, LatentStore, LatentWindows, build_codec
from feat_fed.codec.encoded import EncodedClip
from feat_fed.codec.latent_file import Recipe
from feat_fed.codec.prepare import encoding_sec
from feat_fed.config import ComputeConfig, SiteConfig, StudyConfig
from feat_fed.config.base import StrictModel
from feat_fed.data import ClipEntry, window_frames
from feat_fed.data.reading.clip import Box
from feat_fed.errors import ClipError, FeatFedError
from feat_fed.model import FEAT
from feat_fed.protocol import EndedBy
from feat_fed.train import (
    EvaluationJob,
    RoundHooks,
    RoundJob,
    StepProgress,
    evaluate_round,
    resolve_device,
    train_round,
)
from feat_fed.train.memory import available_bytes
from feat_fed_client.niceness import be_nice

MAX_STEPS = 6
"""With the first, which is not timed."""
LONG_SEC = 20.0
"""Of timed steps, after which no more are taken."""
MAX_TRIAL_CLIPS = 2
MAX_TRIAL_PATIENTS = 4
"""In a private step; the time that more of them take is reckoned."""
_OOM_FIRST = 1000


class TrialClip(StrictModel):
    """A clip of the manifest and where it lies."""

    path: Path
    sha256: str
    num_frames: int
    height_px: int
    width_px: int
    field: tuple[int, int, int, int] | None
    overlays: tuple[tuple[int, int, int, int], ...]


class TrialTask(StrictModel):
    """What is tried."""

    kind: Literal["train", "encode"]
    site: SiteConfig
    study: StudyConfig
    label: int | None = None
    patients: int = 1
    """Who take part in a private step."""
    clips: tuple[TrialClip, ...] = ()


class StepTrial(StrictModel):
    """Steps of the study's training, on latents that are made up."""

    micro_batch: int
    steps: int
    """That were timed."""
    step_sec: float = Field(gt=0)
    score_clip_sec: float
    """To score a held-out clip."""
    peak_bytes: int | None
    """That training held of the device's memory; None where several processes share it."""
    may_use_bytes: int
    """``compute.memory_share`` of what was free."""


class EncodeTrial(StrictModel):
    """Clips of the site that were encoded, and thrown away."""

    clips: int
    frames: int
    seconds: float


class TrialFailure(StrictModel):
    """What ended a trial."""

    code: str
    """Of a :class:`FeatFedError`, or the class of any other error."""
    text: str
    """May hold paths; empty for an error that is none of ours."""


class TrialResult(StrictModel):
    """One of the three."""

    step: StepTrial | None = None
    encode: EncodeTrial | None = None
    failure: TrialFailure | None = None


@dataclass(frozen=True)
class _Symmetric:
    """A codec whose latents are mirrored by turning them round."""

    channels: int

    @property
    def flip_signs(self) -> tuple[int, ...]:
        return (1,) * self.channels


def made_up_clips(study: StudyConfig, folder: Path, patients: int = 1) -> LatentWindows:
    """Write a latent of unit scale in the study's shape, and open it as a round does."""
    store, channels = LatentStore(folder), study.model.in_channels
    side, frames = study.clips.size_px // study.codec.step_px, window_frames(study.clips)
    mean_BFCHW = torch.randn(1, frames, channels, side, side)
    with EncodedClip(store.config.dtype, folder) as encoded:
        encoded.add(Latent(mean_BFCHW))
        latent = store.put(Recipe("0" * 64, ("made up",)), encoded)
    clips = LatentClips(tuple(LatentClip(latent, str(i)) for i in range(patients)), (), store)
    return LatentWindows(clips, codec=_Symmetric(channels), clips=study.clips)


class _Stopwatch:
    """Times a round's steps after the first, and ends the round when that is enough."""

    def __init__(self) -> None:
        self.micro_batch = 0
        self.steps = 0
        self.seconds = 0.0
        self.memory_bytes = 0
        self._started_sec: float | None = None

    def fitted(self, micro_batch: int) -> None:
        self.micro_batch = micro_batch

    def progress(self, step: StepProgress) -> None:
        self.memory_bytes = step.memory_bytes
        if self._started_sec is None:
            self._started_sec = time.perf_counter()
        else:
            self.steps += 1
            self.seconds = time.perf_counter() - self._started_sec

    def must_end(self) -> EndedBy | None:
        return "pause" if self.seconds > LONG_SEC else None


def try_training(task: TrialTask, folder: Path) -> StepTrial:
    """Take some steps as a round does; ``folder`` is for what it writes.

    Raises
    ------
    FeatFedError
        As :func:`feat_fed.train.train_round` does.
    """
    study, compute = task.study, task.site.compute
    may_use_bytes = int(compute.memory_share * _free_bytes(compute))
    device = resolve_device(compute)
    before_bytes = psutil.Process().memory_info().rss if device.type == "cpu" else 0
    training = study.training.model_copy(
        update={
            "local_steps": MAX_STEPS,
            "local_epochs": None,
            "local_minutes": None,
            "optimiser_state": "reset",
            "precision": compute.precision or study.training.precision,
        }
    )
    patients, privacy = min(task.patients, MAX_TRIAL_PATIENTS), study.privacy.patient
    if privacy is not None:
        noise = privacy.noise_multiplier or 1.0  # found when the study begins; any takes as long
        privacy = privacy.model_copy(update={"sample_rate": 1.0, "noise_multiplier": noise})
    job = RoundJob(
        model=study.model,
        diffusion=study.diffusion,
        training=training,
        weights=FEAT(study.model).state_dict(),
        compute=compute,
        folder=folder / "training",
        label=task.label,
        privacy=privacy,
        seed=0,
        first_step=study.training.warmup_steps,
        total_steps=study.rounds * study.training.local_steps,
    )
    clips, watch = made_up_clips(study, folder / "latents", patients), _Stopwatch()
    train_round(
        job,
        train=clips,
        heldout=None,
        hooks=RoundHooks(progress=watch.progress, must_end=watch.must_end, fitted=watch.fitted),
    )
    alone = compute.num_devices == 1
    held_bytes = watch.memory_bytes - before_bytes if alone else None
    return StepTrial(
        micro_batch=watch.micro_batch,
        steps=watch.steps,
        step_sec=watch.seconds / max(1, watch.steps) * task.patients / patients,
        score_clip_sec=_score_clip_sec(job, clips),
        peak_bytes=held_bytes,
        may_use_bytes=may_use_bytes,
    )


def try_encoding(task: TrialTask) -> EncodeTrial:
    """Read and encode the clips, and keep nothing."""
    device = resolve_device(task.site.compute)
    codec = build_codec(task.study.codec, weights=task.site.codec_weights, device=device)
    seconds, frames, number = 0.0, 0, 0
    for each in task.clips:
        entry = ClipEntry(
            source=(each.path,),
            sha256=each.sha256,
            patient="",
            num_frames=each.num_frames,
            height_px=each.height_px,
            width_px=each.width_px,
            fps=None,
            field=Box(*each.field) if each.field else None,
            overlays=tuple(Box(*box) for box in each.overlays),
        )
        with contextlib.suppress(ClipError):  # the next scan will say so
            seconds += encoding_sec(entry, codec, task.study.clips)
            frames, number = frames + each.num_frames, number + 1
    return EncodeTrial(clips=number, frames=frames, seconds=seconds)


def _score_clip_sec(job: RoundJob, clips: LatentWindows) -> float:
    number = min(2, job.training.heldout_clips)
    score = EvaluationJob(
        model=job.model,
        diffusion=job.diffusion,
        training=job.training.model_copy(update={"heldout_clips": number}),
        weights=job.weights,
        compute=job.compute,
        label=job.label,
    )
    started_sec = time.perf_counter()
    evaluate_round(score, heldout=clips)
    return (time.perf_counter() - started_sec) / number


def _free_bytes(compute: ComputeConfig) -> int:
    if resolve_device(compute).type == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return available_bytes()


def _try(task: TrialTask, folder: Path) -> TrialResult:
    try:
        if task.kind == "train":
            return TrialResult(step=try_training(task, folder))
        return TrialResult(encode=try_encoding(task))
    except FeatFedError as error:
        text = _without_own_log(str(error), folder)
        return TrialResult(failure=TrialFailure(code=error.code, text=text))
    except MemoryError:
        return TrialResult(failure=TrialFailure(code="memory", text=""))
    except Exception as error:
        return TrialResult(failure=TrialFailure(code=type(error).__name__, text=""))


def _without_own_log(text: str, folder: Path) -> str:
    """Cut where a training process's log is: it goes with this trial."""
    told, _, last = text.rpartition("; ")
    return told if told and str(folder) in last else text


def main() -> None:
    """Read the task, try it, write the result."""
    task_file, result_file = map(Path, sys.argv[1:])
    # The kernel takes this process first when memory is short, not what else runs here.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_FIRST))
    task = TrialTask.model_validate_json(task_file.read_bytes())
    be_nice(task.site.compute.niceness)
    result_file.write_text(_try(task, result_file.parent).model_dump_json())


if __name__ == "__main__":
    main()

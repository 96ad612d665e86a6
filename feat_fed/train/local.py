"""One site's part in one round: weights in, better weights out.

The same job on the same clips gives the same bytes on
the same machine with the same number of processes and threads (on a CPU; CUDA's convolutions may
sum in another order), as long as ``training.local_minutes`` does not end it.

Shapes: B clips of a batch, F frames, C channels, H x W latent pixels.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from contextlib import closing

import torch
from torch import Tensor, nn

from feat_fed.diffusion import Schedule
from feat_fed.errors import TrainingError
from feat_fed.finite import all_finite
from feat_fed.model import FEAT
from feat_fed.threads import cpu_threads
from feat_fed.train.batches import losses_of_batch
from feat_fed.train.device import on_device, resolve_device, threads_of
from feat_fed.train.engine import LossFunction, open_engine
from feat_fed.train.faults import torch_errors
from feat_fed.train.fit import fitting_micro_batch, state_copies
from feat_fed.train.heldout import heldout_loss
from feat_fed.train.jobs import (
    EvaluationJob,
    HeldoutClips,
    RoundHooks,
    RoundJob,
    RoundResult,
    TrainingClips,
)
from feat_fed.train.peers import ALONE, Peers
from feat_fed.train.precision import compute_in
from feat_fed.train.private import check_private, rows_per_patient
from feat_fed.train.steps import MEND, RoundSteps
from feat_fed.train.weights import load_weights
from feat_fed.train.workers import train_in_workers


def train_round(
    job: RoundJob,
    *,
    train: TrainingClips,
    heldout: HeldoutClips | None,
    hooks: RoundHooks,
) -> RoundResult:
    """Score the received weights, train them, and return the new ones.

    Here, or for several devices in a process for each of them. A round that is resumed
    (``job.resume``) gives the bytes of one that never stopped.

    Raises
    ------
    CheckpointError
        If the weights or the optimiser's state do not fit the model.
    ConfigError
        If a device is not there, or a private step cannot be taken as is asked.
    MemoryShortError
        If memory is too short for one clip.
    DeviceError
        If a GPU fails.
    StalledError
        If several processes fall silent again and again.
    TrainingError
        If too many losses or gradients are not finite, or one of several processes ends.
    """
    if job.privacy is not None:
        check_private(job.privacy, job.training, job.compute)
    if job.compute.num_devices == 1:
        return take_part(job, train=train, heldout=heldout, hooks=hooks, peers=ALONE)
    resolve_device(job.compute)
    return train_in_workers(job, train=train, heldout=heldout, hooks=hooks)


def take_part(
    job: RoundJob,
    *,
    train: TrainingClips,
    heldout: HeldoutClips | None,
    hooks: RoundHooks,
    peers: Peers,
) -> RoundResult:
    """Train in this process, alone or as one of ``peers``; all get the same result."""
    started_sec = time.perf_counter()
    compute, resume = job.compute, job.resume
    device = resolve_device(compute, peers.rank)
    with (
        torch_errors(),
        cpu_threads(threads_of(compute)),
        on_device(device, memory_share=compute.memory_share),
    ):
        model = _received_model(job, device)
        hooks.alive()
        model.gradient_checkpointing = compute.gradient_checkpointing
        micro_batch = _fitting_micro_batch(job, model, train, peers, hooks)
        hooks.fitted(micro_batch)
        if resume is not None:
            score = resume.heldout_loss
        elif heldout is None:
            score = None
        else:
            score = _score(job, model, heldout, micro_batch, peers=peers, hooks=hooks)
        training = job.training
        if job.privacy is not None:  # a patient's gradient is clipped, and their noisy mean is not
            training = training.model_copy(update={"gradient_clip": None})
        # The engine takes the received weights for the anchor of FedProx.
        with closing(
            open_engine(model, training, peers=peers, zero_stage=compute.zero_stage)
        ) as engine:
            hooks.alive()
            if resume is not None:
                engine.load_weights(resume.weights)
                # There is none yet where all steps so far were skipped.
                if resume.losses or resume.optimiser_state:
                    engine.load_optimiser_state(resume.optimiser_state)
            elif job.optimiser_state is not None:
                engine.load_optimiser_state(job.optimiser_state)
            steps = RoundSteps(
                job,
                model,
                engine,
                train,
                hooks,
                peers,
                micro_batch=micro_batch,
                heldout_loss=score,
            ).take()
            weights = _finite(engine.weights())
            hooks.alive()
            kept = job.training.optimiser_state == "kept"
            state = engine.optimiser_state() if kept else None
    return RoundResult(
        weights=weights,
        train_loss=math.fsum(steps.losses) / len(steps.losses),
        heldout_loss=score,
        steps=len(steps.losses),
        skipped_steps=steps.skipped,
        ended_by=steps.ended_by,
        examples=train.num_clips,
        seconds=(resume.seconds if resume else 0.0) + time.perf_counter() - started_sec,
        optimiser_state=state,
    )


def evaluate_round(job: EvaluationJob, *, heldout: HeldoutClips) -> float:
    """Return the held-out loss of the weights; :func:`train_round` without the training.

    Always in this process, on the first of the site's devices.
    """
    compute = job.compute
    device = resolve_device(compute)
    with (
        torch_errors(),
        cpu_threads(compute.threads),
        on_device(device, memory_share=compute.memory_share),
    ):
        model = _received_model(job, device)
        return _score(job, model, heldout, _wanted_micro_batch(job, ALONE))


def _received_model(job: EvaluationJob, device: torch.device) -> FEAT:
    model = FEAT(job.model).to(device)
    load_weights(model, job.weights)
    return model


def _wanted_micro_batch(job: EvaluationJob, peers: Peers) -> int:
    share = peers.largest_share(job.training.batch_size)
    return min(share, job.compute.micro_batch or share)


def _fitting_micro_batch(
    job: RoundJob, model: FEAT, train: TrainingClips, peers: Peers, hooks: RoundHooks
) -> int:
    """Try a step in the study's precision on a clip of the site, repeated as often as needed."""
    device = next(model.parameters()).device
    schedule = Schedule.linear(job.diffusion).to(device)
    z_1FCHW = train.batch(job.seed, job.first_step, 1).to(device).float()

    def loss_of(clips: int) -> LossFunction:
        z_BFCHW = z_1FCHW.expand(clips, *z_1FCHW.shape[1:])
        return losses_of_batch(
            z_BFCHW, schedule, job, step=0, micro_batch=clips, begun=hooks.alive
        )[0]

    wanted = _wanted_micro_batch(job, peers)
    if job.privacy is not None:  # one patient after the other goes through the network
        wanted = min(rows_per_patient(job.privacy), job.compute.micro_batch or sys.maxsize)
    compute_in(model, job.training.precision)
    fits = fitting_micro_batch(
        model,
        loss_of,
        wanted=min(wanted, job.resume.micro_batch) if job.resume else wanted,
        share=job.compute.memory_share / peers.size,
        copies=state_copies(
            job.training,
            processes=peers.size,
            zero_stage=job.compute.zero_stage,
            private=job.privacy is not None,
        ),
    )
    compute_in(model, "fp32")
    return peers.least(fits)


def _score(
    job: EvaluationJob,
    model: nn.Module,
    heldout: HeldoutClips,
    batch_size: int,
    *,
    peers: Peers = ALONE,
    hooks: RoundHooks | None = None,
) -> float:
    return heldout_loss(
        model,
        heldout.fixed(job.training.heldout_clips),
        diffusion=job.diffusion,
        batch_size=batch_size,
        label=job.label,
        peers=peers,
        alive=(hooks or RoundHooks()).alive,
    )


def _finite(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights; after a last step that ruined them, raise."""
    for name, tensor in weights.items():
        if not all_finite(tensor):
            raise TrainingError(f"weight {name} is not finite after the round; {MEND}")
    return dict(weights)

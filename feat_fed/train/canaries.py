"""A small study with canaries among its patients, and what somebody can tell of them afterwards.

Canaries are made-up patients of whom each is in the training by a fair coin. Who looks is the one
that the epsilon of DP-SGD is about: all clips, the seed and the settings are known, and so are the
weights before each step and the gradient that the optimiser was given, noise included. What is
not known is how the coins fell, who took part in which step, and the noise; how much of it there
is shows.

A gradient is a sum of the known gradients of those who took part, and noise. The best linear guess
of who did in a step (LMMSE) gives each canary's odds to be in, and all steps together its score.

Shapes: P places of patients, the canaries' last; F frames, C channels, H x W latent pixels;
K canaries; D weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from feat_fed.config import (
    ComputeConfig,
    DiffusionConfig,
    FEATConfig,
    PatientPrivacyConfig,
    TrainingConfig,
)
from feat_fed.diffusion import Schedule
from feat_fed.model import FEAT
from feat_fed.privacy.auditing import LowerBound, lower_bound
from feat_fed.threads import cpu_threads
from feat_fed.train.batches import losses_of_batch
from feat_fed.train.engine import open_engine
from feat_fed.train.jobs import MidRound, RoundHooks, RoundJob
from feat_fed.train.local import train_round
from feat_fed.train.peers import ALONE
from feat_fed.train.private import PrivateSteps, rows_per_patient
from feat_fed.train.seeds import derive_seed
from feat_fed.train.weights import load_weights, weights_of

_PLAIN_STEPS = 2
"""Of a training without noise."""

_PATIENTS = 8
"""Beside the canaries."""
_LOUD = 10.0
"""Standard deviation of a canary's latent; a patient's is 1."""

_MODEL = FEATConfig(in_channels=64, hidden_size=16, num_trios=1, num_heads=2, mlp_ratio=2.0)
_DIFFUSION = DiffusionConfig(prediction="v")
_CLIP_FCHW = (1, 64, 2, 2)
"""One token of many numbers, all to be predicted: gradients of two canaries hardly overlap."""
_OPEN = 0.05
"""Noise on the first weights, as FEAT begins with closed gates, through which no gradient goes."""

_BETA_1 = 0.9
"""Of AdamW, which the engines leave as it is."""
_ROUNDING = 1e-8
"""Variance of a gradient without noise, as a share of the parts' mean square."""


class PlantedClips:
    """Patients with one clip each, of whom some are absent: their places stay, and are empty."""

    def __init__(self, z_PFCHW: Tensor, present_P: Tensor) -> None:
        self._clips, self._present = z_PFCHW, present_P
        self._places = {f"patient {each}": each for each in range(len(z_PFCHW))}

    @property
    def num_clips(self) -> int:
        """Places."""
        return len(self._clips)

    @property
    def patients(self) -> tuple[str, ...]:
        """Of all places."""
        return tuple(self._places)

    def batch(self, seed: int, step: int, batch_size: int) -> Tensor:
        """Return the clips of the first places, zeros for who is absent."""
        return (self._clips * self._present.view(-1, 1, 1, 1, 1))[:batch_size]

    def windows_of(self, patient: str, number: int, seed: int) -> Tensor:
        """Return the clip so many times; none of who is absent, whose part in a step is nothing."""
        place = self._places[patient]
        number = number if self._present[place] else 0
        return self._clips[place].expand(number, *self._clips.shape[1:])


@dataclass(frozen=True)
class ObservedStep:
    """What is seen of a step."""

    number: int
    weights: Mapping[str, Tensor]
    """Before it."""
    gradient_D: Tensor
    """That the optimiser was given, float64."""


def measured(
    privacy: PatientPrivacyConfig | None,
    *,
    canaries: int,
    steps: int,
    delta: float,
    confidence: float,
    seed: int,
    looked: Callable[[int], None] = lambda _: None,
) -> LowerBound:
    """Train with canaries, guess which were in, and return the epsilon that this proves.

    Parameters
    ----------
    privacy
        Its noise known. None trains without, two steps at most, which tell all.
    seed
        Of clips, weights and coins; the noise and who takes part in a step have none.
    looked
        Told the number of steps that were looked into, after each.
    """
    generator = torch.Generator().manual_seed(derive_seed("canaries", seed))
    places = _PATIENTS + canaries
    z_PFCHW = torch.randn(places, *_CLIP_FCHW, generator=generator)
    z_PFCHW[_PATIENTS:] *= _LOUD
    everybody = torch.ones(places, dtype=torch.bool)
    present_P = everybody.clone()
    present_P[_PATIENTS:] = torch.rand(canaries, generator=generator) < 0.5
    job = _job(privacy, steps=steps, places=places, seed=seed)
    with cpu_threads(1):
        observed = _observed(job, PlantedClips(z_PFCHW, present_P))
        known = PlantedClips(z_PFCHW, everybody)
        odds_K = torch.zeros(canaries, dtype=torch.float64)
        for looks, step in enumerate(observed, 1):
            if privacy is None:
                odds_K += _plain_odds(job, step, known, z_PFCHW)
            else:
                odds_K += _private_odds(job, privacy, step, known)
            looked(looks)
    return lower_bound(
        odds_K.tolist(), present_P[_PATIENTS:].tolist(), delta=delta, confidence=confidence
    )


def _job(privacy: PatientPrivacyConfig | None, *, steps: int, places: int, seed: int) -> RoundJob:
    steps = steps if privacy else min(steps, _PLAIN_STEPS)
    return RoundJob(
        model=_MODEL,
        diffusion=_DIFFUSION,
        training=TrainingConfig(
            engine="torch",
            local_steps=steps,
            batch_size=places,
            gradient_clip=None,
            learning_rate=1e-3,
        ),
        weights=_first_weights(derive_seed("weights", seed)),
        compute=ComputeConfig(device="cpu", threads=1),
        privacy=privacy,
        seed=derive_seed("audit", seed),
        first_step=0,
        total_steps=steps,
    )


def _first_weights(seed: int) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FEAT(_MODEL)
        for weight in model.parameters():
            weight.data += _OPEN * torch.randn_like(weight)
    return weights_of(model)


def _observed(job: RoundJob, clips: PlantedClips) -> list[ObservedStep]:
    """Train a round, and return its steps: what a checkpoint after each of them would hold.

    The gradient is what AdamW's first moment m_t = beta_1 m_(t-1) + (1 - beta_1) g_t was moved by.
    """
    seen: list[MidRound] = []
    hooks = RoundHooks(keep=lambda make: seen.append(make()))
    train_round(job, train=clips, heldout=None, hooks=hooks)
    zeros = {name: torch.zeros_like(each) for name, each in FEAT(job.model).named_parameters()}
    steps, weights, moment_D = [], job.weights, torch.zeros((), dtype=torch.float64)
    for number, each in enumerate(seen, job.first_step):
        before_D, state = moment_D, each.optimiser_state
        moment_D = _flat([state.get(f"exp_avg/{name}", none) for name, none in zeros.items()])
        gradient_D = (moment_D - _BETA_1 * before_D) / (1 - _BETA_1)
        steps.append(ObservedStep(number, weights, gradient_D))
        weights = each.weights
    return steps


def _private_odds(
    job: RoundJob, privacy: PatientPrivacyConfig, step: ObservedStep, everybody: PlantedClips
) -> Tensor:
    """Return the logarithm of each canary's odds to be in, by a private step."""
    model, rate = _model_at(job, step), privacy.sample_rate
    with closing(open_engine(model, job.training)) as engine:
        steps = PrivateSteps(job, privacy, model, engine, everybody, peers=ALONE)
        rows = rows_per_patient(privacy)
        part_PD = torch.stack(
            [
                _flat(steps.clipped_sum([patient], step.number, micro_batch=rows)[0])
                for patient in everybody.patients
            ]
        )
    chance_P = torch.full((len(part_PD),), rate / 2, dtype=torch.float64)
    chance_P[:_PATIENTS] = rate
    seen_D = step.gradient_D * (rate * len(part_PD))
    noise = noise_variance(part_PD, seen_D)
    return took_part(part_PD, seen_D, chance_P, noise_variance=noise, rate=rate)[_PATIENTS:]


def _plain_odds(
    job: RoundJob, step: ObservedStep, everybody: PlantedClips, z_PFCHW: Tensor
) -> Tensor:
    """Return the logarithm of each canary's odds to be in, by a step without privacy.

    Its batch has all places, so that it is a known gradient of the others and, of each canary that
    is in, the difference that it makes at its place.
    """
    model, places = _model_at(job, step), len(z_PFCHW)
    weights, schedule = list(model.parameters()), Schedule.linear(job.diffusion)
    nobody = PlantedClips(z_PFCHW, torch.arange(places) < _PATIENTS)

    def gradient(loss: Tensor) -> Tensor:
        found = torch.autograd.grad(loss, weights, materialize_grads=True)
        return _flat(found)

    def losses(clips: PlantedClips, at_once: int) -> list[Callable[[nn.Module], Tensor]]:
        z_BFCHW = clips.batch(job.seed, step.number, places)
        return losses_of_batch(z_BFCHW, schedule, job, step=step.number, micro_batch=at_once)

    pairs = list(zip(losses(everybody, 1), losses(nobody, 1), strict=True))[_PATIENTS:]
    part_KD = torch.stack([gradient(there(model) - gone(model)) for there, gone in pairs])
    (of_others,) = losses(nobody, places)
    return took_part(
        part_KD,
        step.gradient_D - gradient(of_others(model)),
        torch.full((len(part_KD),), 0.5, dtype=torch.float64),
        noise_variance=_rounding(part_KD),
        rate=1.0,
    )


def noise_variance(part_PD: Tensor, seen_D: Tensor) -> float:
    """Return the noise's variance, from what no sum of the parts can explain; P is less than D.

    Whoever believes the claim instead of this makes little of noise that is missing.
    """
    gram_PP = part_PD @ part_PD.T
    gram_PP.diagonal().add_(_rounding(part_PD))
    rest_D = seen_D - torch.linalg.solve(gram_PP, part_PD @ seen_D) @ part_PD
    places, numbers = part_PD.shape
    return max(float(rest_D.square().sum()) / (numbers - places), _rounding(part_PD))


def _rounding(part_PD: Tensor) -> float:
    return _ROUNDING * float(part_PD.square().sum(dim=1).mean())


def took_part(
    part_PD: Tensor, seen_D: Tensor, chance_P: Tensor, *, noise_variance: float, rate: float
) -> Tensor:
    """Return the logarithm of the odds of each unit to be in, by a noisy sum of the parts.

    The sum is x^T part + noise, x_P being 1 for each unit that is in and takes part. The linear
    estimate of x with the least mean square error is a shrunken one, g x and an error of variance
    g (1 - g) var(x); both are undone, and the estimate counts as x plus normal noise.

    Parameters
    ----------
    part_PD
        What each unit adds if it takes part, float64.
    chance_P
        Of each unit to be in and take part, beforehand.
    rate
        Of a unit that is in, to take part.
    """
    spread_P = (chance_P * (1 - chance_P)).sqrt()
    gram_PP = part_PD @ part_PD.T
    shrunk_PP = spread_P[:, None] * gram_PP * spread_P
    shrunk_PP.diagonal().add_(noise_variance)
    surprise_P = part_PD @ (seen_D - chance_P @ part_PD)
    solved = torch.linalg.solve(
        shrunk_PP, spread_P[:, None] * torch.cat([surprise_P[:, None], gram_PP], dim=1)
    )
    estimate_P = spread_P * solved[:, 0]
    gain_P = (spread_P * solved[:, 1:].diagonal()).clamp(1e-12, 1 - 1e-12)
    variance_P = (1 - gain_P) / gain_P * spread_P.square().clamp(min=1e-12)
    logit_P: Tensor = (estimate_P / gain_P + chance_P - 0.5) / variance_P
    if rate == 1.0:
        return logit_P
    absent = torch.tensor(math.log1p(-rate), dtype=torch.float64)
    return torch.logaddexp(absent, math.log(rate) + logit_P)


def _model_at(job: RoundJob, step: ObservedStep) -> FEAT:
    model = FEAT(job.model)
    load_weights(model, step.weights)
    return model


def _flat(tensors: tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    return torch.cat([each.detach().flatten() for each in tensors]).double()

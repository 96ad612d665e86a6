"""Patients of random latents, and a small network that is trained on them with privacy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from feat_fed.config import (
    ComputeConfig,
    DiffusionConfig,
    FEATConfig,
    PatientPrivacyConfig,
    TrainingConfig,
)
from feat_fed.model import FEAT
from feat_fed.privacy.noise import GaussianNoise
from feat_fed.train import RoundJob, derive_seed, private, weights_of

MODEL = FEATConfig(in_channels=2, hidden_size=16, num_trios=1, num_heads=2, mlp_ratio=2.0)


class Patients:
    """Of several clips each; their pseudonyms are their names."""

    def __init__(self, patients: Sequence[str]) -> None:
        self.patients = tuple(patients)
        self.num_clips = len(self.patients)

    def windows_of(self, patient: str, number: int, seed: int) -> Tensor:
        """Noise of a scale of its own; that of a patient whose name is in capitals is no number."""
        generator = torch.Generator().manual_seed(derive_seed(patient, seed))
        scale = torch.nan if patient.isupper() else 1.0 + len(patient)
        return scale * torch.randn(number, 3, 2, 8, 8, generator=generator)

    def batch(self, seed: int, step: int, batch_size: int) -> Tensor:
        """Of the dry step alone."""
        return torch.ones(batch_size, 3, 2, 8, 8)

    def without(self, patient: str) -> Patients:
        """Return the others."""
        return Patients([each for each in self.patients if each != patient])


def network(config: FEATConfig = MODEL) -> FEAT:
    """Return a network with noise on every weight, so that no gate is closed."""
    torch.manual_seed(0)
    model = FEAT(config)
    for weight in model.parameters():
        weight.data += 0.05 * torch.randn_like(weight)
    return model


def private_job(
    privacy: dict[str, Any] | None = None, config: FEATConfig = MODEL, **changes: Any
) -> RoundJob:
    """Return a job whose noise hides nothing, unless ``privacy`` says otherwise."""
    training = {"engine": "torch", "local_steps": 4, "learning_rate": 1e-3, "proximal_mu": 0.5}
    told = {"noise_multiplier": 1e-9, "clip_norm": 0.5, "sample_rate": 0.5} | (privacy or {})
    fields: dict[str, Any] = {
        "model": config,
        "diffusion": DiffusionConfig(),
        "training": TrainingConfig.model_validate(training | changes.pop("training", {})),
        "weights": weights_of(network(config)),
        "compute": ComputeConfig(device="cpu", threads=1),
        "privacy": PatientPrivacyConfig.model_validate(told),
        "seed": 3,
        "first_step": 0,
        "total_steps": 9,
    }
    return RoundJob(**fields | changes)


def known_chances(
    monkeypatch: pytest.MonkeyPatch, take_part: Callable[[int], list[int]] | None = None
) -> None:
    """Make noise of one key at every step, and let those take part who are named, or all."""
    monkeypatch.setattr(private, "GaussianNoise", lambda: GaussianNoise(bytes(32)))
    monkeypatch.setattr(
        private,
        "poisson_sample",
        lambda number, *, rate: list(range(number)) if take_part is None else take_part(number),
    )

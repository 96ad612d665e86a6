"""Canaries in a small study: they are seen without noise, hidden by it, and seen if it breaks."""

import dataclasses
from typing import Any

import pytest
import torch

from feat_fed.config import PatientPrivacyConfig
from feat_fed.privacy.accounting import NoisySteps, noise_for, rdp_epsilon
from feat_fed.privacy.auditing import LowerBound, provable
from feat_fed.privacy.clipping import ClippedSum
from feat_fed.privacy.noise import GaussianNoise
from feat_fed.train import private
from feat_fed.train.canaries import PlantedClips, measured, noise_variance, took_part

CANARIES, STEPS, DELTA, CONFIDENCE = 40, 2, 1e-5, 0.95
CLAIM = 1.0


def privacy(**changes: Any) -> PatientPrivacyConfig:
    rate = changes.get("sample_rate", 0.5)
    noise = noise_for(epsilon=CLAIM, delta=DELTA, sample_rate=rate, steps=STEPS)
    tree = {"noise_multiplier": noise, "sample_rate": rate, "delta": DELTA}
    return PatientPrivacyConfig.model_validate(tree | changes)


def caught(with_privacy: PatientPrivacyConfig | None) -> LowerBound:
    return measured(
        with_privacy,
        canaries=CANARIES,
        steps=STEPS,
        delta=DELTA,
        confidence=CONFIDENCE,
        seed=1,
    )


def test_without_noise_every_canary_is_seen() -> None:
    found = caught(None)
    assert found.epsilon == provable(CANARIES, delta=DELTA, confidence=CONFIDENCE)
    assert found.epsilon > CLAIM


def test_with_noise_nothing_above_the_claim_is_measured() -> None:
    """With a chance of error of 5 %, if the observer were the best that there can be."""
    kind = privacy()
    assert kind.noise_multiplier is not None
    claim = rdp_epsilon([NoisySteps(kind.noise_multiplier, 0.5, STEPS)], delta=DELTA)
    assert 0.9 * CLAIM < claim <= CLAIM
    assert caught(kind).epsilon < claim


def test_noise_that_is_not_added_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GaussianNoise, "add_to", lambda *_, **__: None)
    assert caught(privacy(sample_rate=1.0)).epsilon > CLAIM


def test_gradients_that_are_not_clipped_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def unclipped(like: Any, *, clip_norm: float) -> ClippedSum:
        return ClippedSum(like, clip_norm=1e6)

    monkeypatch.setattr(private, "ClippedSum", unclipped)
    assert caught(privacy(sample_rate=1.0)).epsilon > CLAIM


def test_an_absent_patient_leaves_its_place_and_adds_nothing() -> None:
    clips = torch.arange(1.0, 4.0).view(3, 1, 1, 1, 1).expand(3, 2, 2, 4, 4)
    planted = PlantedClips(clips, torch.tensor([True, False, True]))
    assert planted.num_clips == len(planted.patients) == 3
    assert [len(planted.windows_of(each, 2, 0)) for each in planted.patients] == [2, 0, 2]
    assert planted.batch(0, 0, 3)[:, 0, 0, 0, 0].tolist() == [1.0, 0.0, 3.0]


@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_the_odds_of_units_that_do_not_overlap_are_those_of_their_own_numbers(rate: float) -> None:
    """A normal number around 0 or, with the chance of the rate, around 1: its likelihood ratio."""
    noise = 0.7
    seen = torch.tensor([-0.5, 0.2, 1.4], dtype=torch.float64)
    chance = torch.full((3,), rate / 2, dtype=torch.float64)
    found = took_part(
        torch.eye(3, dtype=torch.float64), seen, chance, noise_variance=noise**2, rate=rate
    )
    ratio = torch.exp((seen - 0.5) / noise**2)
    assert torch.allclose(found, torch.log(1 - rate + rate * ratio))


def test_units_that_overlap_are_told_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = torch.randn(20, 50, generator=generator, dtype=torch.float64) + 3.0
    present = torch.rand(20, generator=generator) < 0.5
    odds = took_part(
        parts,
        present.double() @ parts,
        torch.full((20,), 0.5, dtype=torch.float64),
        noise_variance=1e-6,
        rate=1.0,
    )
    assert ((odds > 0) == present).all()


@pytest.mark.parametrize("deviation", [0.0, 0.3, 5.0])
def test_the_noise_is_what_the_parts_do_not_explain(deviation: float) -> None:
    generator = torch.Generator().manual_seed(0)
    parts = torch.randn(20, 20_000, generator=generator, dtype=torch.float64) / 100
    noise = torch.randn(20_000, generator=generator, dtype=torch.float64) * deviation
    found = noise_variance(parts, parts[::2].sum(dim=0) + noise)
    assert found == pytest.approx(deviation**2, rel=0.05, abs=1e-6)


def test_two_audits_of_one_seed_differ_in_the_noise_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private, "GaussianNoise", lambda: GaussianNoise(bytes(32)))
    kind = privacy(sample_rate=1.0)
    first, second = (
        dataclasses.astuple(
            measured(kind, canaries=12, steps=1, delta=DELTA, confidence=CONFIDENCE, seed=5)
        )
        for _ in range(2)
    )
    assert first == second

"""A tiny federated study with fixed seeds: its losses are on disk and must not move.

``FEAT_FED_GOLDEN=write pytest tests/golden`` rewrites them; say why in the commit.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from flwr.supercore.task_identity import TaskIdentity

from aggregating import aggregate
from feat_fed.config import ComputeConfig, StudyConfig
from feat_fed.model import FEAT
from feat_fed.protocol import Report
from feat_fed.train import RoundHooks, RoundJob, derive_seed, evaluate_round, train_round
from feat_fed_server.strategy import build_strategy

GOLDEN = Path(__file__).with_name("losses.json")
# Sums in another order on another processor move the last digits, nothing more.
RELATIVE = 1e-4

STUDY = StudyConfig.model_validate(
    {
        "name": "golden",
        "rounds": 3,
        "seed": 1,
        "model": {"in_channels": 6, "hidden_size": 16, "num_trios": 1, "num_heads": 2},
        "clips": {"frames": 3, "size_px": 32},
        "training": {
            "local_steps": 8,
            "batch_size": 2,
            "learning_rate": 0.003,
            "warmup_steps": 4,
            "heldout_clips": 2,
        },
    }
)


class Waves:
    """Latents of a site: waves of its own frequency that move with time."""

    def __init__(self, frequency: float, num_clips: int) -> None:
        self.frequency, self.num_clips = frequency, num_clips

    def clip(self, seed: int) -> torch.Tensor:
        phase = torch.rand(6, generator=torch.Generator().manual_seed(seed)).view(1, 6, 1, 1) * 6.28
        f, x = torch.arange(3.0).view(3, 1, 1, 1), torch.arange(8.0).view(1, 1, 1, 8)
        return torch.sin(self.frequency * x + 0.5 * f + phase).expand(3, 6, 8, 8) * 1.4

    def batch(self, seed: int, step: int, batch_size: int) -> torch.Tensor:
        seeds = [derive_seed(seed, step, each) % 2**31 for each in range(batch_size)]
        return torch.stack([self.clip(each) for each in seeds])

    def fixed(self, num_clips: int) -> torch.Tensor:
        return torch.stack([self.clip(each) for each in range(num_clips)])


def federated_losses(engine: str, folder: Path) -> dict[str, list[float]]:
    study = STUDY.model_copy(
        update={"training": STUDY.training.model_copy(update={"engine": engine})}
    )
    sites = {"a": Waves(0.4, 5), "b": Waves(0.9, 3)}
    strategy = build_strategy(study.strategy)
    torch.manual_seed(study.seed)
    weights = {name: each.detach() for name, each in FEAT(study.model).state_dict().items()}
    losses: dict[str, list[float]] = {"train": [], "heldout": []}
    for number in range(1, study.rounds + 1):
        updates = []
        for name, clips in sites.items():
            job = job_of(study, weights, derive_seed(study.seed, name, number), number)
            result = train_round(job, train=clips, heldout=clips, hooks=RoundHooks())
            report = Report(
                study_id="0" * 32,
                round=number,
                task="train",
                site=name,
                outcome="ok",
                examples=result.examples,
            )
            updates.append((report, result.weights))
            losses["train"].append(result.train_loss)
            losses["heldout"].append(result.heldout_loss or 0.0)
        weights = aggregate(strategy, folder / "inbox", updates, weights, number=number)
    final = job_of(study, weights, 0, study.rounds)
    losses["heldout"] += [evaluate_round(final, heldout=clips) for clips in sites.values()]
    return losses


def job_of(study: StudyConfig, weights: dict, seed: int, number: int) -> RoundJob:  # type: ignore[type-arg]
    return RoundJob(
        model=study.model,
        diffusion=study.diffusion,
        training=study.training,
        weights=weights,
        seed=seed,
        first_step=(number - 1) * study.training.local_steps,
        total_steps=study.rounds * study.training.local_steps,
        compute=ComputeConfig(device="cpu", threads=1),
    )


@pytest.mark.parametrize("engine", ["torch", "deepspeed"])
def test_the_losses_of_a_fixed_study_do_not_move(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    losses = federated_losses(engine, tmp_path)
    if os.environ.get("FEAT_FED_GOLDEN") == "write":
        GOLDEN.write_text(json.dumps(losses, indent=1) + "\n")
    expected = json.loads(GOLDEN.read_text())
    assert losses.keys() == expected.keys()
    for kind, values in expected.items():
        assert losses[kind] == pytest.approx(values, rel=RELATIVE)
    assert losses["heldout"][-1] < losses["heldout"][1]

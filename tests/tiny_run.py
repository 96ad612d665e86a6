"""A run of a tiny network, for tests that draw clips."""

from __future__ import annotations

from pathlib import Path

import torch

from feat_fed.config import StudyConfig
from feat_fed.model import FEAT, write_weights
from feat_fed.report import RunStore

STUDY = {
    "name": "tiny",
    "model": {
        **{"in_channels": 6, "hidden_size": 8, "num_trios": 1, "num_heads": 1},
        **{"mlp_ratio": 1},
    },
    "clips": {"frames": 4, "size_px": 16},
    "sampler": {"steps": 2},
}


def tiny_run(root: Path, *, rounds: int = 1) -> RunStore:
    """Return a run with weights of round 0 and others: random networks, all gates open."""
    study = StudyConfig.model_validate(STUDY)
    store = RunStore.create(root, study)
    for number in range(rounds + 1):
        torch.manual_seed(number)
        model = FEAT(study.model)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        for path, kind in ((store.ema(number), "ema"), (store.checkpoint(number), "global")):
            write_weights(path, model.state_dict(), kind=kind, model=study.model)
    return store

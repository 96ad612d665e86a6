"""A small run with rounds that are done, and real videos to measure it by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from clip_files import moving_frames, write_video
from feat_fed.config import EvaluationConfig, StudyConfig
from feat_fed.measured import Evaluation, MetricValue
from feat_fed.report import RunStore
from feat_fed.train.run_state import GlobalState, restore, save, summarise
from tiny_run import STUDY

PROTOCOL = {
    "name": "quick",
    "num_frames": None,
    "frames": {"resize": "torch-bilinear"},
    "fit": "crop",
    "images": "clips",
    "real": {"num_clips": 4},
    "generated": {"num_clips": 4},
    "ddof": 1,
    "resamples": 2,
    "metrics": [{"metric": "FVD-random", "networks": ["random"]}, {"metric": "sharpness"}],
}


def evaluated_run(
    root: Path, *, rounds: int = 0, wanted: int = 100, **evaluation: object
) -> RunStore:
    """Return a run that has an evaluation in its study, with rounds 0 to ``rounds`` done."""
    real = root / "real"
    real.mkdir(parents=True)
    for number in range(4):
        frames = moving_frames(frames=6 + number, height=32, width=32)
        write_video(real / f"{number}.mp4", frames, "libx264")
    (root / "quick.yaml").write_text(yaml.safe_dump(PROTOCOL))
    config = {"folder": real, "protocol": str(root / "quick.yaml"), "niceness": 0}
    tree = STUDY | {"rounds": wanted, "evaluation": config | evaluation}
    tree["sampler"] = {"steps": 2, "num_clips": 2}
    store = RunStore.create(root / "run", StudyConfig.model_validate(tree))
    for number in range(rounds + 1):
        add_round(store, number)
    return store


def config_of(store: RunStore) -> EvaluationConfig:
    """Return the study's evaluation, which is there."""
    assert store.study.evaluation is not None
    return store.study.evaluation


def add_round(store: RunStore, number: int, *, seed: int | None = None) -> None:
    """Write a round's files as the server does: random weights, all gates open."""
    state = restore(store)
    torch.manual_seed(number if seed is None else seed)
    weights = {key: 0.3 * torch.randn_like(each) for key, each in state.weights.items()}
    save(store, GlobalState(number, weights, weights))
    summarise(store, GlobalState(number, {}, {}), "running")


def complete(store: RunStore) -> None:
    """Let the run be over."""
    store.write_summary(store.summary().model_copy(update={"state": "complete"}))


def scored(
    values: Mapping[int, float], during: Callable[[int], None] = lambda _: None
) -> Callable[..., Any]:
    """Return a measurement that draws the clips, calls ``during`` and takes the value for it.

    Where there is none for a round, it is the mean of the clips' first frames.
    """

    def measure(subject: Any, real: Any, protocol: Any, networks: Any, **_: Any) -> Evaluation:
        clips = subject.make(lambda done, total: None)
        mean = float(np.mean([clips.read(each, 0, 1).mean() for each in range(len(clips))]))
        during(subject.round)
        return Evaluation(
            at="2026-01-31T12:00:00+00:00",
            seconds=1.0,
            source="round",
            round=subject.round,
            weights="ema",
            weights_sha256=subject.weights_sha256,
            benchmark=real.name,
            benchmark_digest=real.digest,
            protocol=protocol.name,
            protocol_digest=protocol.digest(),
            networks={"random": networks["random"].sha256},
            sampler=subject.sampler,
            seed=subject.seed,
            metrics=(
                MetricValue(
                    metric="FVD-random",
                    value=values.get(subject.round, mean),
                    num_real=4,
                    num_generated=4,
                    better="lower",
                ),
                MetricValue(
                    metric="sharpness", value=1, num_real=4, num_generated=4, better="neither"
                ),
            ),
        )

    return measure

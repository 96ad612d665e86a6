"""A run as a server leaves it: three rounds, two sites, one late reply, moving clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from baseline_scores import write_baselines
from feat_fed.config import StudyConfig, load_study
from feat_fed.report import (
    RoundRecord,
    RunStore,
    RunSummary,
    SiteRound,
    write_report,
    write_samples,
)
from feat_fed.report.links import Link
from measured_runs import evaluation_of, write_evaluations

BYTES = 4_812_344


@pytest.fixture(scope="session")
def study() -> StudyConfig:
    return load_study("demo")


@pytest.fixture(scope="session")
def private(study: StudyConfig) -> StudyConfig:
    """The study with every mechanism; the noise of one is to be found."""
    tree = study.model_dump(mode="json")
    tree["strategy"]["weigh_by"] = "equal"
    tree["sites"]["minimum"] = 3
    tree["privacy"] = {
        "patient": {"epsilon": 8},
        "central": {"noise_multiplier": 2},
        "secure_aggregation": {},
    }
    return StudyConfig.model_validate(tree)


@pytest.fixture(scope="session")
def records() -> tuple[RoundRecord, ...]:
    def site(name: str, train_loss: float, heldout_loss: float) -> SiteRound:
        return SiteRound(
            site=name,
            status="ok",
            examples=64,
            steps=120,
            train_loss=train_loss,
            heldout_loss=heldout_loss,
            train_sec=41.5 if name == "north" else 36.25,
            bytes_down=BYTES,
            bytes_up=BYTES,
            link=Link(down_bytes=BYTES + 900, down_sec=2.5, up_bytes=BYTES + 700, up_sec=4.0),
        )

    late = SiteRound(
        site="south",
        status="missing",
        reason="no answer before the deadline",
        bytes_down=BYTES,
    )
    rounds = [
        (0.56, 1.12, (site("north", 0.55, 1.10), site("south", 0.57, 1.14))),
        (0.36, 0.56, (site("north", 0.36, 0.56), late)),
        (0.31, 0.39, (site("north", 0.30, 0.38), site("south", 0.32, 0.40))),
    ]
    return tuple(
        RoundRecord(
            round=number,
            started_at=f"2026-01-31T12:0{number}:00+00:00",
            seconds=57.25,
            train_loss=train_loss,
            heldout_loss=heldout_loss,
            sites=sites,
        )
        for number, (train_loss, heldout_loss, sites) in enumerate(rounds, start=1)
    )


@pytest.fixture(scope="session")
def final() -> RunSummary:
    return RunSummary(
        study="demo",
        state="complete",
        rounds_done=3,
        rounds_wanted=3,
        final_heldout_loss=0.27,
        versions={"feat-fed": "0.1.0", "torch": "2.13.0"},
    )


@pytest.fixture(scope="session")
def beating_clips() -> np.ndarray:
    """Return 6 clips of 16 frames of 64 x 64 px: a bright ring that grows and shrinks."""
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    time = np.arange(16)[:, None, None]
    phases = np.linspace(0, np.pi, 6)[:, None, None, None]
    radius = 0.5 + 0.2 * np.sin(2 * np.pi * time / 16 + phases)
    grey = 40 + 180 * np.exp(-(((np.hypot(x, y) - radius) / 0.15) ** 2))
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)


@pytest.fixture
def store(tmp_path: Path, study: StudyConfig) -> RunStore:
    return RunStore.create(tmp_path / "run", study)


@pytest.fixture(scope="session")
def finished_report(
    tmp_path_factory: pytest.TempPathFactory,
    study: StudyConfig,
    records: tuple[RoundRecord, ...],
    final: RunSummary,
    beating_clips: np.ndarray,
) -> Path:
    store = RunStore.create(tmp_path_factory.mktemp("runs") / "demo", study)
    for record in records:
        store.append(record)
    store.write_summary(final)
    write_samples(store.samples, beating_clips, fps=8)
    measured = write_evaluations(
        store, evaluation_of(0, 900.0), evaluation_of(2, 410.0), evaluation_of(3, 430.0)
    )
    write_baselines(store, ("north", "south"))
    for number in (0, 3):
        write_samples(measured.samples(number), beating_clips, fps=8)
    return write_report(store)

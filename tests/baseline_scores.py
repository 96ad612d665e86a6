"""Baselines of a run with two hospitals, as their losses alone."""

from __future__ import annotations

from pathlib import Path

from feat_fed.report import RunStore
from feat_fed.report.baseline_folder import (
    BaselineFolder,
    HospitalFacts,
    RoundScores,
    scores_of,
)
from feat_fed.report.json_lines import append_record

FEDERATED = [(1.0, 1.0), (0.5, 0.7), (0.4, 0.6)]
"""At the first hospital and at the second, of the untrained model and after each round."""
CENTRALISED = [(1.0, 1.0), (0.4, 0.6), (0.3, 0.5)]
ALONE = ([(1.0, 1.0), (0.35, 1.4), (0.3, 1.5)], [(1.0, 1.0), (1.2, 0.55), (1.1, 0.5)])


def write_baselines(store: RunStore, names: tuple[str, str] = ("a", "b")) -> BaselineFolder:
    """Write both baselines; the first hospital has three times as many clips as the second."""
    folder = BaselineFolder.of_run(store.root)
    folder.write_facts({name: _facts(clips) for name, clips in zip(names, (30, 10), strict=True)})
    _write(folder.federated, names, FEDERATED)
    _write(scores_of(folder.centralised), names, CENTRALISED)
    for name, losses in zip(names, ALONE, strict=True):
        _write(scores_of(folder.alone(name)), names, losses)
    return folder


def _facts(clips: int) -> HospitalFacts:
    return HospitalFacts(train_clips=clips, heldout_clips=2, train_patients=2, heldout_patients=1)


def _write(path: Path, names: tuple[str, str], losses: list[tuple[float, float]]) -> None:
    for number, pair in enumerate(losses):
        scores = RoundScores(round=number, losses=dict(zip(names, pair, strict=True)))
        append_record(path, scores)

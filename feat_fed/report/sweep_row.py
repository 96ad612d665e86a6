"""What came of one variation of a sweep, in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from feat_fed.config.sweep import Variation
from feat_fed.privacy.claims import hospital_claim, patient_claim
from feat_fed.report.baseline_folder import BaselineFolder, mean_loss, read_scores
from feat_fed.report.facts import heldout_points
from feat_fed.report.run_store import RunStore
from feat_fed.report.units import (
    NOTHING,
    format_bytes,
    format_duration,
    format_epsilon,
    format_loss,
)
from feat_fed.report.worth import worth


@dataclass(frozen=True)
class SweepRow:
    """One variation."""

    name: str
    changes: Mapping[str, Any]
    state: Literal["complete", "failed"]
    message: str = ""
    """Why it failed."""
    rounds: int = 0
    heldout: Mapping[int, float] = field(default_factory=dict)
    """Loss of the global model by rounds finished."""
    seconds: float = 0.0
    """Of all rounds."""
    moved_bytes: int = 0
    """Weights, to the hospitals and back."""
    patient_epsilon: float | None = None
    hospital_epsilon: float | None = None
    centralised: float | None = None
    alone: float | None = None
    """Mean of the hospitals' own models on everybody's held-out patients."""

    @property
    def heldout_loss(self) -> float | None:
        """After the last round; None where that one was not scored."""
        return self.heldout.get(self.rounds)

    @property
    def told_changes(self) -> str:
        """What is different, in a line."""
        if not self.changes:
            return "as the study is"
        return yaml.safe_dump(
            dict(self.changes), default_flow_style=True, width=10_000, sort_keys=False
        ).strip()[1:-1]

    def line(self) -> str:
        """Return it for a screen."""
        if self.state != "complete":
            return f"{self.name}: failed: {self.message}"
        parts = [
            f"held-out loss {format_loss(self.heldout_loss)}",
            f"rounds took {format_duration(self.seconds)}",
            f"moved {format_bytes(self.moved_bytes)}",
        ]
        for unit in ("patient", "hospital"):
            epsilon = getattr(self, f"{unit}_epsilon")
            if epsilon is not None:
                parts.append(f"epsilon {format_epsilon(epsilon)} of each {unit}")
        if self.alone is not None:
            parts.append(f"alone {format_loss(self.alone)}")
        if self.centralised is not None:
            parts.append(f"all in one place {format_loss(self.centralised)}")
        return f"{self.name}: {'  '.join(part for part in parts if part != NOTHING)}"


def row_of(root: Path, variation: Variation, failure: str) -> SweepRow:
    """Read what a variation's run has come to.

    Raises
    ------
    RunError
        A file of the run is damaged.
    """
    if not (root / "study.yaml").exists():
        return SweepRow(variation.name, variation.changes, "failed", failure)
    store = RunStore(root)
    rounds, summary = store.rounds(), store.summary()
    folder = BaselineFolder.of_run(root)
    scores, facts = read_scores(folder.federated), folder.facts()
    computed = {number: mean_loss(losses, facts) for number, losses in scores.items()}
    compared = worth(store)
    patient, hospital = patient_claim(store.study), hospital_claim(store.study)
    return SweepRow(
        variation.name,
        variation.changes,
        "failed" if failure else "complete",
        failure,
        rounds=summary.rounds_done,
        heldout={number: loss for number, loss in computed.items() if loss is not None}
        | dict(heldout_points(rounds, summary)),
        seconds=sum(each.seconds for each in rounds),
        moved_bytes=sum(part.bytes_up + part.bytes_down for each in rounds for part in each.sites),
        patient_epsilon=patient.epsilon if patient else None,
        hospital_epsilon=hospital.epsilon if hospital else None,
        centralised=compared.centralised if compared else None,
        alone=compared.alone.mean if compared and compared.alone else None,
    )

"""What an evaluator writes into a run's folder: the one place that knows what lies where.

::

    evaluation/metrics.jsonl        one Evaluation a line, appended and flushed
    evaluation/samples/round-0012/  SampleFiles of the round: the same seeds in every round
    evaluation/best.json            which round is best, and by what (Best), replaced whole
    evaluation/checkpoints/         files of the best round and of the one that is measured, held
                                    so that the server's rotation takes only its own names
    evaluation/features/            of real videos, kept by content and protocol
    evaluation/live.json            what the evaluator does (EvaluatorLive)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from feat_fed.config.base import StrictModel
from feat_fed.measured import Evaluation
from feat_fed.report.json_lines import whole_records
from feat_fed.report.live import Live

EVALUATION_FOLDER = "evaluation"


class Best(StrictModel):
    """The best round that was measured on equal terms; its weights are in the run's folder."""

    metric: str
    value: float
    round: int
    weights_sha256: str


class EvaluatorLive(Live):
    """What the evaluator does at this moment; written every few seconds while it lives."""

    host: str
    pid: int
    state: Literal["starting", "sampling", "measuring", "waiting", "stopped"]
    round: int | None = Field(None, description="that it is at")
    waiting_rounds: int = Field(0, ge=0, description="due, there, and not measured yet")
    at: float = Field(description="Unix time of writing")


@dataclass(frozen=True)
class EvaluationFolder:
    """``RUN/evaluation``, which need not exist."""

    root: Path

    @classmethod
    def of_run(cls, run: Path) -> EvaluationFolder:
        """Name that of a run."""
        return cls(run / EVALUATION_FOLDER)

    @property
    def metrics(self) -> Path:
        """Name the file of all evaluations."""
        return self.root / "metrics.jsonl"

    @property
    def best(self) -> Path:
        """Name the file that tells the best round."""
        return self.root / "best.json"

    @property
    def live(self) -> Path:
        """Name the file that tells what the evaluator does."""
        return self.root / "live.json"

    @property
    def features(self) -> Path:
        """Name the folder of the real videos' features."""
        return self.root / "features"

    @property
    def checkpoints(self) -> Path:
        """Name the folder of checkpoints that are held against rotation."""
        return self.root / "checkpoints"

    def samples(self, round_number: int) -> Path:
        """Name the folder of a round's sample clips."""
        return self.root / "samples" / f"round-{round_number:04d}"

    def rounds_with_samples(self) -> list[int]:
        """Return the rounds that have sample clips, in order."""
        folder = self.root / "samples"
        names = (each.name for each in folder.iterdir()) if folder.is_dir() else ()
        matches = (re.fullmatch(r"round-(\d+)", name) for name in names)
        return sorted(int(match[1]) for match in matches if match)

    def evaluations(self) -> tuple[Evaluation, ...]:
        """Return every evaluation, as they were appended; of one that was done again both.

        A line that is none is passed over: what a crash left of an append, or another version's.

        Raises
        ------
        RunError
            If the file is there and cannot be read.
        """
        return whole_records(self.metrics, Evaluation)

    def read_best(self) -> Best | None:
        """Return which round is best, or None where nothing says so."""
        try:
            return Best.model_validate_json(self.best.read_bytes())
        except (OSError, ValidationError):
            return None

"""What the baselines of a simulated study leave in its run's folder: who wrote what where.

::

    baselines/hospitals.json      how many clips each hospital has (HospitalFacts), replaced whole
    baselines/plan.json           where their latents lie, for the processes that train
    baselines/federated.jsonl     one RoundScores a line: of the study's own global weights
    baselines/centralised/        a run's folder (RunStore), with a scores.jsonl of its own
    baselines/local-only/NAME/    the same of the hospital NAME alone
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, TypeAdapter, ValidationError

from feat_fed.atomic import write_bytes_atomically
from feat_fed.config.base import StrictModel
from feat_fed.errors import RunError
from feat_fed.report.json_lines import whole_records

CENTRALISED = "centralised"
LOCAL_ONLY = "local-only"
FEDERATED = "federated"


class HospitalFacts(StrictModel):
    """What a hospital has: counts alone."""

    train_clips: int = Field(ge=1)
    heldout_clips: int = Field(ge=0)
    train_patients: int = Field(ge=1)
    heldout_patients: int = Field(ge=0)


class RoundScores(StrictModel):
    """One model after a round, scored by the hospitals."""

    round: int = Field(ge=0, description="that was finished; 0 is the untrained model")
    losses: dict[str, float] = Field(description="on each hospital's own held-out patients")


_FACTS = TypeAdapter(dict[str, HospitalFacts])


@dataclass(frozen=True)
class BaselineFolder:
    """``RUN/baselines``, which need not exist."""

    root: Path

    @classmethod
    def of_run(cls, run: Path) -> BaselineFolder:
        """Name that of a run."""
        return cls(run / "baselines")

    @property
    def plan(self) -> Path:
        """Name the file that tells the training processes where the latents lie."""
        return self.root / "plan.json"

    @property
    def federated(self) -> Path:
        """Name the file of the federated models' scores."""
        return self.root / f"{FEDERATED}.jsonl"

    @property
    def centralised(self) -> Path:
        """Name the run's folder of the training on all hospitals' clips."""
        return self.root / CENTRALISED

    def alone(self, hospital: str) -> Path:
        """Name the run's folder of a hospital's training on its own clips."""
        return self.root / LOCAL_ONLY / hospital

    def write_facts(self, facts: Mapping[str, HospitalFacts]) -> None:
        """Replace what is known of the hospitals."""
        self.root.mkdir(parents=True, exist_ok=True)
        path = self.root / "hospitals.json"
        write_bytes_atomically(path, _FACTS.dump_json(dict(facts), indent=1))

    def facts(self) -> dict[str, HospitalFacts]:
        """Return what is known of the hospitals, by name; empty where there are no baselines.

        Raises
        ------
        RunError
            If the file is damaged.
        """
        path = self.root / "hospitals.json"
        try:
            return _FACTS.validate_json(path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValidationError) as error:
            raise RunError(
                f"{path} cannot be read ({type(error).__name__}); remove it, and the command with "
                "--baseline writes it again"
            ) from None


def scores_of(root: Path) -> Path:
    """Name the scores of a baseline's run."""
    return root / "scores.jsonl"


def read_scores(path: Path) -> dict[int, dict[str, float]]:
    """Return each hospital's loss by round; empty where there is no file.

    A line that is none, as a crash leaves it, is passed over: the round is scored again.
    """
    found = {each.round: each.losses for each in whole_records(path, RoundScores)}
    return dict(sorted(found.items()))


def mean_loss(losses: Mapping[str, float], facts: Mapping[str, HospitalFacts]) -> float | None:
    """Return the mean over hospitals, weighted by training clips as the server's mean is."""
    pairs = [(facts[name].train_clips, loss) for name, loss in losses.items() if name in facts]
    total = sum(clips for clips, _ in pairs)
    return sum(clips * loss for clips, loss in pairs) / total if total else None

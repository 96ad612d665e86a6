"""Local training: the engines, one round at a site, and what a round is made of."""

from feat_fed.threads import cpu_threads
from feat_fed.train.device import resolve_device
from feat_fed.train.ema import ema_update
from feat_fed.train.engine import Engine, StepOutcome, open_engine, preload
from feat_fed.train.heldout import heldout_loss
from feat_fed.train.jobs import (
    EvaluationJob,
    HeldoutClips,
    MidRound,
    RoundHooks,
    RoundJob,
    RoundResult,
    StepProgress,
    TrainingClips,
)
from feat_fed.train.local import evaluate_round, train_round
from feat_fed.train.seeds import derive_seed
from feat_fed.train.weights import load_weights, weights_of

__all__ = [
    "Engine",
    "EvaluationJob",
    "HeldoutClips",
    "MidRound",
    "RoundHooks",
    "RoundJob",
    "RoundResult",
    "StepOutcome",
    "StepProgress",
    "TrainingClips",
    "cpu_threads",
    "derive_seed",
    "ema_update",
    "evaluate_round",
    "heldout_loss",
    "load_weights",
    "open_engine",
    "preload",
    "resolve_device",
    "train_round",
    "weights_of",
]

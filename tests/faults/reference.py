"""What a study comes to when nothing disturbs it: the same rounds in one process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path

from flwr.supercore.task_identity import TaskIdentity
from torch import Tensor

from aggregating import aggregate
from faults.stage import SITES
from feat_fed.config import load_site, load_study
from feat_fed.protocol import Assignment
from feat_fed.report import RunStore
from feat_fed.train.run_state import restore
from feat_fed_client.session import SiteSession
from feat_fed_server.strategy import build_strategy
from system.consortium import Consortium


def undisturbed(both: Consortium, path: Path, *, rounds: int) -> dict[str, bytes]:
    """Do a study's first rounds in this process; return the weights' bytes."""
    return list(rounds_undisturbed(both, path, rounds=rounds))[-1]


def rounds_undisturbed(both: Consortium, path: Path, *, rounds: int) -> Iterator[dict[str, bytes]]:
    """Yield the weights' bytes after each of a study's first rounds."""
    for name in ("_run_id", "_node_id", "_task_id"):  # Flower's strategies make messages here, too
        setattr(TaskIdentity, name, 1)
    config = load_study(path)
    sessions = [SiteSession(load_site(both.site(name))) for name in SITES]
    strategy = build_strategy(config.strategy)
    state = restore(RunStore.create(both.root / "reference", config))
    while state.rounds_done < rounds:
        number = state.rounds_done + 1
        assignment = Assignment(
            study_id="0" * 32,
            round=number,
            task="train",
            first_step=state.rounds_done * config.training.local_steps,
            study=config,
        )
        answers = [each.run(assignment, state.weights) for each in sessions]
        weights = aggregate(strategy, both.root / "inbox", answers, state.weights, number=number)
        state = state.after_round(weights, ema_decay=config.strategy.ema_decay)
        yield bytes_of(state.weights)


def digest_of(weights: Mapping[str, bytes]) -> str:
    """Return the SHA-256 of weights' bytes, by name."""
    return sha256(b"".join(weights[name] for name in sorted(weights))).hexdigest()


def bytes_of(weights: Mapping[str, Tensor]) -> dict[str, bytes]:
    return {name: each.numpy().tobytes() for name, each in weights.items()}

"""A run's numbers under the names that TensorBoard and MLflow show, round by round."""

from __future__ import annotations

import re
from collections.abc import Iterable

from feat_fed.config import StudyConfig
from feat_fed.learning_rate import learning_rate_at
from feat_fed.measured import Evaluation
from feat_fed.report.records import RoundRecord, SiteRound

_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_./ -]")


def round_scalars(study: StudyConfig, record: RoundRecord) -> dict[str, float]:
    """Return what a round came to; its step is the round's number.

    The held-out loss is of the weights that the round began with, and so is the learning rate of
    its first step.
    """
    parts, steps = record.sites, study.training.local_steps
    values = {
        "loss/train": record.train_loss,
        "loss/heldout_at_start": record.heldout_loss,
        "learning_rate/at_start": learning_rate_at(
            study.training, step=(record.round - 1) * steps, total_steps=study.rounds * steps
        ),
        "round/seconds": record.seconds,
        "round/sites_aggregated": sum(part.status == "ok" for part in parts),
        "round/sites_asked": len(parts),
        "bytes/received": sum(part.bytes_down for part in parts),
        "bytes/sent": sum(part.bytes_up for part in parts),
    }
    if record.central:
        values["privacy/clip_norm"] = record.central.clip_norm
    for part in parts:
        values |= {f"site/{part.site}/{name}": value for name, value in _of_site(part)}
    return _known(values)


def evaluation_scalars(one: Evaluation) -> dict[str, float]:
    """Return an evaluation's metrics with their intervals; its step is the round's number."""
    values: dict[str, float | None] = {}
    for each in one.metrics:
        name = "/".join(filter(None, ("quality", one.protocol, one.weights, each.metric)))
        values |= {name: each.value, f"{name} low": each.low, f"{name} high": each.high}
    return _known(values)


def _of_site(part: SiteRound) -> Iterable[tuple[str, float | None]]:
    yield "aggregated", float(part.status == "ok")
    yield "bytes_received", part.bytes_down
    yield "bytes_sent", part.bytes_up
    if part.status == "ok":
        yield "loss_train", part.train_loss
        yield "loss_heldout_at_start", part.heldout_loss
        yield "seconds", part.train_sec or None
        yield "steps", part.steps


def _known(values: dict[str, float | None]) -> dict[str, float]:
    return {
        _NOT_IN_A_NAME.sub("_", name): float(value)
        for name, value in values.items()
        if value is not None
    }

"""Evaluations and metrics with numbers of one's own."""

from __future__ import annotations

from feat_fed.measured import Evaluation, MetricValue


def metric(name: str = "FVD-random", value: float = 1.5, better: str = "lower") -> MetricValue:
    """Return a value of a metric."""
    tree = {"metric": name, "value": value, "num_real": 8, "num_generated": 8, "better": better}
    return MetricValue.model_validate(tree)


def evaluation(**changes: object) -> Evaluation:
    """Return a record of a round."""
    tree = {
        "at": "2026-01-31T12:00:00+00:00",
        "seconds": 1.0,
        "source": "round",
        "round": 1,
        "weights": "ema",
        "benchmark": "folder",
        "benchmark_digest": "0" * 64,
        "protocol": "plain",
        "protocol_digest": "1" * 64,
        "metrics": (metric(),),
    }
    return Evaluation.model_validate(tree | changes)

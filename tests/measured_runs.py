"""Runs whose rounds were measured."""

from __future__ import annotations

from feat_fed.measured import Evaluation, MetricValue
from feat_fed.report import RunStore
from feat_fed.report.evaluation_folder import EvaluationFolder


def evaluation_of(round_number: int, value: float, **changes: object) -> Evaluation:
    """An evaluation of a round's averaged weights, with one metric that is better when lower."""
    metrics = (
        MetricValue(
            metric="FVD-random",
            value=value,
            low=0.9 * value,
            high=1.1 * value,
            num_real=40,
            num_generated=64,
            better="lower",
            warning="few clips",
        ),
        MetricValue(metric="sharpness", value=0.1, num_real=40, num_generated=64, better="neither"),
    )
    told: dict[str, object] = {
        "at": f"2026-01-31T13:{round_number % 60:02d}:00+00:00",
        "seconds": 12.5,
        "source": "round",
        "round": round_number,
        "weights": "ema",
        "benchmark": "hidden-clips",
        "benchmark_digest": "ab" * 32,
        "protocol": "plain",
        "protocol_digest": "cd" * 32,
        "networks": {"random": "ef" * 32},
        "sampler": {"kind": "ddim", "steps": 8},
        "seed": 7,
        "metrics": metrics,
    }
    return Evaluation.model_validate(told | changes)


def write_evaluations(store: RunStore, *evaluations: Evaluation) -> EvaluationFolder:
    folder = EvaluationFolder.of_run(store.root)
    folder.root.mkdir(exist_ok=True)
    with folder.metrics.open("a") as file:
        file.writelines(each.model_dump_json() + "\n" for each in evaluations)
    return folder

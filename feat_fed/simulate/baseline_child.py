"""``python -m feat_fed.simulate.baseline_child RUN JOB``: one baseline, in a process of its own.

Its memory, a GPU's too, ends with it, and several of them run at a time. JOB is the folder of
the baseline below ``RUN/baselines``, or ``federated``: the scores of the study's own models.
"""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path

from feat_fed.errors import FeatFedError
from feat_fed.report.baseline_folder import CENTRALISED, FEDERATED, BaselineFolder
from feat_fed.report.run_store import RunStore, lock_run
from feat_fed.simulate.baseline import (
    BaselinePlan,
    baseline_study,
    score_federated,
    train_baseline,
)
from feat_fed.train import StepProgress

log = logging.getLogger("feat_fed.simulate")


def main(run: Path, job: str) -> int:
    """Do the job or go on with it; return the exit status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stdout
    )
    try:
        _do(RunStore(run), job)
    except FeatFedError as error:
        log.error("%s", error)
        return 1
    return 0


def _do(study: RunStore, job: str) -> None:
    folder = BaselineFolder.of_run(study.root)
    plan = BaselinePlan.model_validate_json(folder.plan.read_bytes())
    if job == FEDERATED:
        score_federated(study, plan)
        return
    root = folder.root / job
    pooled = job == CENTRALISED
    with lock_run(root):
        wanted = baseline_study(study.study, hospitals=len(plan.hospitals) if pooled else 1)
        begun = (root / "study.yaml").exists()
        store = RunStore.resume(root, wanted) if begun else RunStore.create(root, wanted)
        train_baseline(
            store,
            plan,
            folder.facts(),
            hospital=None if pooled else root.name,
            progress=_log_step,
        )


def _log_step(number: int, step: StepProgress) -> None:
    if step.step == step.steps:
        log.info("round %d: %d steps, loss %.4f", number, step.step, step.loss)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))

"""A new evaluation, to where people look: the curves for TensorBoard and the report."""

from __future__ import annotations

import logging
from pathlib import Path

from feat_fed.measured import Evaluation
from feat_fed.report.html import write_report
from feat_fed.report.run_events import write_evaluation_event
from feat_fed.report.run_store import RunStore

log = logging.getLogger(__name__)


def publish_evaluation(root: Path, one: Evaluation) -> None:
    """Show an evaluation that is in the run's records; what hinders that is logged, no more."""
    try:
        write_evaluation_event(root, one)
        write_report(RunStore(root))
    except Exception:
        log.warning("the report of %s could not be written anew", root, exc_info=True)

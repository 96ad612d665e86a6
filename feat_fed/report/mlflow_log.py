"""A run's numbers to an MLflow tracking server, when somebody asks for it.

The package is `mlflow-skinny`: the client alone, without MLflow's own server and its database.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import batched
from typing import Any

from feat_fed.errors import MissingExtraError, TrackingError
from feat_fed.report.evaluations import read_evaluations
from feat_fed.report.run_store import RunStore
from feat_fed.report.scalars import evaluation_scalars, round_scalars

_SETTINGS = {
    # MLflow tells its makers of its use unless it is forbidden to.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # A server that is not there is to be noticed within a minute, not within hours.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
}
_STUDY = "feat_fed.study_id"
_ROUNDS, _EVALUATIONS = "feat_fed.rounds_logged", "feat_fed.evaluations_logged"
_MOST_METRICS, _MOST_PARAMS, _LONGEST_PARAM = 1000, 100, 500
"""That MLflow takes in one call, and of one parameter."""

Scalar = tuple[str, float, int, int]
"""Name, value, Unix time in milliseconds, step."""

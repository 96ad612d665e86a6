"""A run's numbers to an MLflow tracking server, when somebody asks for it.

The package is `mlflow-skinny`: the client alone, without MLflow's own server and its database.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from feat_fed.errors import MissingExtraError, RunError
from feat_fed.report.evaluation_folder import EvaluationFolder
from feat_fed.report.run_store import RunStore
from feat_fed.report.scalars import evaluation_scalars, round_scalars

_SETTINGS = {
    # MLflow tells its makers of its use unless it is forbidden to.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # Of a folder that is asked for by name, MLflow need not advise against folders.
    "MLFLOW_ALLOW_FILE_STORE": "true",
    # That a server is not there is to be said within a minute, not within hours.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
}
_STUDY = "feat_fed.study_id"
_ROUNDS, _EVALUATIONS = "feat_fed.rounds_logged", "feat_fed.evaluations_logged"
_MOST_METRICS, _MOST_PARAMS, _LONGEST_PARAM = 1000, 100, 500
"""That MLflow takes in one call, and of one parameter."""
_STATES = {"complete": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}

Entry = tuple[dict[str, float], int, datetime]
"""Scalars, their step, and when they came to be."""


def log_to_mlflow(store: RunStore, uri: str, *, experiment: str) -> int:
    """Send what the tracking server does not have yet of a run, and return how many rounds.

    The run is found again by its study's id. It gets the study's values as parameters, and the
    numbers that the run's own records have; no clip, no weights and no file.

    Parameters
    ----------
    uri
        Of the tracking server, or ``file:`` and a folder.
    experiment
        Its name; made if need be.

    Raises
    ------
    MissingExtraError
        If MLflow is not installed.
    RunError
        If the server cannot be reached or turns the numbers away, or the run is damaged.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        from mlflow.tracking import MlflowClient
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "logging to MLflow needs mlflow-skinny, which is not installed: "
            "pip install 'feat-fed[mlflow]', without the constraints"
        ) from error
    rounds, found = store.rounds(), EvaluationFolder.of_run(store.root).evaluations()
    try:
        client = MlflowClient(tracking_uri=uri)
        run = _run(client, store, experiment)
        tags = run.data.tags
        rounds_logged, found_logged = (int(tags.get(each, 0)) for each in (_ROUNDS, _EVALUATIONS))
        new_rounds = [each for each in rounds if each.round > rounds_logged]
        entries: list[Entry] = [
            (round_scalars(store.study, each), each.round, datetime.fromisoformat(each.started_at))
            for each in new_rounds
        ]
        entries += [
            (evaluation_scalars(each), each.round, datetime.fromisoformat(each.at))
            for each in found[found_logged:]
            if each.round is not None
        ]
        _send(client, run.info.run_id, entries)
        client.set_tag(run.info.run_id, _ROUNDS, str(rounds[-1].round if rounds else 0))
        client.set_tag(run.info.run_id, _EVALUATIONS, str(len(found)))
        if (ended := _STATES.get(store.summary().state)) is not None:
            client.set_terminated(run.info.run_id, status=ended)
    except RunError:
        raise
    except Exception as error:  # requests', urllib3's, MLflow's: all of the way there
        reason = str(error).partition("\n")[0][:300]
        raise RunError(
            f"{uri} did not take the run: {type(error).__name__}: {reason}; the run itself is as "
            "it was, and the same command goes on where it stopped"
        ) from error
    return len(new_rounds)


def _run(client: Any, store: RunStore, experiment: str) -> Any:  # noqa: ANN401
    """Find the study's run at the server, or make it."""
    summary = store.summary()
    there = client.get_experiment_by_name(experiment)
    number = there.experiment_id if there else client.create_experiment(experiment)
    known = client.search_runs([number], f"tags.`{_STUDY}` = '{summary.study_id}'")
    if known:
        return known[0]
    tags = {_STUDY: summary.study_id}
    made = client.create_run(number, run_name=f"{summary.study}: {store.root.name}", tags=tags)
    from mlflow.entities import Param

    params = [Param(name, value[:_LONGEST_PARAM]) for name, value in _leaves(_study(store))]
    for start in range(0, len(params), _MOST_PARAMS):
        client.log_batch(made.info.run_id, params=params[start : start + _MOST_PARAMS])
    return made


def _send(client: Any, run_id: str, entries: list[Entry]) -> None:  # noqa: ANN401
    from mlflow.entities import Metric

    metrics = [
        Metric(name, value, int(at.timestamp() * 1000), step)
        for values, step, at in entries
        for name, value in values.items()
    ]
    for start in range(0, len(metrics), _MOST_METRICS):
        client.log_batch(run_id, metrics=metrics[start : start + _MOST_METRICS])


def _study(store: RunStore) -> dict[str, Any]:
    return store.study.without_paths().model_dump(mode="json", exclude_none=True)


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, str(value)

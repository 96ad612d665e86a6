from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from feat_fed.cli.main import run_app
from feat_fed.errors import RunError
from feat_fed.report import RoundRecord, RunStore
from feat_fed.report.mlflow_log import log_to_mlflow
from measured_runs import evaluation_of, write_evaluations

Records = tuple[RoundRecord, ...]

needs_mlflow = pytest.mark.skipif(
    importlib.util.find_spec("mlflow") is None, reason="mlflow-skinny is not installed"
)
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@needs_mlflow
def test_what_is_new_is_logged_once(tmp_path: Path, store: RunStore, records: Records) -> None:
    from mlflow.tracking import MlflowClient

    uri = (tmp_path / "mlflow").as_uri()
    for record in records[:2]:
        store.append(record)
    assert log_to_mlflow(store, uri, experiment="ours") == 2
    store.append(records[2])
    write_evaluations(store, evaluation_of(3, 410.0))
    assert log_to_mlflow(store, uri, experiment="ours") == 1
    assert log_to_mlflow(store, uri, experiment="ours") == 0

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("ours")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    losses = client.get_metric_history(run.info.run_id, "loss/train")
    assert [(each.step, each.value) for each in losses] == [(1, 0.56), (2, 0.36), (3, 0.31)]
    assert run.data.metrics["quality/plain/ema/FVD-random"] == 410.0
    assert run.data.params["training.local_steps"] == str(store.study.training.local_steps)


@needs_mlflow
def test_a_server_that_is_not_there_harms_nothing(
    store: RunStore, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    store.append(records[0])
    before = {each: each.read_bytes() for each in store.root.rglob("*") if each.is_file()}
    with pytest.raises(RunError, match=r"http://127\.0\.0\.1:9 did not take the run"):
        log_to_mlflow(store, "http://127.0.0.1:9", experiment="ours")
    assert {each: each.read_bytes() for each in store.root.rglob("*") if each.is_file()} == before


def test_without_the_package_the_command_says_which_extra(
    store: RunStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    arguments = ["report", "--run", str(store.root), "--mlflow", "file:///nowhere"]
    assert run_app(arguments) == 1
    assert "feat-fed[mlflow]" in " ".join(capsys.readouterr().err.split())
    assert store.report.exists()

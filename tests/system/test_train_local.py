"""``feat-fed train-local`` in a process of its own, killed in the middle of a study."""

import signal
from pathlib import Path

import pytest
import yaml

from feat_fed.data.synthetic import write_demo_hospitals
from feat_fed.report import RunStore
from system.study_runs import TINY, started

pytestmark = pytest.mark.slow


def test_a_killed_run_goes_on_after_its_last_whole_round(tmp_path: Path) -> None:
    (data,) = write_demo_hospitals(tmp_path / "data", hospitals=1).values()
    site = {
        "name": "hospital-a",
        "data": {
            "paths": [str(path) for path in data.paths],
            "rules": data.rules.model_dump(mode="json"),
        },
        "store": "store",
        "compute": {"threads": 1},
    }
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(site))
    command = ("train-local", "--site-config", tmp_path / "site.yaml", "--study", TINY)
    with started(tmp_path / "first", *command, "--runs", tmp_path, "--run", "r") as first:
        first.wait_for("round 1/3")
        first.process.send_signal(signal.SIGKILL)
        assert first.end() == -signal.SIGKILL
    store = RunStore(tmp_path / "r")
    done = store.latest_round()
    assert done in (0, 1, 2)
    before = [each.started_at for each in store.rounds()][:done]
    with started(tmp_path / "second", *command, "--runs", tmp_path, "--run", "r") as second:
        assert second.end() == 0, second.text()
        assert f"going on with {tmp_path / 'r'}" in second.text()
    assert [each.round for each in store.rounds()] == [1, 2, 3]
    assert [each.started_at for each in store.rounds()][:done] == before
    first_loss, final_loss = store.rounds()[0].heldout_loss, store.summary().final_heldout_loss
    assert first_loss is not None
    assert final_loss is not None
    assert final_loss < first_loss
    assert store.report.exists()

"""The same study under Flower's simulation engine on Ray."""

from pathlib import Path

import pytest

from feat_fed.report import RunStore
from system.study_runs import TINY, nobody_left, started, wait_until

pytestmark = pytest.mark.slow


def test_four_virtual_hospitals_finish_a_study(tmp_path: Path) -> None:
    with started(
        *(tmp_path / "out", "simulate", "--study", TINY, "--sites", 4, "--rounds", 2),
        *("--runs", tmp_path, "--run", "sim"),
    ) as simulate:
        wait_until(lambda: simulate.family() or simulate.process.poll() is not None, 60, simulate)
        wait_until(lambda: "round 1/2" in simulate.text(), 180, simulate)
        family = simulate.family()
        assert simulate.end() == 0, simulate.text()
        nobody_left(family)
    store = RunStore(tmp_path / "sim")
    assert store.summary().state == "complete"
    first, second = store.rounds()
    names = {f"hospital-{number}" for number in range(1, 5)}
    assert {site.site for site in second.sites} == names
    assert all(site.status == "ok" for site in (*first.sites, *second.sites))
    assert second.heldout_loss < first.heldout_loss  # type: ignore[operator]
    assert store.report.exists()


def test_a_cluster_that_is_not_there_is_named(tmp_path: Path) -> None:
    with started(
        *(tmp_path / "out", "simulate", "--study", TINY, "--ray-address", "127.0.0.1:1"),
        *("--runs", tmp_path, "--run", "sim"),
    ) as simulate:
        assert simulate.end(120) == 1
        assert "no Ray cluster answers at 127.0.0.1:1" in simulate.text()
        assert "Traceback" not in simulate.text()

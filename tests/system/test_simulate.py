"""The same study under Flower's simulation engine on Ray."""

from pathlib import Path

import pytest
import yaml

from feat_fed.report import RunStore
from system.ray_nodes import ray_nodes
from system.study_runs import TINY, started
from waiting import nobody_left

pytestmark = pytest.mark.slow

SCENARIO = {
    "hospitals": 5,
    "partition": {"kind": "dirichlet", "by": "modality"},
    "sites": {"hospital-5": {"privacy": {"require": ["patient"]}}},
    "failures": [
        {"site": "hospital-1", "round": 1, "does": "crash"},
        {"site": "hospital-2", "round": 1, "does": "decline"},
        {"site": "hospital-3", "round": 2, "does": "scale", "factor": 100},
    ],
}


def test_a_study_goes_on_beside_hospitals_that_die_decline_lie_and_refuse(tmp_path: Path) -> None:
    scenario = tmp_path / "scenario.yaml"
    scenario.write_text(yaml.safe_dump(SCENARIO))
    with started(
        *(tmp_path / "out", "simulate", "--study", TINY, "--scenario", scenario, "--rounds", 2),
        *("--runs", tmp_path, "--run", "sim"),
    ) as simulate:
        simulate.wait_for("round 1/2")
        family = simulate.family()
        assert simulate.end() == 0, simulate.text()
        nobody_left(family)
    store = RunStore(tmp_path / "sim")
    assert store.summary().state == "complete"
    first, second = ({site.site: site for site in each.sites} for each in store.rounds())
    assert list((tmp_path / "sim/sites/hospital-1/store/rehearsed").iterdir())
    assert (first["hospital-1"].status, second["hospital-1"].status) == ("ok", "ok")
    assert (first["hospital-2"].code, second["hospital-2"].status) == ("paused", "ok")
    assert (first["hospital-3"].status, second["hospital-3"].code) == ("ok", "moved")
    assert (first["hospital-4"].status, second["hospital-4"].status) == ("ok", "ok")
    assert {each["hospital-5"].code for each in (first, second)} == {"protection"}
    final, untrained = store.summary().final_heldout_loss, store.rounds()[0].heldout_loss
    assert final is not None and untrained is not None and final < untrained
    page = store.report.read_text()
    assert "mixed by modality, Dirichlet with alpha 0.5" in page


def test_two_ray_nodes_started_by_hand_share_the_hospitals(tmp_path: Path) -> None:
    with ray_nodes(tmp_path / "ray.log") as address:
        for cpus, status in ((2, 1), (1, 0)):
            scenario = tmp_path / f"{cpus}.yaml"
            scenario.write_text(yaml.safe_dump({"hospitals": 2, "resources": {"cpus": cpus}}))
            with started(
                *(tmp_path / "out", "simulate", "--study", TINY, "--rounds", 1),
                *("--scenario", scenario, "--ray-address", address),
                *("--runs", tmp_path, "--run", "sim"),
            ) as simulate:
                assert simulate.end() == status, simulate.text()
            told = " ".join(simulate.text().split())
            if status:
                assert "no node of the cluster has room for a hospital" in told
                assert "Traceback" not in told
            else:
                assert "2 virtual hospitals, of which 2 work at once" in told
    (record,) = RunStore(tmp_path / "sim").rounds()
    assert [site.status for site in record.sites] == ["ok", "ok"]


def test_a_cluster_that_is_not_there_is_named(tmp_path: Path) -> None:
    with started(
        *(tmp_path / "out", "simulate", "--study", TINY, "--ray-address", "127.0.0.1:1"),
        *("--runs", tmp_path, "--run", "sim"),
    ) as simulate:
        assert simulate.end(120) == 1
        assert "no Ray cluster answers at 127.0.0.1:1" in simulate.text()
        assert "Traceback" not in simulate.text()

"""The tutorials, done as they are written."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from docs.terminals import Reader
from feat_fed.audit import FOLDER, lines
from feat_fed.processes import free_port
from feat_fed.report import RunStore

TUTORIALS = Path(__file__).resolve().parents[2] / "docs" / "tutorials"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """Return somebody who has done the consortium's page."""
    folder = tmp_path_factory.mktemp("consortium") / "here"
    with Reader(folder, replaced={"9443": str(free_port())}) as reader:
        reader.follow(TUTORIALS / "consortium.md")
        yield reader


def test_a_consortium_of_three_hospitals(consortium: Reader) -> None:
    runs = consortium.folder / "coordinator" / "runs"
    status = {"hospital-1": "ok", "hospital-2": "ok", "hospital-3": "ok"}
    for name, rounds in (("first", 2), ("private", 1)):
        store = RunStore(runs / name)
        assert len(store.rounds()) == rounds
        assert {each.site: each.status for each in store.rounds()[-1].sites} == status
        assert store.report.exists()
        status["hospital-3"] = "declined"
    here = str(consortium.folder)
    assert not [each.cmdline() for each in psutil.process_iter() if here in str(_of(each))]


def test_a_data_protection_officer(consortium: Reader) -> None:
    consortium.follow(TUTORIALS / "data_protection_officer.md")
    site = consortium.folder / "hospital-2"
    left = [
        each.event
        for each in lines(site / "store" / FOLDER)
        if each.event["kind"] == "leaving" and each.event.get("epsilon")
    ]
    assert left and all(each["epsilon"] < 8 for each in left)
    limits = yaml.safe_load((site / "site.yaml").read_text())["privacy"]
    assert limits == {"require": ["patient"], "max_epsilon": 8}


def test_a_researchers_simulation(tmp_path: Path) -> None:
    with Reader(tmp_path / "here") as reader:
        reader.follow(TUTORIALS / "researcher.md")
    store = RunStore(tmp_path / "here" / "runs" / "first")
    first, second = store.rounds()
    assert all(site.status == "ok" for site in (*first.sites, *second.sites))
    assert second.heldout_loss < first.heldout_loss  # type: ignore[operator]
    page = store.report.read_text()
    assert "FVD" in page and "What federating is worth" in page


def _of(process: psutil.Process) -> str:
    try:
        return process.cwd()
    except psutil.Error:
        return ""

"""``feat-fed check`` as it is typed: a table for people, JSON for machines, an exit status."""

import json
from pathlib import Path

import pytest
import yaml

from feat_fed.cli.main import run_app
from feat_fed.config import load_study
from feat_fed.protocol import Assignment, Versions
from feat_fed_client.check import CHECKS, CheckReport
from feat_fed_client.known_study import FILE, recall_study, remember_study

WORD = "Zebra7Qx"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / WORD
    (folder / "clips").mkdir(parents=True)
    tree = {
        "name": "hospital-a",
        "data": {"paths": [str(folder / "clips")]},
        "store": str(folder / "store"),
        "compute": {"device": "cpu"},
    }
    (folder / "site.yaml").write_text(yaml.safe_dump(tree))
    return folder / "site.yaml"


def check(site: Path, *more: str) -> int:
    return run_app(["check", str(site), "--quick", "--offline", *more])


def test_a_table_says_what_was_found_and_what_to_do(
    site: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check(site, "--study", "demo") == 1
    told = capsys.readouterr().out
    assert all(each.title in told for each in CHECKS)
    assert "no file was looked at yet" in told
    assert "feat-fed data scan" in told
    assert "this site cannot take part yet" in told
    assert WORD not in told


def test_json_reads_back_and_holds_no_path(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(site, "--json", "--study", "demo") == 1
    told = capsys.readouterr().out
    report = CheckReport.model_validate(json.loads(told))
    assert (report.study, report.study_from, report.status) == ("demo", "option", "red")
    assert [each.id for each in report.results] == [each.id for each in CHECKS]
    assert WORD not in told
    assert "/" not in "".join(each.found for each in report.results).replace("Python", "")


def test_nothing_is_written_by_a_check(site: Path) -> None:
    check(site, "--study", "demo")
    assert not (site.parent / "store").exists()


def test_the_study_of_the_last_round_is_taken(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(site, "--json") == 1
    assert CheckReport.model_validate_json(capsys.readouterr().out).study is None
    study = load_study("demo", name="heart")
    assignment = Assignment(
        study_id="0" * 32,
        round=1,
        task="train",
        first_step=0,
        study=study,
        versions=Versions(feat_fed="9.9", python="3.11.7"),
    )
    remember_study(site.parent / "store", assignment)
    check(site, "--json")
    report = CheckReport.model_validate_json(capsys.readouterr().out)
    assert (report.study, report.study_from) == ("heart", "last round")
    versions = next(each for each in report.results if each.id == "versions")
    assert (versions.status, "9.9 there" in versions.found) == ("red", True)


def test_a_kept_study_that_cannot_be_read_is_none(site: Path) -> None:
    store = site.parent / "store"
    store.mkdir()
    (store / FILE).write_text('{"schema_version": 2}')
    assert recall_study(store) is None


def test_a_wrong_site_file_is_one_message(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site.write_text("name: a\n")
    assert check(site) == 1
    assert "store: this field is required" in capsys.readouterr().err

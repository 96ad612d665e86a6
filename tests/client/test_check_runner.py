"""All checks go on, and what they say holds no path."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from client.check_site import make_site, small_study
from feat_fed.config import SiteConfig
from feat_fed.errors import DataError
from feat_fed.findings import green, worst
from feat_fed_client.check import CHECKS, Check, CheckReport, Finding, Subject, run_checks
from feat_fed_client.check.text import told_and_mend, without_paths


@pytest.fixture
def site(tmp_path: Path) -> SiteConfig:
    return make_site(tmp_path, patients="")


def one(subject: Subject, check: Check) -> CheckReport:
    return run_checks(
        subject, study_from=None, checks=[check, Check("last", "L", lambda _: green("x"))]
    )


def test_a_check_that_crashes_is_red_names_its_class_and_the_next_one_runs(
    site: SiteConfig,
) -> None:
    def crash(subject: Subject) -> Finding:
        raise KeyError("Mrs Smith")

    report = one(Subject(site), Check("first", "First", crash))
    assert [each.status for each in report.results] == ["red", "green"]
    assert "KeyError" in report.results[0].found
    assert "Smith" not in report.model_dump_json()


def test_an_error_of_ours_is_red_with_its_mend_and_without_its_path(site: SiteConfig) -> None:
    def fail(subject: Subject) -> Finding:
        raise DataError(f"{site.store}/manifest.sqlite is damaged; restore it from a backup")

    first = one(Subject(site), Check("first", "First", fail)).results[0]
    assert first.found == "<store>/manifest.sqlite is damaged"
    assert first.mend == "restore it from a backup"


def test_what_needs_a_study_or_the_network_is_amber_without(site: SiteConfig) -> None:
    def never(subject: Subject) -> Finding:
        raise AssertionError

    study = one(Subject(site), Check("first", "First", never, needs_study=True)).results[0]
    assert (study.status, study.mend) == ("amber", "give --study")
    way = one(Subject(site, offline=True), Check("first", "First", never, needs_network=True))
    assert (way.results[0].status, way.status) == ("amber", "amber")


def test_every_check_has_an_id_of_its_own_and_a_report_reads_back(site: SiteConfig) -> None:
    subject = Subject(site, study=small_study(), offline=True, quick=True)
    report = run_checks(subject, study_from="option")
    assert len({each.id for each in report.results}) == len(CHECKS)
    assert CheckReport.model_validate_json(report.model_dump_json()) == report
    assert (report.schema_version, report.status) == (1, "red")  # no clip was looked at
    assert all(each.mend for each in report.results if each.status != "green")
    with pytest.raises(ValidationError):
        CheckReport.model_validate({**report.model_dump(), "path": "/data"})


def test_no_path_and_no_patient_gets_into_a_report(tmp_path: Path) -> None:
    site = make_site(tmp_path / "Zebra7Qx", patients="a")
    (site.store / "manifest.sqlite").write_text("no database")
    for each in (site, site.model_copy(update={"store": tmp_path / "Zebra7Qx" / "no" / "store"})):
        subject = Subject(each, study=small_study(), offline=True, quick=True)
        told = run_checks(subject, study_from="option").model_dump_json()
        assert "Zebra7Qx" not in told
        assert str(tmp_path) not in told


def test_texts(site: SiteConfig) -> None:
    told = without_paths(f"{site.data.paths[0]}/Erika Muster/1.dcm cannot be read", site)
    assert told == "<data.paths>/..."
    assert without_paths("3 GB/s and 1/2", site) == "3 GB/s and 1/2"
    assert worst(["green", "red", "amber"]) == "red"
    assert worst([]) == "green"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cannot read /mnt/Patient Files/Mueller Hans/x.dcm", "cannot read <path>"),
        ("/mnt/O'Brien, Mary; 1970: x/y.dcm is cut off; mend it", "<path>"),
        ("no such file: '/mnt/a b/Hans.dcm' or so\nnext", "no such file: '<path>' or so\nnext"),
        ("""no such file: "/mnt/O'Brien/x" or so""", 'no such file: "<path>" or so'),
        ("'/a/Hans M' -> '/b/Erika M' failed", "'<path>' failed"),
        ("it's in /mnt/Hans' Files/x", "it's in <path>"),
    ],
)
def test_all_that_may_belong_to_a_path_is_cut(site: SiteConfig, text: str, told: str) -> None:
    assert without_paths(text, site) == told


def test_a_folder_beside_a_known_one_is_not_taken_for_it(site: SiteConfig) -> None:
    assert without_paths(f"no room in {site.store}.", site) == "no room in <store>."
    assert without_paths(f"no room in {site.store}-of-Hans/x", site) == "no room in <path>"


def test_a_path_takes_no_mend_with_it_that_stands_before(site: SiteConfig) -> None:
    assert told_and_mend("too large; take less", site) == ("too large", "take less")
    told, mend = told_and_mend("/mnt/Hans; M/x cannot be read; mend it", site)
    assert (told, mend) == ("<path>", "do what it says, and check again")

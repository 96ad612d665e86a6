from pathlib import Path

import pytest

from client.check_site import changed, make_site, small_study
from feat_fed.config import SiteConfig, StudyConfig
from feat_fed_client.check import Check, Subject, run_checks
from feat_fed_client.check.peers import peers

OTHERS = {name: " ".join([name * 4] * 8) for name in "bc"}


@pytest.fixture
def site(tmp_path: Path) -> SiteConfig:
    return make_site(tmp_path, patients="")


def masked() -> StudyConfig:
    return small_study(
        strategy={"weigh_by": "equal"},
        sites={"minimum": 3},
        privacy={"secure_aggregation": {}},
    )


def believe(site: SiteConfig, *names: str) -> Path:
    seen = ", ".join(f'"{name}": "{OTHERS[name]}"' for name in names)
    path = site.store / "peers.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{{"schema_version": 1, "first_seen": {{{seen}}}}}')
    return path


def test_a_study_without_masks_needs_nobodys_key(site: SiteConfig) -> None:
    found = peers(Subject(site, study=small_study()))
    assert (found.status, found.numbers) == ("green", {})


def test_keys_that_nobody_has_compared_are_told_of(site: SiteConfig) -> None:
    found = peers(Subject(site, study=masked()))
    assert found.status == "amber" and "0 keys" in found.found
    one = changed(site, privacy={"peers": {"b": OTHERS["b"]}})
    assert peers(Subject(one, study=masked())).status == "amber"
    both = changed(site, privacy={"peers": OTHERS})
    assert peers(Subject(both, study=masked())).status == "green"
    believe(site, "b", "c")
    found = peers(Subject(one, study=masked()))
    assert found.status == "amber" and found.numbers["believed"] == 1
    assert peers(Subject(both, study=masked())).status == "green"


def test_a_damaged_list_is_red_and_says_how_it_is_mended(site: SiteConfig) -> None:
    path = believe(site, "b")
    path.write_text(path.read_text()[:-3])
    report = run_checks(
        Subject(site, study=masked()),
        study_from="option",
        checks=[Check("peers", "Peers", peers, needs_study=True)],
    )
    assert report.status == "red" and "from a backup" in report.results[0].mend
    assert str(site.store) not in report.model_dump_json()

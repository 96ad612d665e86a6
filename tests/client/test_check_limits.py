from pathlib import Path

import pytest

from client.check_site import changed, make_site, small_study
from feat_fed.config import HoursConfig, SiteConfig
from feat_fed_client.check import Subject, limits
from feat_fed_client.pause import begin_pause


@pytest.fixture
def site(tmp_path: Path) -> SiteConfig:
    return make_site(tmp_path, patients="")


def test_hours_and_pause(site: SiteConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert limits.hours(Subject(site)).status == "green"
    always = tuple(HoursConfig.model_validate(each) for each in ("00:00-12:00", "12:00-00:00"))
    assert limits.hours(Subject(changed(site, limits={"hours": always}))).status == "green"
    monkeypatch.setattr("feat_fed_client.hours._within", lambda window, time: False)
    closed = limits.hours(Subject(changed(site, limits={"hours": always[:1]})))
    assert (closed.status, closed.numbers["open"]) == ("amber", False)
    begin_pause(site.store, None)
    paused = limits.hours(Subject(site))
    assert (paused.status, paused.numbers["paused"]) == ("amber", True)
    assert "site resume" in paused.mend


def test_weights_against_what_a_round_may_move(site: SiteConfig) -> None:
    study = small_study()
    total_gb = 2 * Subject(site, study=study).weights_bytes / 1e9

    def status(limit_gb: float | None) -> str:
        limited = changed(site, limits={"gb_per_round": limit_gb})
        return limits.traffic(Subject(limited, study=study)).status

    assert (status(None), status(total_gb * 1.01), status(total_gb * 0.99)) == (
        "green",
        "green",
        "red",
    )


def test_a_round_after_one_that_was_missed_is_larger(site: SiteConfig) -> None:
    study = small_study(transfer={"up": "int8", "down": "int8"})
    subject = Subject(site, study=study)
    limit_gb = 1.3 * sum(subject.round_bytes) / 1e9
    found = limits.traffic(Subject(changed(site, limits={"gb_per_round": limit_gb}), study=study))
    assert (found.status, "those rounds" in found.found) == ("amber", True)


def test_no_privacy_budget_is_made_up(site: SiteConfig) -> None:
    found = limits.privacy(Subject(site, study=small_study()))
    assert (found.status, found.numbers) == ("green", {})
    assert "no privacy budget" in found.found

from pathlib import Path
from typing import Any

import pytest

from client.check_site import changed, make_site, small_study
from feat_fed.config import HoursConfig, SiteConfig, SitePrivacyConfig, StudyConfig
from feat_fed.errors import ConfigError
from feat_fed_client.check import Finding, Subject, limits
from feat_fed_client.check.clips import KnownClips
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


def private_study(**privacy: dict[str, Any]) -> StudyConfig:
    strategy, training = {"weigh_by": "equal"}, {"engine": "deepspeed"}
    return small_study(strategy=strategy, training=training, privacy=privacy)


def privacy_of(site: SiteConfig, study: StudyConfig, **demands: Any) -> Finding:
    demanding = site.model_copy(update={"privacy": SitePrivacyConfig(**demands)})
    return limits.privacy(Subject(demanding, study=study))


PATIENT = {"epsilon": 8, "sample_rate": 0.1}


def test_what_a_private_study_spends_is_told(site: SiteConfig) -> None:
    study = private_study(patient=PATIENT, central={"noise_multiplier": 4, "delta": 1e-6})
    found = privacy_of(site, study, require=("patient", "central"))
    assert found.status == "green"
    assert "of each patient" in found.found
    assert "of each hospital" in found.found
    assert 7.9 < float(found.numbers["patient_epsilon"] or 0) <= 8
    assert found.numbers["hospital_delta"] == 1e-6


def test_a_study_that_lacks_what_the_site_demands_is_red(site: SiteConfig) -> None:
    demands = ("patient", "secure-aggregation")
    found = privacy_of(site, private_study(patient=PATIENT), require=demands)
    assert (found.status, "lacks secure-aggregation" in found.found) == ("red", True)
    assert privacy_of(site, small_study(), require=("central",)).status == "red"


def test_shared_out_weights_do_not_go_with_private_gradients(site: SiteConfig) -> None:
    study = private_study(patient=PATIENT)
    sharded = changed(site, compute={"devices": 2, "zero_stage": 3})
    found = privacy_of(sharded, study)
    assert (found.status, "compute.zero_stage: 2" in found.mend) == ("red", True)
    assert privacy_of(changed(sharded, compute={"devices": 1}), study).status == "green"
    assert privacy_of(sharded, private_study(central={"noise_multiplier": 4})).status == "green"


@pytest.mark.parametrize(
    ("patients", "delta", "told"),
    [(9, 1e-5, "0.9 of the 9 patients"), (20, 0.01, "not well below 1 / 20"), (20, 1e-5, None)],
)
def test_few_patients_and_a_large_delta_are_amber(
    site: SiteConfig,
    monkeypatch: pytest.MonkeyPatch,
    patients: int,
    delta: float,
    told: str | None,
) -> None:
    sides = dict.fromkeys(map(str, range(patients)), "train") | {"x": "heldout"}
    known = KnownClips((), 0, 0, 0, (), None, sides, b"")  # type: ignore[arg-type]
    monkeypatch.setattr("feat_fed_client.check.subject.read_known_clips", lambda *_: known)
    found = privacy_of(site, private_study(patient=PATIENT | {"delta": delta}))
    assert found.status == ("amber" if told else "green")
    assert told is None or told in found.found


def test_a_study_whose_noise_cannot_be_found_is_red_in_the_report(site: SiteConfig) -> None:
    hopeless = private_study(patient={"epsilon": 1e-4, "sample_rate": 1.0})
    with pytest.raises(ConfigError, match="no noise makes"):
        privacy_of(site, hopeless)

from pathlib import Path
from typing import Any

import pytest

from client.check_site import changed, make_site, small_study
from feat_fed.config import SiteConfig, StudyConfig
from feat_fed.privacy.accounting import NoisySteps, rdp_epsilon
from feat_fed.privacy.ledger import Budget, Ledger
from feat_fed.privacy.ledger_events import Reserved
from feat_fed_client.check import Subject
from feat_fed_client.check.budget import budget

PATIENT = {"patient": {"noise_multiplier": 1.0, "sample_rate": 0.5}}
CENTRAL = {"central": {"noise_multiplier": 1.0}}


@pytest.fixture
def site(tmp_path: Path) -> SiteConfig:
    return make_site(tmp_path, patients="")


def study(**mechanisms: Any) -> StudyConfig:
    made = small_study(strategy={"weigh_by": "equal"}, privacy=mechanisms)
    return made.model_copy(update={"rounds": 10})


def of_rounds(rounds: int) -> float:
    return rdp_epsilon([NoisySteps(1.0, 0.5, 10 * rounds)], delta=1e-5)


def spend(site: SiteConfig, rounds: int) -> Ledger:
    ledger = Ledger(site.store, site.name)
    for number in range(1, rounds + 1):
        fields = {"study_id": "1" * 32, "study": "demo", "round": number}
        fields |= {"noise_multiplier": 1.0, "sample_rate": 0.5, "steps": 10}
        ledger.reserve(Reserved.model_validate(fields), budget=Budget(None, 1e-5))
    return ledger


def test_a_study_without_dp_sgd_spends_nothing_of_it(site: SiteConfig) -> None:
    found = budget(Subject(site, study=study(**CENTRAL)))
    assert (found.status, found.numbers) == ("green", {})


def test_what_a_study_would_spend_is_told_beforehand(site: SiteConfig) -> None:
    spend(site, 4)
    for limit, status, told in (
        (None, "green", "no limit"),
        (of_rounds(10) + 0.01, "green", "allowed"),
        (of_rounds(6) + 0.01, "amber", "after 2 more"),
        (of_rounds(4) + 0.01, "red", "every round"),
    ):
        limited = changed(site, privacy={"max_epsilon": limit})
        found = budget(Subject(limited, study=study(**PATIENT)))
        assert found.status == status and told in found.found
        assert found.numbers["epsilon"] == round(of_rounds(4), 4)
        assert found.numbers["epsilon_after"] == round(of_rounds(10), 4)


def test_a_damaged_ledger_is_found(site: SiteConfig) -> None:
    path = spend(site, 1).folder / "000001.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"steps":10', b'"steps":01'))
    found = budget(Subject(site, study=study(**PATIENT)))
    assert found.status == "red" and "000001.jsonl:2: the line is damaged" in found.found
    assert "feat-fed privacy verify" in found.mend

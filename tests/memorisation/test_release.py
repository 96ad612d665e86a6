"""What sites tell, and what is made of it."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from feat_fed.config import PrivacyConfig, ReleaseConfig, SitePrivacyConfig
from feat_fed.errors import PrivacyError
from feat_fed.memorisation import MAX_CLIPS, NearestClips, SiteAnswer, coarse, decide

TOLD = {
    "near": [False, True],
    "calibrated": "few",
    "heldout_patients": 4,
    "threshold": 0.6,
    "scores": [0.35, 0.85],
}
SEEDS = (7, 8)


def nearest(**changes: Any) -> NearestClips:
    return NearestClips.model_validate({**TOLD, **changes})


def answered(site: str, **changes: Any) -> SiteAnswer:
    return SiteAnswer(site=site, status="answered", nearest=nearest(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"near": []},
        {"near": [True] * (MAX_CLIPS + 1), "scores": [0.5] * (MAX_CLIPS + 1)},
        {"near": [True]},
        {"near": ["yes", "no"]},
        {"scores": [0.35]},
        {"scores": [0.35, 1.05]},
        {"scores": [0.35, float("nan")]},
        {"scores": [0.35, float("inf")]},
        {"scores": [0.35, 0.8512345]},
        {"scores": ["0.35; DROP", 0.5]},
        {"scores": None},
        {"threshold": None},
        {"threshold": 0.612},
        {"threshold": -1.5},
        {"calibrated": "none"},
        {"calibrated": "patient-4711"},
        {"calibrated": "enough"},
        {"heldout_patients": 0},
        {"heldout_patients": -1},
        {"heldout_patients": 10**9},
        {"note": "patient-4711"},
    ],
)
def test_an_answer_of_another_form_is_none(changes: dict[str, Any]) -> None:
    assert nearest().near == (False, True)
    with pytest.raises(ValidationError):
        NearestClips.model_validate_json(json.dumps({**TOLD, **changes}))


def test_a_score_is_told_coarsely() -> None:
    assert [coarse(each) for each in (-1.0, -0.01, 0.974, 0.976, 1.0)] == [
        -1.0, 0.0, 0.95, 1.0, 1.0,
    ]  # fmt: skip
    steps = [coarse(each / 1000) for each in range(-1000, 1001)]
    assert len(set(steps)) == 41 and all(each == coarse(each) for each in steps)


def test_verdicts_tell_no_number() -> None:
    told = nearest().told("verdicts")
    assert told.model_dump(exclude_none=True) == {"near": (False, True), "calibrated": "few"}
    assert NearestClips.model_validate(told.model_dump()) == told
    assert nearest().told("scores") == nearest()
    with pytest.raises(PrivacyError, match="no answer about copies"):
        nearest().told("nothing")


@pytest.mark.parametrize(
    ("study", "site", "tell", "told"),
    [
        ({}, {}, None, "scores"),
        ({"secure_aggregation": {}}, {}, None, "verdicts"),
        ({"patient": {"noise_multiplier": 1}}, {}, None, "verdicts"),
        ({"patient": {"noise_multiplier": 1}}, {"require": ["patient"]}, None, "nothing"),
        ({}, {"max_epsilon": 8}, None, "nothing"),
        ({}, {}, "nothing", "nothing"),
        ({"patient": {"noise_multiplier": 1}}, {"require": ["patient"]}, "scores", "scores"),
    ],
)
def test_a_site_that_says_nothing_of_it_tells_what_its_privacy_allows(
    study: dict[str, Any], site: dict[str, Any], tell: Any, told: str
) -> None:
    policy = ReleaseConfig(tell=tell)
    privacy = PrivacyConfig.model_validate(study), SitePrivacyConfig.model_validate(site)
    assert policy.told(*privacy) == told


MISSING = SiteAnswer(site="b", status="missing", reason="no answer before the deadline")
CLEAR = {"near": [False, False]}


@pytest.mark.parametrize(
    ("answers", "word", "gate", "model", "released"),
    [
        ([answered("a", **CLEAR), answered("b", **CLEAR)], None, "passed", "released", [1, 1]),
        ([answered("a", **CLEAR), answered("b")], None, "near", "kept", [1, 0]),
        ([answered("a", **CLEAR), answered("b")], "why", "near", "released-anyway", [1, 0]),
        ([answered("a", **CLEAR), MISSING], None, "incomplete", "kept", [0, 0]),
        ([answered("a"), MISSING], "why", "incomplete", "released-anyway", [1, 0]),
        (
            [answered("a", **CLEAR, calibrated="none", threshold=None, heldout_patients=0)],
            None, "incomplete", "kept", [0, 0],
        ),
        ([], None, "incomplete", "kept", [0, 0]),
        ([answered("a", **CLEAR)], "why", "passed", "released", [1, 1]),
    ],
)  # fmt: skip
def test_the_gate(
    answers: list[SiteAnswer], word: str | None, gate: str, model: str, released: list[int]
) -> None:
    state, decision, verdicts = decide(answers, seeds=SEEDS, word=word)
    assert (state, decision) == (gate, model)
    assert [each.released for each in verdicts] == [bool(each) for each in released]
    assert [(each.clip, each.seed) for each in verdicts] == [(1, 7), (2, 8)]


def test_what_chance_explains_is_told_where_the_number_of_patients_is() -> None:
    assert answered("a").by_chance == pytest.approx(1 / 3)
    assert SiteAnswer(
        site="a", status="answered", nearest=nearest().told("verdicts")
    ).by_chance is (None)
    _, _, verdicts = decide([answered("a"), MISSING], seeds=SEEDS, word=None)
    assert [each.score for each in verdicts] == [0.35, 0.85]
    assert [each.near_at for each in verdicts] == [(), ("a",)]

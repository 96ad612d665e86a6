"""``feat-fed privacy audit``."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from feat_fed.cli import privacy_audit
from feat_fed.cli.main import run_app
from feat_fed.privacy.auditing import LowerBound

STUDY = str(Path(__file__).parents[2] / "configs" / "studies" / "private.yaml")
SMALL = ("--canaries", "25", "--steps", "1", "--epsilon", "1")


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    status = run_app(["privacy", "audit", *arguments])
    told = capsys.readouterr()
    return status, told.out, told.err


def measuring(monkeypatch: pytest.MonkeyPatch, *, off: float, on: float) -> list[Any]:
    asked = []

    def measured(privacy: Any, **options: Any) -> LowerBound:
        asked.append((privacy, options))
        return LowerBound(off if privacy is None else on, 40, 30)

    monkeypatch.setattr(privacy_audit, "measured", measured)
    return asked


def test_a_small_audit_catches_the_leak_and_lets_the_noise_pass(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, told, _ = command(capsys, *SMALL, "--json")
    tree = json.loads(told)
    assert (status, tree["verdict"]) == (0, "holds")
    assert tree["on"]["epsilon_at_least"] < tree["epsilon_prv"] < tree["epsilon"] <= 1
    assert tree["off"] == {
        "epsilon_at_least": pytest.approx(1.75, abs=0.1),
        "guesses": 25,
        "correct": 25,
        "caught": True,
    }


@pytest.mark.parametrize(
    ("off", "on", "status", "says"),
    [
        (2.0, 0.2, 0, "within the claim"),
        (2.0, 1.2, 1, "broken: more was proven to leak than is claimed"),
        (0.8, 0.2, 1, "inconclusive: not even the leak without noise was caught"),
    ],
)
def test_the_verdict_is_shown_and_is_the_exit_status(
    off: float,
    on: float,
    status: int,
    says: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(privacy_audit, "output", Console(width=140))
    asked = measuring(monkeypatch, off=off, on=on)
    found, told, _ = command(capsys, *SMALL, "--seed", "7")
    assert found == status and says in told
    assert "30 of 40" in told and f"{on:.3f}" in told
    assert [privacy is None for privacy, _ in asked] == [True, False]
    assert all(options["seed"] == 7 for _, options in asked)


def test_a_study_says_what_is_audited(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = measuring(monkeypatch, off=5.0, on=0.1)
    study = ("--study", STUDY)
    status, told, _ = command(capsys, *study, "--canaries", "400", "--json")
    tree = json.loads(told)
    assert status == 0
    assert (tree["sample_rate"], tree["clip_norm"], tree["delta"]) == (0.02, 1.0, 1e-6)
    assert asked[1][0].draws == 4 and tree["noise_multiplier"] == asked[1][0].noise_multiplier
    status, _, told = command(capsys, *study, "--sample-rate", "0.1")
    assert status == 1 and "--sample-rate: the study says that" in told


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--canaries", "20", "--epsilon", "4"), "20 canaries can prove"),
        (("--epsilon", "1", "--noise-multiplier", "1"), "give one"),
        (("--sample-rate", "2"), "sample_rate"),
        (("--study", "demo"), "has no DP-SGD"),
    ],
)
def test_what_cannot_be_audited_is_refused_at_once(
    arguments: tuple[str, ...],
    says: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = measuring(monkeypatch, off=5.0, on=0.1)
    status, _, told = command(capsys, *arguments)
    assert status == 1 and says in " ".join(told.split())
    assert not asked

"""``feat-fed privacy plan``, and what a run says of its privacy."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from feat_fed.cli.main import run_app
from feat_fed.cli.runs import run_to_report
from feat_fed.cli.train_local import at_a_site
from feat_fed.config import load_study
from feat_fed.errors import RunError
from feat_fed.report import RunStore

PLAN = ["privacy", "plan", "--sample-rate", "0.01", "--steps", "10000", "--delta", "1e-5"]

STUDY = """
name: private
rounds: 4
model: {in_channels: 6}
training: {local_steps: 5}
strategy: {weigh_by: equal}
sites: {minimum: 3}
privacy:
  patient: {epsilon: 8, sample_rate: 1}
  central: {noise_multiplier: 5}
  secure_aggregation: {}
"""


@pytest.fixture(autouse=True)
def few_points(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TIME", "NOISE", "PATIENTS"):
        monkeypatch.setattr(f"feat_fed.privacy.plan._SHARES_OF_{name}", (0.5, 1.0))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return path


def test_the_published_setting_by_both_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app([*PLAN, "--noise-multiplier", "1.1"]) == 0
    out = capsys.readouterr().out
    assert "RDP, which is enforced: 5.632; by PRV, which is closer: 5.203" in out
    assert "the odds of any answer differ by a factor of at most 280, but for a" in out
    rows = [line.split("│") for line in out.splitlines() if "> 10,000" in line]
    assert [each.strip() for each in rows[0][2:4]] == ["5.632", "5.203"]
    assert set(rows[0][4].strip()) == {"█", "░"}


def test_secure_aggregation_is_mentioned_beside_the_noise_and_is_none(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(["privacy", "plan", "--study", str(study)]) == 0
    assert "secure aggregation is on" in capsys.readouterr().err
    noise = "  patient: {epsilon: 8, sample_rate: 1}\n  central: {noise_multiplier: 5}\n"
    study.write_text(STUDY.replace(noise, ""))
    assert run_app(["privacy", "plan", "--study", str(study)]) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "bounds nothing (its secure aggregation is no noise)" in told


def test_noise_for_an_epsilon_and_what_patients_change(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    svg = tmp_path / "plan.svg"
    options = ["--sample-rate", "1", "--steps", "20", "--epsilon", "3", "--patients", "20000"]
    assert run_app(["privacy", "plan", *options, "--plot", str(svg)]) == 0
    out = capsys.readouterr().out
    assert "takes 2e+04 on average" in out
    assert "delta 1e-05 is not well below 1 / 20,000 patients; 5e-06 would be" in out
    words = "".join(ElementTree.parse(svg).getroot().itertext())
    for word in ("RDP, enforced", "PRV, closer", "Steps", "Noise multiplier", "Patients"):
        assert word in words


def test_a_study_is_planned_in_rounds(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    png = tmp_path / "plan.png"
    options = ["--study", str(study), "--rounds", "2", "--plot", str(png)]
    assert run_app(["privacy", "plan", *options]) == 0
    out = capsys.readouterr().out
    assert out.count("Epsilon against rounds") == 2
    assert "of each patient" in out
    assert "multiplier of 5 in 2 rounds" in out
    assert png.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "--sample-rate is missing"),
        (["--sample-rate", "0.1"], "--steps is missing"),
        (["--sample-rate", "0.1", "--steps", "9"], "set one of them"),
        (["--sample-rate", "2", "--steps", "9", "--epsilon", "1"], "sample_rate: Input should be"),
        (["--epsilon", "1", "--noise-multiplier", "1"], "give one, the other follows"),
        (["--rounds", "3"], "--rounds is of a study"),
        (["--study", "demo"], "adds no noise"),
        (["--study", "demo", "--epsilon", "1"], "--epsilon: the study says that"),
        (["--study", "STUDY", "--plot", "a.bmp"], "a.bmp is no picture"),
        (["--sample-rate", "1", "--steps", "100000", "--epsilon", "0.001"], "no noise makes"),
    ],
)
def test_what_cannot_be_planned_is_told(
    options: list[str], told: str, study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [str(study) if each == "STUDY" else each for each in options]
    assert run_app(["privacy", "plan", *options]) == 1
    err = " ".join(capsys.readouterr().err.split())
    assert told in err
    assert "Traceback" not in err


def test_a_run_says_its_privacy_when_it_begins_and_to_the_coordinator(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def nothing_to_train(store: RunStore) -> None:
        raise RunError("stopped by the test")

    root = tmp_path / "runs" / "private"
    with pytest.raises(RunError, match="stopped by the test"):
        run_to_report(root, load_study(study), nothing_to_train)
    began = " ".join(capsys.readouterr().err.split())
    patient = r"privacy: epsilon 7\.9\d* at delta 1e-05 of each patient, with a noise multiplier"
    assert re.search(patient, began)
    assert "privacy: secure aggregation: the server sees sums" in began
    assert run_app(["study", "sites", "--run", str(root)]) == 0
    assert re.match(patient, capsys.readouterr().out)


def test_a_site_alone_claims_nothing_of_a_server(study: Path) -> None:
    alone = at_a_site(load_study(study))
    assert alone.privacy.protections == {"patient"}
    demo = load_study("demo")
    assert at_a_site(demo) is demo

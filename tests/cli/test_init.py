"""What `feat-fed init` writes, asks, refuses and leaves alone."""

import io
from pathlib import Path

import pytest

from feat_fed.cli.main import run_app
from feat_fed.config import load_federation, load_site, load_study


class Answers(io.StringIO):
    """A person at the terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp4").touch()
    return tmp_path


def answer(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr("sys.stdin", Answers("".join(f"{line}\n" for line in lines)))


HOSPITALS = ("--site", "a", "--site", "b", "--site", "c")


def test_a_coordinator_is_asked_until_the_answers_are_right(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    link = ("https://host:1", "host.example.org:9443", "A b", "a b c")
    answer(monkeypatch, *link, "nothing", "", "echo", "0", "40", "maybe", "yes", "2", "3", "-1", "")
    assert run_app(["init", "server"]) == 0
    told = " ".join(capsys.readouterr().err.split())
    for wrong in ("without https://", "'A': a name has small letters", "no study at nothing"):
        assert wrong in told
    for wrong in ("equal to 1", "answer yes or no", "2 does not go with secure", "greater than 0"):
        assert wrong in told
    assert "feat-fed check federation.yaml --study study.yaml" in told
    assert load_federation(Path("federation.yaml")).sites == ("a", "b", "c")
    study = load_study("study.yaml")
    assert (study.name, study.rounds, study.sites.minimum) == ("echo", 40, 3)
    assert study.model == load_study("demo").model
    assert study.privacy.protections == {"secure-aggregation"}
    assert study.strategy.weigh_by == "equal"


def test_nothing_that_is_there_is_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["init", "server", *HOSPITALS, "--address", "h:1", "--yes"]) == 0
    before = {path: path.read_bytes() for path in Path().glob("*.yaml")}
    assert run_app(["init", "server", "--yes"]) == 1
    assert "study.yaml exists and is kept" in capsys.readouterr().err
    second = ["init", "server", "--study", "private.yaml", "--epsilon", "8", "--yes"]
    assert run_app([*second, "--address", "h:2"]) == 1
    assert "leave --address and --site out" in capsys.readouterr().err
    assert run_app(second) == 0
    assert "a, b, c at h:1" in capsys.readouterr().err
    study = load_study("private.yaml")
    assert study.name == "private" and study.privacy.patient is not None
    assert study.privacy.patient.epsilon == 8
    assert {path: path.read_bytes() for path in before} == before


def test_a_compressing_study_is_made_fit_for_masks() -> None:
    flags = ["--base", "feat-s-wavelet", "--secure-aggregation", "--yes", "--address", "h:1"]
    assert run_app(["init", "server", *HOSPITALS, *flags]) == 0
    transfer = load_study("study.yaml").transfer
    assert (transfer.up, transfer.down) == ("fp32", "int8")


def test_a_hospital_with_a_token_says_little_and_can_join(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(["init", "server", *HOSPITALS, "--address", "127.0.0.1:1", "--yes"]) == 0
    assert run_app(["provision"]) == 0
    capsys.readouterr()
    answer(monkeypatch, "nowhere", "clips", "gpu", "", "22-6", "22:00-06:00", "all", "patient", "8")
    assert run_app(["init", "site", "--token", "tokens/a.token"]) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "the token is for a" in told and "feat-fed join tokens/a.token" in told
    for wrong in ("nowhere does not exist", "'auto', 'cpu' or 'cuda'", "is no part of a day"):
        assert wrong in told
    site = load_site(Path("site.yaml"))
    assert (site.name, site.data.paths) == ("a", (Path("clips").resolve(),))
    assert [str(each) for each in site.limits.hours] == ["22:00-06:00"]
    assert (site.privacy.require, site.privacy.max_epsilon) == (("patient",), 8)
    assert run_app(["join", "tokens/a.token"]) == 0
    assert site.server is not None and site.server.private_key.exists()
    assert load_site(Path("site.yaml")) == site


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["site", "--name", "a"], "--address is missing (HOST:PORT of the study's server)"),
        (["site", "--name", "a", "--address", "h:1"], "--data is missing"),
        (["site", "--token", "t", "--name", "a"], "leave them out"),
        (["site", "--site-config", "no/site.yaml"], "the folder no does not exist"),
        (["server"], "--site is missing (Names of the hospitals"),
        (["server", "--site", "the hospital"], "sites.0: 'the hospital': a name has"),
        (["server", "--site", "a", "--min-sites", "2"], "--min-sites: 2 does not go: write 1"),
        (["server", "--site", "a", "--secure-aggregation"], "needs three hospitals"),
        (["server", "--site", "a", "--epsilon", "0.001"], "epsilon"),
    ],
)
def test_flags_that_lack_or_are_wrong_are_named_and_nothing_is_written(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(["init", *arguments, "--yes"]) == 1
    assert told in " ".join(capsys.readouterr().err.split())
    assert list(Path().rglob("*.yaml")) == []

"""`feat-fed provision approve`, by a person who answers, or mistypes."""

import io
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from feat_fed.cli.main import run_app
from feat_fed.joining import JoinRequest, Token
from feat_fed_server.admissions import Admissions


@pytest.fixture
def asked(tmp_path: Path) -> JoinRequest:
    """The request of hospital a, at a federation in the test's folder."""
    file = tmp_path / "federation.yaml"
    file.write_text("address: coordinator.example.org:9443\nsites: [a]\n")
    assert run_app(["provision", str(file)]) == 0
    admissions = Admissions(tmp_path)
    token = Token.parse(admissions.token_file("a").read_text())
    request = JoinRequest.make(token, ec.generate_private_key(ec.SECP384R1()))
    admissions.receive(request.model_dump_json().encode())
    return request


def approve(folder: Path, *flags: str) -> int:
    return run_app(["provision", "approve", str(folder / "federation.yaml"), "a", *flags])


@pytest.mark.parametrize(
    ("answer", "status", "told"),
    [("n\n", 1, "a is not admitted, and still asks"), ("", 130, "nothing was changed")],
)
def test_whoever_does_not_say_yes_is_told_what_became_of_it(
    asked: JoinRequest,
    answer: str,
    status: int,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    assert approve(tmp_path) == status
    assert told in " ".join(capsys.readouterr().err.split())
    assert Admissions(tmp_path).pending("a") == asked


def test_a_fingerprint_counts_however_its_letters_are_grouped(
    asked: JoinRequest, tmp_path: Path
) -> None:
    whole = asked.fingerprint.replace(" ", "").upper()
    other = whole[:-1] + ("0" if whole[-1] != "0" else "1")
    assert approve(tmp_path, "--fingerprint", other) == 1
    assert approve(tmp_path, "--fingerprint", whole) == 0


def test_one_that_is_admitted_is_told_so(
    asked: JoinRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert approve(tmp_path, "--fingerprint", asked.fingerprint) == 0
    assert approve(tmp_path, "--fingerprint", asked.fingerprint) == 1
    assert "admitted already" in " ".join(capsys.readouterr().err.split())

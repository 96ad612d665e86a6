"""Whether a server can start: each thing that may be missing is red or amber, with its mend."""

import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec

from feat_fed.cli.main import run_app
from feat_fed.config import StudyConfig, load_study
from feat_fed.config.evaluation import EvaluationConfig
from feat_fed.findings import CheckResult
from feat_fed.joining import JoinRequest, Token
from feat_fed.processes import free_port
from feat_fed.report import RunStore
from feat_fed.report.run_store import lock_run
from feat_fed_server import check
from feat_fed_server.admissions import Admissions
from feat_fed_server.check import CHECKS, ServerCheckReport, ServerSubject, run_server_checks


@pytest.fixture
def federation(tmp_path: Path) -> Path:
    file = tmp_path / "federation.yaml"
    file.write_text(f"address: 127.0.0.1:{free_port()}\nsites: [a, b]\n")
    assert run_app(["provision", str(file)]) == 0
    return file


Look = Callable[..., dict[str, CheckResult]]


@pytest.fixture
def look(federation: Path, tmp_path: Path) -> Look:
    def results(study: StudyConfig | None = None, **named: object) -> dict[str, CheckResult]:
        subject = ServerSubject(
            **{"federation": federation, "study": study, "run": tmp_path / "runs" / "r", **named}  # type: ignore[arg-type]
        )
        return {each.id: each for each in run_server_checks(subject).results}

    return results


def ask_to_join(federation: Path, site: str) -> JoinRequest:
    admissions = Admissions(federation.parent)
    token = Token.parse(admissions.token_file(site).read_text())
    request = JoinRequest.make(token, ec.generate_private_key(ec.SECP384R1()))
    admissions.receive(request.model_dump_json().encode())
    return request


def test_a_check_that_fails_by_itself_is_red_and_the_others_go_on(
    look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise next(errors)

    errors = iter([PermissionError(13, "Permission denied", "/home/somebody"), KeyError("x")])
    monkeypatch.setattr(check, "require_free", fail)
    for told in (
        "this user may not read or write what the check looks at",
        "the check itself failed (KeyError)",
    ):
        found = look(load_study("demo"))
        assert (found["address"].status, found["address"].found) == ("red", told)
        assert found["disk"].status == "green"


def test_a_server_that_is_ready_is_green(federation: Path, look: Look) -> None:
    for site in ("a", "b"):
        Admissions(federation.parent).approve(ask_to_join(federation, site), replace=False)
    found = look(load_study("demo"))
    assert {each.id: each.status for each in found.values()} == dict.fromkeys(
        (each.id for each in CHECKS), "green"
    )


def test_who_is_missing_is_said_with_what_to_do(federation: Path, look: Look) -> None:
    ask_to_join(federation, "a")
    found = look()
    assert found["hospitals"].status == "amber"
    assert found["hospitals"].found == "0 of 2 admitted; ask to join: a; token given: b"
    assert "provision approve" in found["hospitals"].mend
    assert {found[each].status for each in ("run", "disk", "codec")} == {"amber"}
    tree = yaml.safe_load(federation.read_text())
    federation.write_text(yaml.safe_dump(tree | {"sites": ["a", "c"]}))
    assert "without a token: c" in look()["hospitals"].found
    tree = load_study("demo").model_dump() | {"sites": {"minimum": 3}}
    many = look(StudyConfig.model_validate(tree))["hospitals"]
    assert (many.status, many.mend) == (
        "red",
        "add sites to the federation's file, or lower sites.minimum",
    )


def test_certificates_that_lack_or_are_of_another_host_are_red(
    federation: Path, look: Look
) -> None:
    (federation.parent / "tls" / "server.key").chmod(0o644)
    assert "chmod 600 tls/server.key" in look()["permissions"].mend
    federation.write_text("address: elsewhere.example.org:1\nsites: [a, b]\n")
    found = look()
    assert found["certificates"].status == "red"
    assert "provision renew" in found["certificates"].mend
    assert "--listen" in found["address"].mend
    shutil.rmtree(federation.parent / "tls")
    assert "run `feat-fed provision`" in look()["certificates"].mend


def test_an_address_that_is_taken_is_red_unless_by_the_study_itself(
    federation: Path, look: Look, tmp_path: Path
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        assert look(listen=taken)["address"].status == "red"
        assert look(listen=f"127.0.0.1:{free_port()}")["address"].status == "green"
        with lock_run(tmp_path / "runs" / "r"):
            assert "is running" in look(listen=taken)["address"].found


def test_a_run_that_is_there_and_a_full_disk(
    look: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = load_study("demo")
    store = RunStore.create(tmp_path / "runs" / "r", study)
    assert look(study)["run"].found == "r goes on after round 0"
    store.write_summary(store.summary().model_copy(update={"rounds_done": study.rounds}))
    assert "is complete at 3 rounds" in look(study)["run"].found
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10**6))
    assert look(study)["disk"].status == "red"
    (store.root / "study.yaml").unlink()
    assert look(study)["run"].status == "red"


def test_what_the_evaluator_lacks_is_red(look: Look, tmp_path: Path) -> None:
    def evaluated(**named: object) -> CheckResult:
        config = EvaluationConfig.model_validate(named)
        return look(load_study("demo").model_copy(update={"evaluation": config}))["evaluator"]

    assert evaluated().found.startswith("evaluation.folder is missing")
    assert evaluated(folder=tmp_path / "nowhere").status == "red"
    network = {"i3d-torchscript": {"path": str(tmp_path / "no.pt"), "sha256": "0" * 64}}
    assert evaluated(folder=tmp_path, networks=network).status == "red"


def test_the_command_tells_a_federation_from_a_site_and_a_study(
    federation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["check", str(federation), "--runs", str(tmp_path / "runs")]
    assert run_app([*command, "--study", "demo", "--json"]) == 0
    told = capsys.readouterr().out
    assert ServerCheckReport.model_validate_json(told).status == "amber"
    assert str(tmp_path) not in told
    assert run_app(command) == 0
    assert "this server can start; look at what is amber" in capsys.readouterr().out
    assert run_app([*command, "--offline"]) == 1
    assert "--offline is of a site" in capsys.readouterr().err
    (tmp_path / "s.yaml").write_text("name: x\nrounds: 3\n")
    assert run_app(["check", str(tmp_path / "s.yaml")]) == 1
    assert "is a study: give the site's file" in capsys.readouterr().err

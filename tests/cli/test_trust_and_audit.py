"""``feat-fed site trust`` and ``feat-fed audit``."""

import json
from pathlib import Path

import pytest
import yaml

from feat_fed.audit import AuditLog
from feat_fed.audit.events import ClientStopped, TaskReceived
from feat_fed.cli.main import run_app
from feat_fed.wire import bundle

OTHER = "b" * 64


@pytest.fixture
def site(tmp_path: Path) -> Path:
    tree = "# ours\n" + yaml.safe_dump(
        {"name": "hospital-a", "data": {"paths": ["clips"]}, "store": "store"}
    )
    (tmp_path / "site.yaml").write_text(tree)
    return tmp_path / "site.yaml"


def log(site: Path) -> AuditLog:
    return AuditLog.of_site(site.parent / "store", "hospital-a")


def refused(site: Path) -> None:
    event = {
        "task_type": "flwr-clientapp",
        "bundle_sha256": OTHER,
        "bundle_bytes": 77,
        "decision": "refused",
        "code": "bundle",
    }
    log(site).append(TaskReceived.model_validate(event))


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    status = run_app([str(each) for each in arguments])
    told = capsys.readouterr()
    return status, told.out, told.err


def test_a_site_shows_approves_and_withdraws(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, own = site.read_text(), bundle()[1]
    _, told, _ = command(capsys, "site", "trust", site)
    assert f"  {own} (of this installation)" in told
    assert 'clientapp = "feat_fed_client.app:app"' in told
    assert "asked for nothing yet" in told
    refused(site)
    _, told, _ = command(capsys, "site", "trust", site)
    assert f"last asked for {OTHER}, of 77 bytes" in told
    assert f"feat-fed site trust SITE.YAML {OTHER}" in told
    assert command(capsys, "site", "trust", site, OTHER)[0] == 0
    _, told, _ = command(capsys, "site", "trust", site)
    assert f"  {OTHER}\n" in told and f"SITE.YAML {OTHER}" not in told
    command(capsys, "site", "trust", site, "--withdraw", own)
    _, _, told = command(capsys, "site", "trust", site, "--withdraw", OTHER)
    assert "nothing at all" in told
    assert site.read_text() == file


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["xyz"], "'xyz' is no SHA-256"), ([OTHER, "--withdraw", OTHER], "one of the two")],
)
def test_a_wrong_hash_is_said(
    arguments: list[str], told: str, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, error = command(capsys, "site", "trust", site, *arguments)
    assert status == 1
    assert told in error


def test_a_log_is_shown_by_the_sites_file_by_the_store_and_by_itself(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(site)
    log(site).append(ClientStopped(cause="refused"))
    store = site.parent / "store"
    for where in (site, store, store / "audit"):
        status, told, _ = command(capsys, "audit", "show", where)
        assert status == 0
        assert "log-began" in told and "cause=refused" in told
        assert "bundle_sha256=bbbbbbbbbbbb…" in told
    _, told, _ = command(capsys, "audit", "show", site, "--kind", "task-received", "--json")
    [line] = map(json.loads, told.splitlines())
    assert line["event"]["bundle_sha256"] == OTHER
    status, told, note = command(capsys, "audit", "show", site, "--kind", "leavin")
    assert (status, told) == (0, "") and "client-stopped, log-began, task-received" in note
    _, told, _ = command(capsys, "audit", "show", site, "--last", 1)
    assert "client-stopped" in told and "log-began" not in told


def test_a_head_is_printed_noted_and_held_against_the_log(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(site)
    status, head, told = command(capsys, "audit", "verify", site)
    assert (status, len(head.strip())) == (0, 64)
    assert "2 lines" in told
    log(site).append(ClientStopped(cause="stopped"))
    assert command(capsys, "audit", "verify", site, "--head", head.strip())[0] == 0
    file = site.parent / "store" / "audit" / "000001.jsonl"
    file.write_bytes(file.read_bytes().splitlines(keepends=True)[0])
    status, told, _ = command(capsys, "audit", "verify", site, "--head", head.strip(), "--json")
    assert status == 1
    assert len(json.loads(told)["problems"]) == 2


def test_another_sites_log_is_a_problem_in_its_first_line(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    AuditLog.of_site(site.parent / "store", "hospital-b").append(ClientStopped(cause="stopped"))
    status, _, told = command(capsys, "audit", "verify", site)
    assert status == 1
    assert "000001.jsonl:1: it is the log of hospital-b, not of hospital-a" in told


def test_where_there_is_no_log_it_is_said(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for where, why in ((site, "has no audit log yet"), (tmp_path / "absent", "does not exist")):
        status, _, told = command(capsys, "audit", "verify", where)
        assert status == 1
        assert why in told

"""``feat-fed privacy status`` and ``verify``."""

import json
from pathlib import Path

import pytest
import yaml

from feat_fed.audit import AuditLog
from feat_fed.audit.events import ClientStopped
from feat_fed.cli.main import run_app
from feat_fed.privacy.accounting import NoisySteps, prv_epsilon, rdp_epsilon
from feat_fed.privacy.ledger import Budget, Ledger
from feat_fed.privacy.ledger_events import Reserved


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("os.fsync", lambda _: None)
    tree = {
        "name": "hospital-a",
        "data": {"paths": ["clips"]},
        "store": "store",
        "privacy": {"max_epsilon": 8},
    }
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(tree))
    return tmp_path / "site.yaml"


def ledger(site: Path) -> Ledger:
    return Ledger(site.parent / "store", "hospital-a")


def reserve(site: Path, study: str, round_number: int, *, settle: bool = True) -> None:
    of = ledger(site).reserve(
        Reserved(
            study_id=("1" if study == "echo" else "2") * 32,
            study=study,
            round=round_number,
            noise_multiplier=1.1,
            sample_rate=0.01,
            steps=100,
        ),
        budget=Budget(None, 1e-5),
    )
    if settle:
        ledger(site).settle(of, steps=100)


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    status = run_app([str(each) for each in arguments])
    told = capsys.readouterr()
    return status, told.out, told.err


def test_before_the_first_round_nothing_is_spent(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("status", "verify"):
        status, _, told = command(capsys, "privacy", name, site)
        assert status == 0 and "nothing is spent" in told
    _, told, _ = command(capsys, "privacy", "status", site, "--json")
    tree = json.loads(told)
    assert (tree["epsilon"], tree["left"], tree["studies"]) == (0.0, 8.0, [])
    assert not (site.parent / "store" / "privacy").exists()


def test_what_is_spent_is_shown_by_study_and_in_all(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2):
        reserve(site, "echo", number)
    reserve(site, "larynx", 1, settle=False)
    status, told, _ = command(capsys, "privacy", "status", site, "--json")
    tree = json.loads(told)
    steps = [NoisySteps(1.1, 0.01, 300)]
    assert status == 0
    assert tree["epsilon"] == rdp_epsilon(steps, delta=1e-5)
    assert tree["epsilon_prv"] == prv_epsilon(steps, delta=1e-5)
    assert tree["left"] == 8 - tree["epsilon"]
    found = [(each["study"], each["rounds"], each["unsettled"]) for each in tree["studies"]]
    assert found == [("echo", 2, 0), ("larynx", 1, 1)]
    _, told, _ = command(capsys, "privacy", "status", site)
    assert f"all studies together: {tree['epsilon']:.3f} by RDP" in told
    assert "not settled (under way, or ended by a kill): 1; they count with all" in told
    assert f"left of privacy.max_epsilon 8: {tree['left']:.3f}" in told


def test_a_head_is_noted_and_held_against_the_ledger(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reserve(site, "echo", 1)
    status, head, told = command(capsys, "privacy", "verify", site)
    assert status == 0 and len(head.strip()) == 64
    assert "privacy ledger: 3 lines" in told and "head of the privacy ledger: line 3" in told
    reserve(site, "echo", 2)
    assert command(capsys, "privacy", "verify", site, "--head", head.strip())[0] == 0
    status, told, _ = command(capsys, "privacy", "verify", site, "--head", "0" * 64, "--json")
    assert status == 1
    assert "does not hold the noted line" in json.loads(told)["ledger"]["problems"][0]


def test_a_damaged_ledger_is_told_with_the_line_and_what_to_do(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reserve(site, "echo", 1)
    path = ledger(site).folder / "000001.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"steps":100', b'"steps":001', 1))
    for name in ("status", "verify"):
        status, _, told = command(capsys, "privacy", name, site)
        assert status == 1
        assert "PROBLEM: the privacy ledger: 000001.jsonl:2: the line is damaged" in told
        assert "docs/privacy.md" in told


def test_what_a_damaged_ledger_says_is_not_told_as_all_that_was_spent(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reserve(site, "echo", 1)
    path = ledger(site).folder / "000001.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"steps":100', b'"steps":001', 1))
    status, told, _ = command(capsys, "privacy", "status", site)
    assert status == 1
    assert "in the lines that can be read; it may be more" in told
    assert "left of privacy.max_epsilon 8: unknown" in told
    assert json.loads(command(capsys, "privacy", "status", site, "--json")[1])["left"] is None


def test_the_audit_logs_damage_is_accepted_by_hand(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = AuditLog.of_site(site.parent / "store", "hospital-a")
    log.append(ClientStopped(cause="stopped"))
    log.append(ClientStopped(cause="stopped"))
    reserve(site, "echo", 1)
    path = log.folder / "000001.jsonl"
    path.write_bytes(path.read_bytes().replace(b"stopped", b"Stopped", 1))
    assert command(capsys, "privacy", "verify", site)[0] == 1
    status, _, told = command(capsys, "privacy", "verify", site, "--accept-audit")
    assert status == 0
    assert "accepted of the audit log: 000001.jsonl:2: the line is damaged" in told
    assert "note: accepted by a person here" in told
    _, _, told = command(capsys, "privacy", "verify", site, "--accept-audit")
    assert "accepted of the audit log: nothing" in told

"""The privacy ledger: it never counts too little, whatever kills, damages or replaces it."""

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from feat_fed.audit import AuditLog, Head, Noted
from feat_fed.audit import log as log_module
from feat_fed.audit.events import Leaving
from feat_fed.errors import BudgetError, LedgerError, StorageError
from feat_fed.privacy.accounting import NoisySteps, rdp_epsilon
from feat_fed.privacy.anchors import accept_audit, read_books
from feat_fed.privacy.ledger import Budget, Ledger
from feat_fed.privacy.ledger_events import LEDGER_EVENTS, Reserved
from feat_fed.privacy.spent import Reservation
from feat_fed.protocol import LedgerHead

STUDY, OTHER = "1" * 32, "2" * 32
FREE = Budget(None, 1e-5)
NAMES_A_LINE = re.compile(r"(jsonl|json):\d+|line \d+")


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the disk, which is waited for at each line."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path, "hospital-a")


def wanted(round_number: int = 1, **changes: Any) -> Reserved:
    fields = {
        "study_id": STUDY,
        "study": "echo",
        "round": round_number,
        "noise_multiplier": 1.1,
        "sample_rate": 0.01,
        "steps": 100,
    }
    return Reserved.model_validate(fields | changes)


def trained(ledger: Ledger, round_number: int, *, steps: int = 100, **changes: Any) -> Reservation:
    """A round from its reservation to the update on its way out."""
    of = ledger.reserve(wanted(round_number, **changes), budget=FREE)
    ledger.settle(of, steps=steps)
    study_id = of.reserved.study_id
    ledger.release(study_id, round_number, steps=steps, update_sha256=f"{round_number:064d}")
    return of


def steps_of(ledger: Ledger) -> int:
    return sum(each.steps for each in ledger.read().history())


def file_of(ledger: Ledger) -> Path:
    return ledger.folder / "000001.jsonl"


def kinds(ledger: Ledger) -> list[str]:
    rows = file_of(ledger).read_bytes().splitlines()
    return [json.loads(each)["event"]["kind"] for each in rows]


def test_a_round_is_reserved_settled_and_released_and_counts_what_was_taken(
    ledger: Ledger,
) -> None:
    trained(ledger, 1)
    trained(ledger, 2, steps=60)
    assert kinds(ledger) == ["ledger-began", *["reserved", "settled", "released"] * 2]
    steps = [NoisySteps(1.1, 0.01, 160)]
    assert ledger.read().epsilon(delta=1e-5) == rdp_epsilon(steps, delta=1e-5)


def test_the_published_settings_in_a_hundred_rounds_spend_what_is_published(
    tmp_path: Path, ledger: Ledger
) -> None:
    """Opacus's and dp-accounting's 5.632 and 5.203; two studies spend as one does."""
    for number in range(1, 51):
        trained(ledger, number, study_id=(STUDY, OTHER)[number % 2])
    restarted = Ledger(tmp_path, "hospital-a")
    for number in range(51, 101):
        trained(restarted, number)
    found = restarted.read()
    assert found.epsilon(delta=1e-5) == pytest.approx(5.632, abs=1e-3)
    assert sum(each.steps for each in found.by_study()) == 10_000
    both = [each.epsilon(delta=1e-5) for each in found.by_study()]
    assert max(both) < 5.632 < sum(both)


def test_a_reservation_that_is_not_settled_counts_in_full_and_is_taken_over_by_its_round_alone(
    ledger: Ledger,
) -> None:
    first = ledger.reserve(wanted(1), budget=FREE)
    assert steps_of(ledger) == 100
    mark = LedgerHead(line=7, hash="0" * 64)  # the audit log has grown since
    assert ledger.reserve(wanted(1, audit=mark), budget=FREE).line == first.line
    for other in (
        wanted(2),
        wanted(1, study_id=OTHER),
        wanted(1, noise_multiplier=1.2),
        wanted(1, sample_rate=0.02),
        wanted(1, steps=99),
    ):
        assert ledger.reserve(other, budget=FREE).line != first.line
    assert steps_of(ledger) == 599


def test_a_settled_round_that_is_trained_again_counts_again(ledger: Ledger) -> None:
    first = trained(ledger, 1)
    second = ledger.reserve(wanted(1), budget=FREE)
    assert second.line != first.line
    assert steps_of(ledger) == 200
    with pytest.raises(LedgerError, match="is not settled"):
        ledger.release(STUDY, 1, steps=100, update_sha256="a" * 64)


def test_nothing_is_settled_twice_or_with_more_steps_than_were_reserved(ledger: Ledger) -> None:
    of = ledger.reserve(wanted(), budget=FREE)
    with pytest.raises(LedgerError, match="more steps"):
        ledger.settle(of, steps=101)
    ledger.settle(of, steps=100)
    before = file_of(ledger).read_bytes()
    with pytest.raises(LedgerError, match="settled twice"):
        ledger.settle(of, steps=1)
    with pytest.raises(LedgerError, match="no reservation"):
        ledger.settle(Reservation(1, of.reserved), steps=1)
    assert file_of(ledger).read_bytes() == before


def test_an_update_leaves_of_a_settled_round_alone_and_once_in_the_ledger(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="not in the privacy ledger"):
        ledger.release(STUDY, 1, steps=100, update_sha256="a" * 64)
    trained(ledger, 1)
    size = file_of(ledger).stat().st_size
    again = ledger.release(STUDY, 1, steps=100, update_sha256=f"{1:064d}")
    assert file_of(ledger).stat().st_size == size
    assert again.head is not None and again.head.sequence == 4
    with pytest.raises(LedgerError, match=r"99 steps, and line 2 .* settled with 100"):
        ledger.release(STUDY, 1, steps=99, update_sha256=f"{1:064d}")


def test_a_budget_is_of_all_studies_and_what_would_exceed_it_is_not_reserved(
    ledger: Ledger,
) -> None:
    trained(ledger, 1, steps=100, study_id=OTHER)
    one = ledger.read().epsilon(delta=1e-5)
    two = ledger.read().epsilon(delta=1e-5, planned=[NoisySteps(1.1, 0.01, 100)])
    before = file_of(ledger).read_bytes()
    with pytest.raises(BudgetError, match=re.escape(f"from {one:.3f} to {two:.3f} (delta")):
        ledger.reserve(wanted(1), budget=Budget(two * 0.999, 1e-5))
    assert file_of(ledger).read_bytes() == before
    tight = Budget(two, 1e-5)
    first = ledger.reserve(wanted(1), budget=tight)
    assert ledger.reserve(wanted(1), budget=tight).line == first.line  # taken over, not added
    with pytest.raises(BudgetError):
        ledger.reserve(wanted(1), budget=Budget(one, 1e-5))  # that was lowered meanwhile


# --- kills ---------------------------------------------------------------------------------


def die_at(write: int, cut: float, of: dict[str, Callable[..., Any]]) -> None:
    """Let this process be killed in its n-th write, with that share of it on the disk."""
    writes = 0

    def append(path: Path, data: bytes) -> None:
        nonlocal writes
        if writes == write:
            with path.open("ab", buffering=0) as file:
                file.write(data[: int(cut * len(data))])
            os.kill(os.getpid(), signal.SIGKILL)
        writes += 1
        of["append"](path, data)

    def write_head(folder: Path, head: Head) -> None:
        nonlocal writes
        if writes == write:
            os.kill(os.getpid(), signal.SIGKILL)
        writes += 1
        of["head"](folder, head)

    log_module._append, log_module._write_head = append, write_head


def rounds_until_killed(store: Path, kept: Path, write: int, cut: float) -> bool:
    """Train two rounds in a process that is killed; return whether it lived."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            die_at(write, cut, {"append": log_module._append, "head": log_module._write_head})
            ledger = Ledger(store, "hospital-a")
            for number in (1, 2):
                if (kept / f"{number}").exists():  # the spool has it
                    continue
                of = ledger.reserve(wanted(number), budget=FREE)
                (kept / f"try-{number}-{os.getpid()}").touch()
                ledger.settle(of, steps=100)
                (kept / f"{number}").touch()  # from here on it is kept, and may leave
                ledger.release(STUDY, number, steps=100, update_sha256=f"{number:064d}")
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_kill_9_at_any_write_loses_no_step_that_was_kept(tmp_path: Path) -> None:
    """At each write of two rounds, with half of the line there, or all but the line feed."""
    most = 0
    for write in range(14):  # the first line, and lines and heads of three events a round
        is_head = write in range(2, 13, 2)
        for cut in (0.5,) if is_head else (0.5, 0.999):
            store, kept = tmp_path / f"{write}-{cut}", tmp_path / f"{write}-{cut}-kept"
            kept.mkdir()
            lived = rounds_until_killed(store, kept, write, cut)
            assert lived == (write == 13)
            counted, done = steps_of(Ledger(store, "hospital-a")), len(list(kept.glob("?")))
            assert 100 * done <= counted <= 100 * (done + 1), (write, cut)
            assert lived or rounds_until_killed(store, kept, 999, 0)  # the next process
            counted, tries = steps_of(Ledger(store, "hospital-a")), len(list(kept.glob("try-*")))
            assert 200 <= counted <= 100 * tries, (write, cut)
            most = max(most, counted)
    assert most == 300  # killed between the line that settles a round and its spool


def test_a_torn_line_is_closed_off_and_what_was_before_it_counts(ledger: Ledger) -> None:
    trained(ledger, 1)
    with file_of(ledger).open("ab") as file:
        file.write(b'{"sequence":5,"at":"2026')
    assert steps_of(ledger) == 100
    trained(ledger, 2)
    assert kinds_whole(ledger)[4:6] == ["torn-line-closed", "reserved"]
    assert steps_of(ledger) == 200


def kinds_whole(ledger: Ledger) -> list[str]:
    return [str(each.event["kind"]) for each in log_module.lines(ledger.folder)]


def test_a_full_disk_reserves_nothing_and_stops_the_round(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(ledger, 1)
    before = file_of(ledger).read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"the privacy ledger .* No space left"):
        ledger.reserve(wanted(2), budget=FREE)
    assert file_of(ledger).read_bytes() == before


# --- damage, rollback, copies --------------------------------------------------------------


def refused(ledger: Ledger, *noted: Noted) -> str:
    """Return why the ledger is not believed, which has to name a line; it stays as it is."""
    before = {each.name: each.read_bytes() for each in ledger.folder.iterdir()}
    with pytest.raises(LedgerError) as error:
        ledger.reserve(wanted(9), budget=FREE, noted=noted)
    assert {each.name: each.read_bytes() for each in ledger.folder.iterdir()} == before
    assert NAMES_A_LINE.search(str(error.value)), error.value
    return str(error.value)


@pytest.mark.parametrize("name", ["000001.jsonl", "head.json"])
def test_one_byte_that_was_altered_anywhere_is_refused_with_the_lines_number(
    name: str, ledger: Ledger
) -> None:
    trained(ledger, 1)
    path = ledger.folder / name
    whole = path.read_bytes()
    line = 1
    for place, byte in enumerate(whole):
        if place % 3 and byte != ord("\n"):
            continue
        path.write_bytes(whole[:place] + bytes([byte ^ 1]) + whole[place + 1 :])
        with pytest.raises(LedgerError) as error:
            ledger.read()
        assert NAMES_A_LINE.search(str(error.value)), error.value
        if name == "000001.jsonl" and byte != ord("\n"):
            assert f"000001.jsonl:{line}: the line is damaged" in str(error.value)
        line += byte == ord("\n")
    refused(ledger)
    path.write_bytes(whole)
    ledger.read()


def test_a_line_that_was_removed_added_doubled_or_forged_is_refused(ledger: Ledger) -> None:
    trained(ledger, 1)
    trained(ledger, 2)
    rows = file_of(ledger).read_bytes().splitlines(keepends=True)
    for changed in (rows[:2] + rows[3:], rows[:3] + rows[2:], [rows[0], *rows[2:]], rows[1:]):
        file_of(ledger).write_bytes(b"".join(changed))
        refused(ledger)


def test_an_oldest_file_that_was_taken_away_is_refused(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "SEGMENT_BYTES", 1000)
    for number in range(1, 5):
        trained(ledger, number)
    assert (ledger.folder / "000002.jsonl").exists()
    assert steps_of(ledger) == 400
    file_of(ledger).unlink()
    assert "what came before is gone" in refused(ledger)


def noted(ledger: Ledger, by: str = "the study's server") -> Noted:
    head = ledger.read().head
    assert head is not None
    return Noted(by, head)


def test_a_ledger_that_was_put_back_is_refused_by_what_others_have_seen(
    tmp_path: Path, ledger: Ledger
) -> None:
    trained(ledger, 1)
    shutil.copytree(ledger.folder, tmp_path / "backup")
    trained(ledger, 2)
    seen = noted(ledger)
    ledger.read([seen])
    shutil.rmtree(ledger.folder)
    shutil.copytree(tmp_path / "backup", ledger.folder)
    ledger.read()
    assert "ends with line 4, and the study's server has seen line 7" in refused(ledger, seen)
    trained(ledger, 2, steps=1)  # and went on from there
    assert "line 7 is not the one that the study's server has seen" in refused(ledger, seen)
    shutil.rmtree(ledger.folder)
    with pytest.raises(LedgerError, match="there is none, and the study's server has seen its"):
        ledger.reserve(wanted(3), budget=FREE, noted=[seen])


def test_another_sites_ledger_is_refused_and_so_is_a_new_one_of_the_same_name(
    tmp_path: Path, ledger: Ledger
) -> None:
    trained(ledger, 1)
    seen = noted(ledger)
    for name, why in (
        ("hospital-b", "000001.jsonl:1: it is the log of hospital-b, not of hospital-a"),
        ("hospital-a", "line 4 is not the one that the study's server has seen"),
    ):
        other = Ledger(tmp_path / f"other-{name}", name)
        trained(other, 1)
        shutil.rmtree(ledger.folder)
        shutil.copytree(other.folder, ledger.folder)
        assert why in refused(ledger, seen)


def leave(store: Path, ledger: Ledger) -> None:
    """Note an update in the audit log, as the last door does."""
    head = ledger.read().head
    assert head is not None
    left = Leaving(message="update", ledger_line=head.sequence, ledger_hash=head.hash)
    AuditLog.of_site(store, "hospital-a").append(left)


def with_audit(store: Path, ledger: Ledger, rounds: int) -> None:
    """Rounds of a site with both logs, which note each other."""
    for number in range(1, rounds + 1):
        seen = AuditLog.of_site(store, "hospital-a").append(Leaving(message="refusal"))
        mark = LedgerHead(line=seen.sequence, hash=seen.hash)
        trained(ledger, number, audit=mark)
        leave(store, ledger)


@pytest.mark.parametrize("back", ["audit", "privacy"])
def test_each_log_shows_that_the_other_was_put_back(
    back: str, tmp_path: Path, ledger: Ledger
) -> None:
    with_audit(tmp_path, ledger, 1)
    shutil.copytree(tmp_path / back, tmp_path / "backup")
    with_audit(tmp_path, ledger, 2)
    assert not read_books(tmp_path, "hospital-a").problems
    shutil.rmtree(tmp_path / back)
    shutil.copytree(tmp_path / "backup", tmp_path / back)
    with pytest.raises(LedgerError, match=r"it ends with line \d, and the .* has seen line \d"):
        read_books(tmp_path, "hospital-a").require()
    shutil.rmtree(tmp_path / back)
    with pytest.raises(LedgerError, match=r"(there is none|it is not there), and the"):
        read_books(tmp_path, "hospital-a").require()


def test_one_byte_of_the_audit_log_or_another_sites_is_refused_with_the_lines_number(
    tmp_path: Path, ledger: Ledger
) -> None:
    with_audit(tmp_path, ledger, 1)
    path = tmp_path / "audit" / "000001.jsonl"
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(LedgerError) as error:
            read_books(tmp_path, "hospital-a").require()
        assert "the audit log: " in str(error.value)
        assert NAMES_A_LINE.search(str(error.value)), error.value
    shutil.rmtree(tmp_path / "audit")
    AuditLog.of_site(tmp_path, "hospital-b").append(Leaving(message="refusal"))
    with pytest.raises(LedgerError, match=r"000001.jsonl:1: it is the log of hospital-b"):
        read_books(tmp_path, "hospital-a").require()


def test_a_person_may_let_the_audit_logs_damage_pass_and_the_ledgers_never(
    tmp_path: Path, ledger: Ledger
) -> None:
    with_audit(tmp_path, ledger, 2)
    path = tmp_path / "audit" / "000001.jsonl"
    rows = path.read_bytes().splitlines(keepends=True)
    changed = rows[1].replace(b"refusal", b"Refusal")
    path.write_bytes(b"".join([rows[0], changed, *rows[2:-1]]))  # and its end is missing
    books = read_books(tmp_path, "hospital-a")
    assert len(books.problems) == 3  # the ledger has seen the line that was changed
    accept_audit(tmp_path, "hospital-a")
    with_audit(tmp_path, ledger, 1)
    books = read_books(tmp_path, "hospital-a")
    assert not books.problems and "accepted by a person here" in str(books.audit)
    assert accept_audit(tmp_path, "hospital-a") == ()
    path.write_bytes(path.read_bytes().replace(rows[2][:40], b"x" * 40))  # more of it
    assert "000001.jsonl:3" in read_books(tmp_path, "hospital-a").problems[0]
    shutil.rmtree(tmp_path / "audit")
    accept_audit(tmp_path, "hospital-a")
    with_audit(tmp_path, ledger, 1)
    assert not read_books(tmp_path, "hospital-a").problems
    file_of(ledger).write_bytes(file_of(ledger).read_bytes().replace(b'"steps":100', b'"steps":1'))
    with pytest.raises(LedgerError, match=r"the privacy ledger: 000001\.jsonl:2"):
        accept_audit(tmp_path, "hospital-a")


@pytest.mark.parametrize(
    "tree",
    [
        {"kind": "reserved", "study_id": STUDY, "study": "x", "round": 1, "patients": 3},
        {"kind": "settled", "reservation": 2, "steps": 5, "loss": 0.1},
        {"kind": "released", "reservation": 2, "update_sha256": "patient 4711"},
        {"kind": "leaving", "message": "refusal"},
    ],
)
def test_nothing_that_is_not_foreseen_can_be_said(tree: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        LEDGER_EVENTS.validate_python(tree)

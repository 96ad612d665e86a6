"""The audit log: its chain, and what becomes of it when it is killed, damaged or cut off."""

import hashlib
import json
import multiprocessing
import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from feat_fed.audit import AuditLog, lines, verify
from feat_fed.audit import log as log_module
from feat_fed.audit.events import EVENTS, ClientStopped, RoundStarted
from feat_fed.audit.line import read_line
from feat_fed.errors import AuditError, StorageError

STOPPED = ClientStopped(cause="stopped")
FIRST = "000001.jsonl"


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the disk, which is waited for at each line."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    return AuditLog.of_site(tmp_path, "hospital-a")


def event(number: int) -> RoundStarted:
    return RoundStarted(round=number)


def filled(log: AuditLog, events: int = 5) -> Path:
    for number in range(events):
        log.append(event(number))
    return log.folder / FIRST


def kinds(log: AuditLog) -> list[str]:
    return [line.event["kind"] for line in lines(log.folder)]


def test_the_first_line_names_the_owner_and_the_chain_can_be_checked_by_hand(log: AuditLog) -> None:
    path = filled(log, 2)
    first, second, _ = path.read_bytes().splitlines()
    assert json.loads(first)["event"]["name"] == "hospital-a"
    body, _, rest = second.rpartition(b',"hash":"')
    assert hashlib.sha256(body + b"}").hexdigest() == rest[:64].decode()
    assert json.loads(second)["previous"] == json.loads(first)["hash"]


def test_a_log_without_faults_has_no_problems_and_the_head_that_was_told(log: AuditLog) -> None:
    filled(log)
    head = log.append(STOPPED)
    verdict = verify(log.folder)
    assert (verdict.lines, verdict.head) == (7, head)
    assert not verdict.problems and not verdict.notes


def test_a_log_that_was_killed_at_any_byte_goes_on_and_drops_nothing(
    tmp_path: Path, log: AuditLog
) -> None:
    """Each way of cutting off the last line, the first one's too."""
    log.append(event(1))
    whole = (log.folder / FIRST).read_bytes()
    for size in range(len(whole)):
        copy = AuditLog.of_site(tmp_path / str(size), "hospital-a")
        copy.folder.mkdir(parents=True)
        (copy.folder / FIRST).write_bytes(whole[:size])
        copy.append(STOPPED)
        after = (copy.folder / FIRST).read_bytes()
        assert after.startswith(whole[:size])
        verdict = verify(copy.folder)
        assert not verdict.problems, (size, verdict)
        assert kinds(copy)[-1] == "client-stopped"
        torn = size and whole[size - 1 : size] != b"\n" and read_line(whole[:size]) is None
        is_whole = read_line(whole[:size].split(b"\n")[-1]) is not None
        assert ("torn-line-closed" in kinds(copy)) == bool(torn and not is_whole), size
        assert "log-began" in kinds(copy)


def test_a_kill_while_a_torn_line_is_closed_off_is_closed_off_too(log: AuditLog) -> None:
    path = filled(log)
    path.write_bytes(path.read_bytes() + b'{"sequence":7,"at')
    before = path.read_bytes()
    log.append(STOPPED)
    closing = path.read_bytes()[len(before) :].split(b"\n")[1]
    path.write_bytes(before + b"\n" + closing[:40])
    assert "torn line" in verify(log.folder).notes[0]
    (log.folder / "head.json").unlink()
    log.append(STOPPED)
    verdict = verify(log.folder)
    assert not verdict.problems
    assert kinds(log)[-2:] == ["torn-line-closed", "client-stopped"]


def test_a_changed_line_is_found_wherever_it_is(log: AuditLog) -> None:
    path = filled(log)
    content = path.read_bytes()
    raw = content.splitlines(keepends=True)
    for number in range(len(raw)):
        changed = raw[number].replace(b'"at":"20', b'"at":"19', 1)
        path.write_bytes(b"".join([*raw[:number], changed, *raw[number + 1 :]]))
        assert verify(log.folder).problems[0] == f"{FIRST}:{number + 1}: the line is damaged"


def test_a_removed_a_doubled_and_a_forged_line_break_the_chain(log: AuditLog) -> None:
    path = filled(log)
    raw = path.read_bytes().splitlines(keepends=True)
    forged = json.loads(raw[3])
    forged["event"]["round"] = 77
    del forged["hash"]
    body = json.dumps(forged, separators=(",", ":")).encode()
    digest = hashlib.sha256(body).hexdigest()
    new = body[:-1] + f',"hash":"{digest}"}}\n'.encode()
    assert read_line(new[:-1]) is not None
    for content in ([*raw[:2], *raw[3:]], [*raw[:3], *raw[2:]], [*raw[:3], new, *raw[4:]]):
        path.write_bytes(b"".join(content))
        assert any("does not follow" in each for each in verify(log.folder).problems)


def test_damage_at_the_end_stays_as_found_and_writing_goes_on_in_a_new_file(
    log: AuditLog,
) -> None:
    path = filled(log)
    raw = path.read_bytes().splitlines(keepends=True)
    damaged = b"".join([*raw[:-1], raw[-1].replace(b"round", b"r0und")])
    path.write_bytes(damaged)
    log.append(STOPPED)
    log.append(STOPPED)
    assert path.read_bytes() == damaged
    began = [each.event for each in lines(log.folder) if each.event["kind"] == "segment-began"]
    assert began[0]["damaged_bytes"] == len(raw[-1])
    assert f"{FIRST}:6: the line is damaged" in verify(log.folder).problems
    assert kinds(log)[-2:] == ["client-stopped"] * 2


def test_a_removed_end_is_seen_by_the_head_file_by_a_noted_head_and_by_the_next_line(
    log: AuditLog,
) -> None:
    path = filled(log)
    head = log.append(STOPPED)
    raw = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(raw[:-2]))
    assert "its end is missing" in verify(log.folder).problems[0]
    (noted := log.folder / "head.json").rename(log.folder / "kept")
    assert not verify(log.folder).problems
    assert "noted line" in verify(log.folder, noted_hash=head.hash).problems[0]
    (log.folder / "kept").rename(noted)
    log.append(STOPPED)
    assert "were missing when it was written" in verify(log.folder).problems[0]


def test_a_head_noted_long_ago_is_still_held(log: AuditLog) -> None:
    head = log.append(STOPPED)
    filled(log)
    assert not verify(log.folder, noted_hash=head.hash).problems


def test_files_stay_small_and_chained(log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "SEGMENT_BYTES", 1000)
    filled(log, 20)
    files = sorted(log.folder.glob("*.jsonl"))
    assert len(files) > 3
    assert max(each.stat().st_size for each in files) < 1400
    assert not verify(log.folder).problems
    files[0].unlink()  # archived
    verdict = verify(log.folder)
    assert not verdict.problems
    assert "begins with 000002.jsonl" in verdict.notes[0]
    files[2].unlink()
    assert any("files are missing" in each for each in verify(log.folder).problems)


def test_a_file_that_a_kill_left_empty_is_begun(
    log: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(log)
    (log.folder / "000002.jsonl").touch()
    log.append(STOPPED)
    assert kinds(log)[-2:] == ["segment-began", "client-stopped"]
    assert not verify(log.folder).problems


def _append_many(folder: str) -> None:
    log = AuditLog.of_site(Path(folder), "hospital-a")
    for _ in range(10):
        log.append(STOPPED)


def test_several_processes_append_one_after_the_other(tmp_path: Path, log: AuditLog) -> None:
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_append_many, args=(str(tmp_path),)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    verdict = verify(log.folder)
    assert verdict.lines == 41
    assert not verdict.problems and not verdict.notes


def test_a_full_disk_is_an_error_and_leaves_the_log_whole(
    log: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = filled(log)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="No space left on device"):
            log.append(STOPPED)
    assert path.read_bytes() == before
    log.append(STOPPED)
    assert not verify(log.folder).problems


def test_no_log_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="no audit log"):
        verify(tmp_path)


@pytest.mark.parametrize(
    "tree",
    [
        {"kind": "client-stopped", "cause": "patient 4711"},
        {"kind": "round-started", "round": 1, "text": "x"},
        {"kind": "site-revoked", "site": "a", "code": "Müller, 1970"},
        {"kind": "anything"},
    ],
)
def test_nothing_that_is_not_foreseen_can_be_said(tree: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        EVENTS.validate_python(tree)

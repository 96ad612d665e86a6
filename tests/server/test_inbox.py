from pathlib import Path

import pytest
import torch
from torch import Tensor

from aggregating import filled_inbox
from feat_fed.protocol import Report
from feat_fed.report.records import RoundRecord
from feat_fed_server.inbox import Inbox, clear_inboxes

BASE = {"w": torch.zeros(3), "b": torch.ones(2), "n": torch.tensor([1])}
RECORD = RoundRecord(
    round=1,
    started_at="2026-01-31T12:00:00+00:00",
    seconds=1,
    train_loss=1.0,
    heldout_loss=0.5,
    sites=(),
)


def update(site: str, value: float = 2.0) -> tuple[Report, dict[str, Tensor]]:
    told = {"study_id": "0" * 32, "round": 1, "task": "train", "site": site, "outcome": "ok"}
    weights = {"w": torch.full((3,), value), "b": torch.ones(2), "n": torch.tensor([7])}
    return Report.model_validate({**told, "examples": 1, "steps": 1}), weights


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    filled_inbox(tmp_path / "inbox", [update("b", 3.0), update("a")], BASE)
    return tmp_path / "inbox"


def test_what_was_put_is_there_for_another_process(folder: Path) -> None:
    again = Inbox(folder)
    assert [each.report.site for each in again.arrived()] == ["a", "b"]
    assert again.arrived()[0].norm == pytest.approx(12**0.5)
    assert list(again.read("b", ["w"])) == ["w"]
    assert torch.equal(again.read("b", ["w"])["w"], torch.full((3,), 3.0))


def flip_last(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        flip_last,
        lambda path: path.write_bytes(path.read_bytes()[:100]),
        lambda path: path.write_bytes(b""),
        lambda path: path.rename(path.with_stem("c")),
    ],
    ids=["flipped", "cut", "empty", "another site's"],
)
def test_a_damaged_or_foreign_file_is_removed_and_the_others_stay(
    damage: object, folder: Path
) -> None:
    damage(folder / "a.safetensors")  # type: ignore[operator]
    again = Inbox(folder)
    assert [each.report.site for each in again.arrived()] == ["b"]
    assert [each.name for each in folder.iterdir()] == ["b.safetensors"]


def test_a_closed_inbox_tells_its_record_as_long_as_all_is_there(folder: Path) -> None:
    inbox = Inbox(folder)
    assert inbox.closed() is None
    inbox.close(RECORD, {"sites": {}}, "ab" * 32)
    closed = Inbox(folder).closed()
    assert closed is not None
    assert (closed.record, closed.standing) == (RECORD, {"sites": {}})
    assert closed.noise_seed == "ab" * 32
    assert (folder / "closed.json").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    flip_last(folder / "a.safetensors")
    assert Inbox(folder).closed() is None


def test_a_damaged_note_of_closing_is_no_note(folder: Path) -> None:
    Inbox(folder).close(RECORD, {"sites": {}})
    (folder / "closed.json").write_text("{")
    assert Inbox(folder).closed() is None


def test_a_discarded_update_is_gone(folder: Path) -> None:
    Inbox(folder).discard("a")
    assert [each.report.site for each in Inbox(folder).arrived()] == ["b"]


def test_parts_of_a_killed_process_are_removed(folder: Path) -> None:
    (folder / ".a.999999999-0123abcd.safetensors").touch()
    Inbox(folder)
    assert sorted(each.name for each in folder.iterdir()) == ["a.safetensors", "b.safetensors"]


def test_inboxes_of_other_rounds_are_removed(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        Inbox(tmp_path / f"round-{number:04d}")
    clear_inboxes(tmp_path, keep=[tmp_path / "round-0002"])
    assert [each.name for each in tmp_path.iterdir()] == ["round-0002"]
    clear_inboxes(tmp_path)
    assert not list(tmp_path.iterdir())

"""What a site remembers of its rounds."""

from pathlib import Path

import pytest

from feat_fed.protocol import Report, Verdict
from feat_fed.report.live import SiteLive
from feat_fed_client import history
from feat_fed_client.history import note_idle, note_report, note_verdict, past_rounds


def report(number: int) -> Report:
    return Report(
        study_id="0" * 32,
        round=number,
        task="train",
        site="a",
        outcome="ok",
        examples=3,
        steps=12,
        ended_by="hours",
        train_loss=0.5,
    )


def test_reports_come_back_and_the_oldest_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "_KEPT", 3)
    assert past_rounds(tmp_path) == []
    for number in range(1, 6):
        note_report(tmp_path, report(number))
    found = past_rounds(tmp_path)
    assert [each.report for each in found] == [report(number) for number in (3, 4, 5)]
    assert found[0].at <= found[-1].at


def test_a_damaged_line_costs_itself_only(tmp_path: Path) -> None:
    note_report(tmp_path, report(1))
    with (tmp_path / "rounds.jsonl").open("ab") as file:
        file.write(b'{"at": 1, "report"\n\xff\n')
    note_report(tmp_path, report(2))
    assert [each.report.round for each in past_rounds(tmp_path)] == [1, 2]


def test_a_folder_that_takes_nothing_ends_no_round(tmp_path: Path) -> None:
    note_report(tmp_path / "absent", report(1))
    assert past_rounds(tmp_path / "absent") == []


def test_what_a_killed_client_was_doing_is_not_under_way(tmp_path: Path) -> None:
    path = tmp_path / "live.json"
    note_idle(tmp_path)
    assert not path.exists()
    SiteLive(phase="training", round=4, step=2, steps=9).write(path)
    note_idle(tmp_path)
    live = SiteLive.read(path)
    assert live is not None
    assert (live.phase, live.round, live.steps) == ("idle", 4, 0)


def test_the_servers_verdict_is_put_beside_the_last_report_that_it_is_on(tmp_path: Path) -> None:
    for number in (1, 2, 2):
        note_report(tmp_path, report(number))
    verdict = Verdict(round=2, outcome="refused", code="norm", in_a_row=1)
    assert note_verdict(tmp_path, "0" * 32, verdict)
    assert not note_verdict(tmp_path, "0" * 32, verdict)
    assert not note_verdict(tmp_path, "1" * 32, verdict)
    assert not note_verdict(tmp_path, "0" * 32, Verdict(round=9, outcome="late"))
    assert [each.verdict for each in past_rounds(tmp_path)] == [None, None, verdict]

"""Hours, pause, minutes and bytes: what a site's own file allows."""

import datetime as dt
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from feat_fed.config import (
    HoursConfig,
    LimitsConfig,
    TrainingConfig,
    TransferConfig,
    load_study,
)
from feat_fed.model import FEAT
from feat_fed.protocol import Assignment, Task
from feat_fed_client.hours import OpenHours, clock
from feat_fed_client.limits import DeclinedError, SiteLimits
from feat_fed_client.pause import PAUSE_FILE, Pause, begin_pause, end_pause, pause_of
from feat_fed_client.round_bytes import answer_bytes, first_bytes, round_bytes
from feat_fed_client.traffic import Traffic


@pytest.fixture(autouse=True)
def in_central_europe(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In 2026 the clocks go forward on 29 March at 2:00 and back on 25 October at 3:00."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def at(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(f"2026-{text}").astimezone()


def hours(*windows: str) -> OpenHours:
    return OpenHours(tuple(HoursConfig.model_validate(each) for each in windows))


@pytest.mark.parametrize(
    ("windows", "now", "is_open", "change"),
    [
        (["22:00-06:00"], "06-01T21:59:59", False, "06-01T22:00"),
        (["22:00-06:00"], "06-01T22:00", True, "06-02T06:00"),
        (["22:00-06:00"], "06-01T00:00", True, "06-01T06:00"),
        (["22:00-06:00"], "06-01T05:59:59", True, "06-01T06:00"),
        (["22:00-06:00"], "06-01T06:00", False, "06-01T22:00"),
        (["20:00-00:00"], "06-01T23:59:59", True, "06-02T00:00"),
        (["20:00-00:00"], "06-02T00:00", False, "06-02T20:00"),
        (["12:00-13:00", "18:00-20:00"], "06-01T13:00", False, "06-01T18:00"),
        (["12:00-13:00", "18:00-20:00"], "06-01T20:30", False, "06-02T12:00"),
        # windows that touch or overlap are one
        (["22:00-00:00", "00:00-05:00", "04:00-06:00"], "06-01T23:00", True, "06-02T06:00"),
        (["00:00-12:00", "12:00-00:00"], "06-01T12:00", True, None),
        ([], "06-01T12:00", True, None),
    ],
)
def test_hours(windows: list[str], now: str, is_open: bool, change: str | None) -> None:
    found = hours(*windows)
    assert found.contain(at(now)) == is_open
    assert found.change_at(at(now)) == (at(change) if change else None)


minutes_of_day = st.integers(0, 24 * 60 - 1)


@given(st.lists(st.tuples(minutes_of_day, minutes_of_day), max_size=4), minutes_of_day)
def test_hours_are_what_a_walk_through_the_day_finds(
    windows: list[tuple[int, int]], now: int
) -> None:
    def text(minute: int) -> str:
        return f"{minute // 60:02d}:{minute % 60:02d}"

    windows = [each for each in windows if each[0] != each[1]]
    found = hours(*(f"{text(begin)}-{text(end)}" for begin, end in windows))
    marked = set(range(24 * 60)) if not windows else set()
    for begin, end in windows:
        minute = begin
        while minute != end:
            marked.add(minute)
            minute = (minute + 1) % (24 * 60)
    is_open = now in marked
    assert found.contain(at(f"06-01T{text(now)}")) == is_open
    ahead = next((n for n in range(1, 1441) if ((now + n) % 1440 in marked) != is_open), None)
    change = found.change_at(at(f"06-01T{text(now)}"))
    expected = None if ahead is None else at(f"06-01T{text(now)}") + dt.timedelta(minutes=ahead)
    assert change == expected


@pytest.mark.parametrize(("day", "sleep_h"), [("03-28", 7), ("10-24", 9), ("06-01", 8)])
def test_a_night_in_which_the_clocks_change_ends_by_the_wall_clock(day: str, sleep_h: int) -> None:
    night = hours("22:00-06:00")
    begin = at(f"{day}T22:00")
    end = night.change_at(begin)
    assert end is not None and (end.hour, end.minute) == (6, 0)
    assert end - begin == dt.timedelta(hours=sleep_h)
    every = (begin + dt.timedelta(minutes=15 * n) for n in range(4 * sleep_h))
    assert all(night.contain(each.astimezone()) for each in every)
    assert not night.contain(end)


def test_an_hour_that_the_clocks_leave_out_opens_when_they_have_passed_it() -> None:
    gap = hours("02:30-05:00")
    assert not gap.contain(at("03-29T01:59"))
    assert gap.contain(dt.datetime.fromisoformat("2026-03-29T01:00+00:00").astimezone())  # 3:00
    change = gap.change_at(at("03-29T01:59"))
    assert change is not None and change <= at("03-29T03:30")


@pytest.mark.parametrize("text", ["22:00", "24:00-06:00", "22-06", "22:00-22:00", "10:60-11:00"])
def test_what_is_no_part_of_a_day_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match=r"22:00-06:00|no time at all"):
        HoursConfig.model_validate(text)


def limits(store: Path, now: str, **config: object) -> SiteLimits:
    return SiteLimits(LimitsConfig.model_validate(config), store, now=lambda: at(now))


def test_outside_of_the_hours_a_round_is_declined_with_the_time(tmp_path: Path) -> None:
    shut = limits(tmp_path, "06-01T12:00", hours=["22:00-06:00"])
    with pytest.raises(DeclinedError, match=r"\(22:00-06:00\), which begin at 22:00") as declined:
        shut.require_open()
    assert declined.value.limit == "hours"
    assert (shut.must_end(), shut.sec_to_close()) == ("hours", 10 * 3600)
    limits(tmp_path, "06-01T23:00", hours=["22:00-06:00"]).require_open()
    assert limits(tmp_path, "06-01T23:00").sec_to_close() is None


def test_a_pause_ends_a_round_and_wins_over_open_hours(tmp_path: Path) -> None:
    free = limits(tmp_path, "06-01T12:00")
    assert free.must_end() is None
    begin_pause(tmp_path, None)
    assert free.must_end() == "pause"
    with pytest.raises(DeclinedError, match="until it is resumed") as declined:
        free.require_open()
    assert declined.value.limit == "paused"
    begin_pause(tmp_path, at("06-02T08:00"))
    with pytest.raises(DeclinedError, match="until 2026-06-02 08:00"):
        free.require_open()
    end_pause(tmp_path)
    end_pause(tmp_path)
    free.require_open()


def test_a_pause_with_an_end_ends(tmp_path: Path) -> None:
    begin_pause(tmp_path, at("06-01T18:00"))
    assert pause_of(tmp_path, at("06-01T17:59:59")) == Pause(at("06-01T18:00"))
    assert pause_of(tmp_path, at("06-01T18:00")) is None


@pytest.mark.parametrize("content", ["", "\n", "until the MRI is free", "9999-99-99", "\xff"])
def test_a_file_made_by_hand_pauses_whatever_is_in_it(content: str, tmp_path: Path) -> None:
    (tmp_path / PAUSE_FILE).write_bytes(content.encode("latin-1"))
    assert pause_of(tmp_path, at("06-01T12:00")) == Pause(None)


def test_what_cannot_be_read_pauses(tmp_path: Path) -> None:
    (tmp_path / PAUSE_FILE).mkdir()
    assert pause_of(tmp_path, at("06-01T12:00")) == Pause(None)


@pytest.mark.parametrize(
    ("study", "site", "result"),
    [(None, None, None), (5, None, 5), (None, 3, 3), (5, 3, 3), (2, 3, 2)],
)
def test_the_fewer_minutes_win(
    study: float | None, site: float | None, result: float | None, tmp_path: Path
) -> None:
    shortened = limits(tmp_path, "06-01T12:00", minutes_per_round=site).shorten(
        TrainingConfig(local_minutes=study)
    )
    assert shortened.local_minutes == result


@pytest.mark.parametrize(
    ("up", "down", "shares"),
    [
        ("fp32", "fp32", (1, 1, 1)),
        ("bf16", "fp16", (1, 0.5, 0.5)),
        ("int8", "int8", (1, 0.26, 0.26)),
        ("topk", "fp32", (1, 1, 0.015)),
    ],
)
def test_a_rounds_bytes_are_those_of_the_studys_forms(
    up: str, down: str, shares: tuple[float, float, float]
) -> None:
    transfer = TransferConfig.model_validate({"up": up, "down": down})
    study = load_study("demo").model_copy(update={"transfer": transfer})
    size = sum(each.nbytes for each in FEAT(study.model).state_dict().values())
    got = [each / size for each in (first_bytes(study), *round_bytes(study))]
    assert got == pytest.approx(shares, rel=0.05)


def traffic(store: Path, number: int = 3, task: Task = "train") -> Traffic:
    study = load_study("demo")
    told = Assignment(study_id="a" * 32, round=number, task=task, first_step=0, study=study)
    return Traffic(store, told)


def require(counted: Traffic, limits: LimitsConfig) -> None:
    counted.require(limits, up_bytes=answer_bytes(counted.assignment))


def allowed(size_bytes: int) -> LimitsConfig:
    return LimitsConfig(gb_per_round=size_bytes / 1e9)


def test_more_bytes_than_the_site_allows_are_declined_with_the_numbers(tmp_path: Path) -> None:
    down, up = round_bytes(load_study("demo"))
    traffic(tmp_path).received(down, message_id="1")
    require(traffic(tmp_path), allowed(down + up))
    with pytest.raises(DeclinedError, match=r"0\.0\d+ GB so far and another 0\.0") as declined:
        require(traffic(tmp_path), allowed(down + up - 1))
    assert declined.value.limit == "traffic"
    traffic(tmp_path, task="evaluate").received(down, message_id="2")
    require(traffic(tmp_path, task="evaluate"), allowed(down))  # nothing goes back


def test_what_is_sent_again_counts_again_and_only_in_its_round(tmp_path: Path) -> None:
    down, up = round_bytes(load_study("demo"))
    for message_id in ("1", "1", "2"):  # the work on the first was begun twice
        traffic(tmp_path).received(down, message_id=message_id)
    assert traffic(tmp_path).moved_bytes == 2 * down
    traffic(tmp_path).sent(up)
    traffic(tmp_path).received(down, message_id="2")
    assert traffic(tmp_path).moved_bytes == 2 * down + up
    with pytest.raises(DeclinedError, match=r"limits\.gb_per_round"):
        require(traffic(tmp_path), allowed(2 * (down + up) - 1))
    for number in range(4, 40):
        traffic(tmp_path, number).received(down, message_id=str(number))
        require(traffic(tmp_path, number), allowed(down + up))
    assert (tmp_path / "traffic.json").stat().st_size < 2000


@pytest.mark.parametrize("content", [b"", b"{", b'{"tasks": [{"round": 3}]}'])
def test_a_damaged_count_begins_anew(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "traffic.json").write_bytes(content)
    traffic(tmp_path).received(7, message_id="1")
    assert traffic(tmp_path).moved_bytes == 7


def test_a_disk_that_takes_no_count_fails_no_round(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "traffic.json").mkdir()
    traffic(tmp_path).received(7, message_id="1")
    assert "7 bytes of weights are not counted" in caplog.text


def test_a_time_is_said_with_its_day_where_it_is_another() -> None:
    assert clock(at("06-01T18:00"), at("06-01T12:00")) == "18:00"
    assert clock(at("06-02T06:00"), at("06-01T12:00")) == "2026-06-02 06:00"

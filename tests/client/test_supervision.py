"""Who trains dies, hangs or answers, and who watches copes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from feat_fed_client import supervision
from feat_fed_client.supervision import Death, Patience, Witness, supervised

HASTY = Patience(working_sec=30, step_sec=1, steps=2, pause_sec=0.01)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Lives:
    """Counts across the lives of children, which share a folder alone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self) -> int:
        """Return which life this is, from 1."""
        number = self.count() + 1
        (self._folder / f"{number}.life").write_text(str(os.getpid()))
        return number

    def count(self) -> int:
        return len(list(self._folder.glob("*.life")))


@pytest.fixture
def lives(tmp_path: Path) -> Lives:
    return Lives(tmp_path)


def test_an_answer_of_any_size_comes_whole() -> None:
    parts = [b"", b"x", os.urandom(3_000_000)]
    assert supervised(lambda _: parts) == parts


def test_a_killed_worker_is_started_again_until_it_answers(lives: Lives) -> None:
    def work(witness: Witness) -> list[bytes]:
        if lives.begin() < 3:
            die()
        return [b"done"]

    assert supervised(work, patience=HASTY) == [b"done"]
    assert lives.count() == 3


def test_one_that_dies_again_and_again_is_given_up(lives: Lives) -> None:
    def work(witness: Witness) -> list[bytes]:
        lives.begin()
        die()
        return []

    assert supervised(work, patience=HASTY) == Death("internal", "signal 9")
    assert lives.count() == 3


def test_an_answer_that_is_cut_off_is_none(lives: Lives) -> None:
    class CutOff(list[bytes]):
        def __iter__(self) -> Iterator[bytes]:
            yield b"half"
            die()

    def work(witness: Witness) -> list[bytes]:
        return CutOff([b"half", b"more"]) if lives.begin() == 1 else [b"whole"]

    assert supervised(work, patience=HASTY) == [b"whole"]


def test_a_new_checkpoint_gives_it_all_its_lives_again(lives: Lives) -> None:
    def work(witness: Witness) -> list[bytes]:
        number = lives.begin()
        if number == 2:
            witness("kept")
        if number < 4:
            die()
        return [b"done"]

    assert supervised(work, patience=HASTY) == [b"done"]


def test_an_exception_is_a_death_and_its_text_stays_in_the_log(lives: Lives) -> None:
    def work(witness: Witness) -> list[bytes]:
        lives.begin()
        raise ValueError("patient 4711")

    told = supervised(work, patience=HASTY)
    assert told == Death("internal", "exit status 1 without an answer")


def test_a_worker_without_memory_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    kills = iter(range(100))
    monkeypatch.setattr(supervision, "oom_kills", lambda: next(kills))
    told = supervised(lambda _: die() or [], patience=HASTY)  # type: ignore[func-returns-value]
    assert isinstance(told, Death)
    assert told.code == "memory"


def test_one_that_hangs_between_steps_is_ended_with_its_family(tmp_path: Path) -> None:
    def work(witness: Witness) -> list[bytes]:
        helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        (tmp_path / str(helper.pid)).touch()
        witness("stepped")
        os.kill(os.getpid(), signal.SIGSTOP)
        return []

    told = supervised(work, patience=HASTY)
    assert isinstance(told, Death)
    assert told.code == "stalled"
    helpers = [int(each.name) for each in tmp_path.iterdir()]
    assert len(helpers) == 3
    assert not [each for each in helpers if _is_there(each)]


def _is_there(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_slow_steps_and_long_preparations_are_no_hang() -> None:
    def work(witness: Witness) -> list[bytes]:
        witness("stepped")
        for _ in range(4):  # parts of a step
            time.sleep(0.4)
            witness("alive")
        witness("working")
        time.sleep(1.6)  # longer than between steps
        return [b"done"]

    assert supervised(work, patience=HASTY) == [b"done"]


def test_what_goes_on_meanwhile_ends_before_the_next_life(lives: Lives) -> None:
    entered: list[str] = []

    class Meanwhile:
        def __enter__(self) -> None:
            entered.append("in")

        def __exit__(self, *_: object) -> None:
            entered.append("out")

    def work(witness: Witness) -> list[bytes]:
        if lives.begin() == 1:
            die()
        return ["".join(entered).encode()]

    assert supervised(work, patience=HASTY, meanwhile=Meanwhile) == [b"inout"]
    assert entered == ["in", "out"] * 2

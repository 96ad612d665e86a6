"""Short waits are looked at often, long ones as often as Flower does."""

from __future__ import annotations

import ast
import inspect
from types import ModuleType

import pytest
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.inflatable.inflatable_utils import ObjectUnavailableError
from flwr.supernode import start_client_internal

from feat_fed_client.polls import Polls, pull_promptly


class Clock:
    """Goes on when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, sec: float) -> None:
        self.slept.append(sec)
        self.now += sec


def polls_until(clock: Clock, polls: Polls, sec: float, end: float) -> list[float]:
    clock.slept.clear()
    while clock.now < end:
        polls.sleep(sec)
        clock.now += 0.01  # the question itself
    return clock.slept


def test_a_wait_begins_with_short_sleeps_and_comes_to_flowers_own() -> None:
    clock = Clock()
    slept = polls_until(clock, Polls(clock, clock.sleep), 3.0, 400.0)
    assert slept[0] == 0.2 and slept == sorted(slept) and slept[-1] == 3.0


def test_another_wait_begins_anew() -> None:
    clock = Clock()
    polls = Polls(clock, clock.sleep)
    polls_until(clock, polls, 3.0, 400.0)
    assert polls_until(clock, polls, 0.5, clock.now + 0.1)[0] == 0.5 / 15
    assert polls_until(clock, polls, 3.0, clock.now + 1)[0] == 0.2
    polls_until(clock, polls, 3.0, clock.now + 400)
    clock.now += 60  # a message came and was dealt with
    assert polls_until(clock, polls, 3.0, clock.now + 1)[0] == 0.2


def test_flowers_main_loop_takes_nothing_else_from_the_module() -> None:
    tree = ast.parse(inspect.getsource(start_client_internal))
    taken = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "time"
    }
    assert taken == {"sleep"}


def test_a_part_that_the_server_is_still_making_is_asked_for_again() -> None:
    asked: list[str] = []

    def pull(part: str) -> bytes:
        asked.append(part)
        if asked.count("late") < 3 and part == "late":
            raise ObjectUnavailableError(part)
        return part.encode()

    assert pull_promptly(["late", "there"], pull) == {"late": b"late", "there": b"there"}
    assert asked.count("late") == 3


@pytest.mark.parametrize("module", [start_client_internal, inflatable_utils])
def test_flower_pulls_by_the_name_that_is_replaced(module: ModuleType) -> None:
    """Once by the SuperNode, and once by its executor."""
    tree = ast.parse(inspect.getsource(module))
    calls = [each.func for each in ast.walk(tree) if isinstance(each, ast.Call)]
    assert [each.id for each in calls if isinstance(each, ast.Name)].count("pull_objects") == 1

"""While one answer is taken in, the next is pulled, and no further one: memory holds two."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from feat_fed_server.asking import Asking


def asking(pulled: list[str], come: threading.Event) -> Any:
    def answer(asked: str) -> str:
        pulled.append(asked)
        if asked == "b":
            come.set()
        if asked == "broken":
            raise OSError("the SuperLink is gone")
        return f"answer of {asked}"

    made: Any = Asking.__new__(Asking)
    made._answer = answer
    return made


def test_the_next_answer_is_pulled_and_no_further_one() -> None:
    pulled, come = list[str](), threading.Event()
    answers = asking(pulled, come)._answers(("a", "b", "c"))
    assert next(answers) == ("a", "answer of a")
    assert come.wait(30)
    assert pulled == ["a", "b"]
    assert list(answers) == [("b", "answer of b"), ("c", "answer of c")]
    assert pulled == ["a", "b", "c"]


def test_an_error_of_the_next_pull_comes_in_its_turn() -> None:
    answers = asking([], threading.Event())._answers(("a", "broken", "c"))
    assert next(answers) == ("a", "answer of a")
    with pytest.raises(OSError, match="the SuperLink is gone"):
        next(answers)


def test_nobody_waited_for_is_nothing_pulled() -> None:
    assert list(asking([], threading.Event())._answers(())) == []

"""What a client tells of its connection."""

from __future__ import annotations

from feat_fed_client.lines import Lines


def test_troubles_that_take_turns_are_told_once_until_it_is_connected_anew() -> None:
    told: list[str] = []
    lines = Lines(told.append, "connected")
    for _ in range(3):
        lines.trouble("waiting")
        lines.trouble("lost")
    lines.connected()
    lines.connected()
    lines.trouble("lost")
    lines.connected()
    assert told == ["waiting", "lost", "connected", "lost", "connected"]


def test_a_line_that_is_no_trouble_is_not_told_at_every_look() -> None:
    told: list[str] = []
    lines = Lines(told.append, "connected")
    for _ in range(3):
        lines.connected()
        lines.once("the log cannot be written")
    assert told == ["connected", "the log cannot be written"]

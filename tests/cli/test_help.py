"""What `--help` says."""

from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from feat_fed.cli.main import app, run_app


def commands(command: Any, name: str = "feat-fed") -> Iterator[tuple[str, Any]]:
    yield name, command
    for below, each in getattr(command, "commands", {}).items():
        yield from commands(each, f"{name} {below}")


def test_every_command_argument_and_option_has_a_help() -> None:
    found = list(commands(typer.main.get_command(app)))
    assert len(found) > 30
    silent = [
        f"{name} {each.name}" for name, command in found for each in command.params if not each.help
    ]
    assert silent == []
    assert [name for name, command in found if not command.help] == []


def test_help_shows_what_an_argument_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["join", "--help"]) == 0
    assert "The coordinator's token" in capsys.readouterr().out

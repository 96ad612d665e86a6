"""The page of all commands, from the Typer application."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from typing import Any

import click
import typer.main

from feat_fed.cli.main import app
from from_models import cell

_INTRO = """\
# Commands

All of `feat-fed`, as `feat-fed COMMAND --help` says it. A user's mistake is one message and exit
status 1, a wrong flag status 2, Ctrl-C and SIGTERM status 130; `--debug` anywhere on the line shows
an error's traceback. What a command is asked for goes to standard output, all else to standard
error.
"""


def cli_page() -> str:
    """Return it, in the order and under the headings of ``feat-fed --help``."""
    root = typer.main.get_command(app)
    assert isinstance(root, click.Group)
    parts, panel = [_INTRO], ""
    for name, command in root.commands.items():
        if command.hidden:
            continue
        if (told := getattr(command, "rich_help_panel", None) or "Other") != panel:
            panel = told
            parts.append(f"## {panel}")
        parts += _command(f"feat-fed {name}", command)
    return "\n\n".join(parts) + "\n"


def _command(name: str, command: click.Command, level: int = 3) -> Iterator[str]:
    yield f"{'#' * level} {name}"
    if isinstance(command, click.Group):
        yield _text(command.help)
        for below, each in command.commands.items():
            if not each.hidden:
                yield from _command(f"{name} {below}", each, level + 1)
        return
    usage = " ".join((name, *command.collect_usage_pieces(click.Context(command))))
    yield f"```\n{usage}\n```"
    yield _text(command.help)
    rows = [_row(each) for each in command.params if not getattr(each, "hidden", False)]
    if rows:
        yield "\n".join(("| | takes | default | |", "| --- | --- | --- | --- |", *rows))


def _row(parameter: click.Parameter) -> str:
    if isinstance(parameter, click.Argument):
        names = parameter.make_metavar(click.Context(click.Command("x"))).strip("[]").rstrip(".")
    else:
        names = ", ".join((*parameter.opts, *parameter.secondary_opts))
    takes = "" if getattr(parameter, "is_flag", False) else _takes(parameter.type)
    if parameter.multiple or parameter.nargs == -1:
        takes += ", several times" if isinstance(parameter, click.Option) else ", several"
    said = cell(getattr(parameter, "help", None) or "")
    return f"| `{names}` | {cell(takes)} | {_default(parameter)} | {said} |"


def _takes(kind: Any) -> str:  # noqa: ANN401
    if isinstance(kind, click.Choice):
        return ", ".join(f"`{_plain(each)}`" for each in kind.choices)
    low, high = getattr(kind, "min", None), getattr(kind, "max", None)
    name = {"integer range": "integer", "float range": "number", "float": "number"}.get(
        kind.name, kind.name
    )
    if low is not None and high is not None:
        return f"{name}, {low} to {high}"
    return f"{name}, at least {low}" if low is not None else name


def _default(parameter: click.Parameter) -> str:
    if parameter.required:
        return "required"
    value = parameter.default
    # Click 8.3 and later mark what is not set by an object of their own.
    if value is None or value is False or callable(value) or isinstance(value, enum.Enum):
        return f"`{_plain(value)}`" if isinstance(value, str) else ""
    if isinstance(value, list | tuple) and not value:
        return ""
    return f"`{_plain(value)}`"


def _plain(value: object) -> str:
    return str(value.value if isinstance(value, enum.Enum) else value)


def _text(docstring: str | None) -> str:
    """Return a help text as Markdown; a form feed ends what Click shows of it."""
    return re.sub(r"\n(?=\S)", " ", (docstring or "").partition("\f")[0].strip())

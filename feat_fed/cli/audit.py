"""``feat-fed audit``: read a log of a site or of a run, and see whether it is whole."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from feat_fed.audit import FOLDER, Line, lines
from feat_fed.audit import verify as verify_log
from feat_fed.cli.console import output, say
from feat_fed.config import load_site
from feat_fed.errors import AuditError

app = typer.Typer(help="What happened at a site or in a run.", no_args_is_help=True)

Where = Annotated[
    Path, typer.Argument(help="A site's YAML file, a run's folder, or the log's own folder.")
]


@app.command()
def show(
    where: Where,
    last: Annotated[int, typer.Option(min=1, help="How many lines, from the end.")] = 50,
    kind: Annotated[
        str | None, typer.Option(help="Events of this kind alone, such as leaving.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The lines as they are.")] = False,
) -> None:
    """Print the last lines of a log."""
    found = list(lines(log_folder(where)))
    kinds = {str(each.event.get("kind")) for each in found}
    if kind is not None and kind not in kinds:
        say(f"no line is of kind {kind}; there are: {', '.join(map(_short, sorted(kinds)))}")
    chosen = [each for each in found if kind in (None, each.event.get("kind"))]
    for line in chosen[-last:]:
        if as_json:
            typer.echo(line.model_dump_json())
        else:
            output.print(event_line(line), markup=False, soft_wrap=True)


@app.command()
def verify(
    where: Where,
    head: Annotated[
        str | None,
        typer.Option(help="A head that was noted before: the log must still hold that line."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object for machines.")] = False,
) -> None:
    """Check that no line was changed or removed; note the head that it prints."""
    owner = load_site(where).name if where.is_file() else None
    verdict = verify_log(log_folder(where), noted_hash=head, owner=owner)
    if as_json:
        tree = asdict(verdict) | {"head": verdict.head and verdict.head.model_dump()}
        typer.echo(json.dumps(tree, indent=1))
    else:
        say(f"{verdict.lines} lines, {verdict.began_at} to {verdict.ended_at}")
        for note in verdict.notes:
            say(f"note: {note}")
        for problem in verdict.problems:
            say(f"PROBLEM: {problem}")
        if verdict.head:
            say(f"head: line {verdict.head.sequence}")
            output.print(verdict.head.hash)
    if verdict.problems:
        raise typer.Exit(1)


def log_folder(where: Path) -> Path:
    """Return the folder of the log that is meant.

    Raises
    ------
    AuditError
        If there is none.
    ConfigError
        If it is a site's file that is wrong.
    """
    if where.is_file():
        folder = load_site(where).store / FOLDER
    elif not where.exists():
        raise AuditError(f"{where} does not exist; give a site's YAML file or a run's folder")
    else:
        folder = where / FOLDER if (where / FOLDER).is_dir() else where
    if not any(folder.glob("[0-9]*.jsonl")):
        raise AuditError(f"{where} has no audit log yet: {folder} holds none")
    return folder


def event_line(line: Line) -> str:
    """Return a line for people."""
    event = dict(line.event)
    kind = str(event.pop("kind", "?"))
    return f"{line.sequence:>6}  {line.at[:19]}Z  {kind:<19} {' '.join(_pairs(event))}"


def _pairs(event: Mapping[str, Any]) -> Iterator[str]:
    for name, value in event.items():
        if isinstance(value, list):
            yield f"{name}={','.join(map(_short, value))}"
        elif isinstance(value, dict):
            pairs = (f"{_short(key)}:{_short(each)}" for key, each in value.items())
            yield f"{name}={','.join(pairs)}"
        else:
            yield f"{name}={_short(value)}"


def _short(value: object) -> str:
    """Cut hashes short; keep control characters of a forged line off the terminal."""
    text = str(value)
    text = "".join(each if each.isprintable() else "?" for each in text)
    return f"{text[:12]}…" if len(text) == 64 else text

"""A page of the documentation as a list of things to do, in its order.

A fenced block whose title is a file's path is that file. A ``console`` block happens in the
terminal that its title names: a line ``$ COMMAND`` is typed (``\\`` at its end goes on in the
next), ``^C`` is Ctrl-C, and what follows is what the command prints. Output that begins a block is
of the command that is at work in that terminal. Three dots in a line stand for any text, on a
line of their own for any lines, and as the last line say that the command goes on. What a person
types at a prompt follows it: ``[y/N]: y``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"^[\w./-]+\.\w+$")
_TYPED = re.compile(r"^(.*\]:) (\S+)$")
_CONSOLE = "console"
_ANY = "..."


@dataclass(frozen=True)
class Written:
    """A file that the page shows in full."""

    line: int
    path: str
    text: str


@dataclass
class Typed:
    """A command in a terminal, or the rest of what one prints there."""

    line: int
    terminal: str
    command: str | None = None
    """None: of the command that is at work there."""
    interrupted: bool = False
    answers: list[str] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    goes_on: bool = False


def steps(page: Path, replaced: dict[str, str] | None = None) -> Iterator[Written | Typed]:
    """Yield what the page does, with some of its words replaced, such as a port."""
    text = page.read_text(encoding="utf-8")
    for old, new in (replaced or {}).items():
        text = text.replace(old, new)
    for block in _FENCE.finditer(text):
        language, title, content = block.groups()
        line = text.count("\n", 0, block.start()) + 2
        if language == _CONSOLE:
            yield from _typed(content, line, title or "")
        elif title and _FILE.match(title):
            yield Written(line, title, content)


def _typed(content: str, first: int, terminal: str) -> Iterator[Typed]:
    found: list[Typed] = []
    unfinished = False
    for number, line in enumerate(content.splitlines(), first):
        if unfinished:
            found[-1].command = f"{found[-1].command}\n{line}"
        elif line.startswith("$ "):
            found.append(Typed(number, terminal, command=line[2:]))
        elif line == "^C":
            found.append(Typed(number, terminal, interrupted=True))
        else:
            if not found:
                found.append(Typed(number, terminal))
            _take(found[-1], line)
        unfinished = line.endswith("\\")
    for each in found:
        if each.shown and each.shown[-1] == _ANY:
            each.goes_on = True
        each.shown = [line for line in each.shown if line.strip() not in ("", _ANY)]
        yield each


def _take(step: Typed, line: str) -> None:
    if answered := _TYPED.match(line):
        line = answered[1]
        step.answers.append(answered[2])
    step.shown.append(line)


_VARIES = re.compile(
    "|".join(
        (
            r"\b[0-9a-f]{4}(?: [0-9a-f]{4}){7}\b",  # a key's fingerprint
            r"\b(?=[0-9a-f]*\d)[0-9a-f]{8,}\b",  # a hash, or how one begins
            r"\b\d{4}-\d\d-\d\d(?:T[\d:.+Z-]*\d)?",
            r"(?:\b\d[\d,.]* (?:h|min|s)\b ?)+",
            r"\b\d[\d,.]* (?:bytes|kB|MB|GB|Mbit/s)(?!\w)",
            r"\b\d[\d,]*\.\d+(?:e[+-]?\d+)?\b",
        )
    )
)
_DRAWN = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\u2500-\u257f]|\s+")


def plain(text: str) -> str:
    """Return text without white space, frames and what differs from one time to the next."""
    return re.sub(r"\s+", "", _VARIES.sub("~", _DRAWN.sub(" ", text)))


def missing(shown: list[str], printed: str) -> str | None:
    """Return the first shown line that was not printed, after those before it."""
    text, position = plain(printed), 0
    for line in shown:
        parts = (re.escape(plain(part)) for part in line.split(_ANY))
        found = re.compile(".*?".join(parts)).search(text, position)
        if found is None:
            return line
        position = found.end()
    return None

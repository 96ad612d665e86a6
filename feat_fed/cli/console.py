"""The one place that prints."""

from __future__ import annotations

from rich.console import Console

console = Console(stderr=True, highlight=False)
"""Progress and messages; standard output is for what a command is asked for."""

output = Console(highlight=False)


def say(line: str) -> None:
    """Print a line; square brackets are not markup."""
    console.print(line, markup=False, soft_wrap=True)


def fail(message: str) -> None:
    """Print an error."""
    console.print("error:", style="bold red", end=" ")
    console.print(message, markup=False, soft_wrap=True)

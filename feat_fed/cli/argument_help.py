"""The help of arguments, which Typer below 0.21 loses with Click 8.5.

That Click has a help of its own for arguments and sets it, to None, after Typer has set Typer's.
"""

from __future__ import annotations

from typing import Any

import typer.main
from typer.core import TyperArgument


class _Argument(TyperArgument):
    def __init__(self, *, help: str | None = None, **named: Any) -> None:  # noqa: ANN401
        super().__init__(help=help, **named)
        self.help = help


def keep_argument_help() -> None:
    """Have Typer make arguments that keep their help, from now on."""
    typer.main.TyperArgument = _Argument  # type: ignore[attr-defined]

"""Answers to a command's questions: from its flags, from a person, or the defaults."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import typer
from pydantic import BaseModel

from feat_fed.cli.console import say
from feat_fed.config import fault_in
from feat_fed.errors import ConfigError

_T = TypeVar("_T")


@dataclass(frozen=True)
class Questions:
    """Takes a flag's value, or asks until an answer is right.

    Parameters
    ----------
    asks
        Whether a person is there; if not, defaults are taken.
    """

    asks: bool

    @classmethod
    def of_terminal(cls, *, yes: bool) -> Questions:
        """Ask unless told not to, or nobody could answer."""
        return cls(asks=not yes and sys.stdin.isatty())

    def answer(
        self,
        text: str,
        read: Callable[[str], _T],
        *,
        flag: str,
        given: str | None,
        default: str | None,
    ) -> _T:
        """Return one answer.

        Parameters
        ----------
        read
            Makes the value of an answer, or raises :class:`ConfigError` with what is wrong.
        default
            None: there is none; empty: an empty answer is one.

        Raises
        ------
        ConfigError
            If a flag is wrong, or missing where nobody is asked.
        """
        if given is None and self.asks:
            return self._ask(text, read, default)
        if (said := given if given is not None else default) is None:
            raise ConfigError(
                f"{flag} is missing ({text}): give it, or run the command in a terminal and "
                "without --yes, where it asks"
            )
        try:
            return read(said)
        except ConfigError as error:
            raise ConfigError(f"{flag}: {error}") from None

    def _ask(self, text: str, read: Callable[[str], _T], default: str | None) -> _T:
        while True:
            shown = default not in (None, "")
            said = typer.prompt(text, default=default, show_default=shown, err=True)
            try:
                return read(said)
            except ConfigError as error:
                say(f"  {error}")


def field_of(
    model: type[BaseModel], field: str, convert: Callable[[str], Any] = str.strip
) -> Callable[[str], Any]:
    """Return what reads an answer as a field of a configuration.

    Parameters
    ----------
    field
        Its name, from the top (``sites.minimum``).
    convert
        Makes of the text what stands in the file.
    """

    def read(text: str) -> Any:  # noqa: ANN401
        value = convert(text)
        if fault := fault_in(model, field, value):
            raise ConfigError(fault)
        return value

    return read


def words(text: str) -> list[str]:
    """Split an answer that lists things, by spaces or commas."""
    return text.replace(",", " ").split()


def yes_or_no(text: str) -> bool:
    """Read a decision.

    Raises
    ------
    ConfigError
        If it is none.
    """
    said = text.strip().lower()
    if said not in ("y", "yes", "n", "no"):
        raise ConfigError(f"{text!r}: answer yes or no")
    return said.startswith("y")


def optional(read: Callable[[str], _T]) -> Callable[[str], _T | None]:
    """Return what reads an empty answer as None."""
    return lambda text: read(text) if text.strip() else None

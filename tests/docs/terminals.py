"""Terminals in which a page's commands are given, one after the other in each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from docs.pages import Typed, Written, missing, steps
from waiting import PATIENCE

COLUMNS = 100
_INTERRUPTED = (130, -signal.SIGINT)
_POLL_SEC = 0.05


@dataclass
class Terminal:
    """One of them: where it stands, and the command that was last given."""

    folder: Path
    output: Path
    process: subprocess.Popen[bytes] | None = None
    command: str = ""
    _file: IO[bytes] | None = field(default=None, repr=False)

    def give(self, command: str, answers: list[str]) -> None:
        """Start a command; what it prints replaces what the one before has printed."""
        self.command = command
        with self.output.open("wb") as file:
            self.process = subprocess.Popen(
                ["bash", "-c", command],
                cwd=self.folder,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={
                    **os.environ,
                    "COLUMNS": str(COLUMNS),
                    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                },
            )
        assert self.process.stdin
        self.process.stdin.write("".join(f"{each}\n" for each in answers).encode())
        self.process.stdin.close()

    @property
    def status(self) -> int | None:
        """The exit status, if it has ended or there is none."""
        return self.process.poll() if self.process else 0

    def signal(self, number: signal.Signals) -> None:
        """Send a signal as the terminal does, to all that is in the foreground."""
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, number)

    def printed(self) -> str:
        """All that the command has printed by now."""
        return self.output.read_text(errors="replace") if self.output.exists() else ""


class Reader:
    """Somebody who does what pages say, in a folder of their own."""

    def __init__(self, folder: Path, *, replaced: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.replaced = replaced
        self._outputs = folder.with_name(f"{folder.name}.outputs")
        self._terminals: dict[str, Terminal] = {}
        for each in (folder, self._outputs):
            each.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for how, wait_sec in ((signal.SIGTERM, 30.0), (signal.SIGKILL, 5.0)):
            for each in self._terminals.values():
                each.signal(how)
            deadline = time.monotonic() + PATIENCE * wait_sec
            while self._at_work() and time.monotonic() < deadline:
                time.sleep(_POLL_SEC)

    def follow(self, page: Path, *, limit_sec: float = 100) -> None:
        """Do what the page says; AssertionError with its line where something else happens."""
        for step in steps(page, self.replaced):
            where = f"{page.name}:{step.line}"
            if isinstance(step, Written):
                path = self.folder / step.path
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(step.text, encoding="utf-8")
            else:
                self._do(step, where, limit_sec)
        assert not (left := self._at_work()), f"{page.name} leaves at work: {left}"

    def _do(self, step: Typed, where: str, limit_sec: float) -> None:
        terminal = self._terminal(step.terminal)
        if step.command and step.command.startswith("cd "):
            terminal.folder = (terminal.folder / step.command[3:]).resolve(strict=True)
            return
        if step.command:
            assert terminal.status is not None, f"{where}: {terminal.command!r} is still at work"
            terminal.give(step.command, step.answers)
        elif step.interrupted:
            terminal.signal(signal.SIGINT)
        deadline = time.monotonic() + PATIENCE * limit_sec
        while terminal.status is None:
            if step.goes_on and missing(step.shown, terminal.printed()) is None:
                return
            assert time.monotonic() < deadline, self._told(where, "not in time", terminal, step)
            time.sleep(_POLL_SEC)
        line = missing(step.shown, terminal.printed())
        assert line is None, self._told(where, f"was not printed: {line!r}", terminal, step)
        good = _INTERRUPTED if step.interrupted else (0,)
        assert terminal.status in good, self._told(where, "status", terminal, step)
        assert not step.goes_on, self._told(where, "should go on", terminal, step)

    def _terminal(self, name: str) -> Terminal:
        if name not in self._terminals:
            output = self._outputs / f"{len(self._terminals)}.out"
            self._terminals[name] = Terminal(self.folder, output)
        return self._terminals[name]

    def _at_work(self) -> list[str]:
        return [each.command for each in self._terminals.values() if each.status is None]

    def _told(self, where: str, what: str, terminal: Terminal, step: Typed) -> str:
        lines = [f"{where}: {what} (status {terminal.status})", f"$ {terminal.command}"]
        for name, each in self._terminals.items():
            lines.append(f"--- {name}: {each.command}\n{each.printed()[-4000:]}")
        return "\n".join([*lines, f"shown: {step.shown}"])

"""Helpers of the system tests: start commands as a user would, find what they leave behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from waiting import PATIENCE, wait_until

TINY = Path(__file__).with_name("tiny.yaml")
COMMAND = [sys.executable, "-m", "feat_fed.cli"]


@dataclass
class Command:
    """A running `feat-fed` command and the file with everything that it prints."""

    process: subprocess.Popen[bytes]
    output: Path

    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def wait_for(self, text: str, timeout_sec: float = 120) -> None:
        """Wait until the command has printed ``text``."""
        wait_until(
            lambda: text in self.text() or self.process.poll() is not None, timeout_sec, self.text
        )
        assert text in self.text(), self.text()

    def end(self, timeout_sec: float = 180) -> int:
        """Wait for the command's own end and return its exit status."""
        try:
            return self.process.wait(PATIENCE * timeout_sec)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end: {self.text()}") from None

    def family(self) -> list[psutil.Process]:
        """Return all that it started, at any depth."""
        return psutil.Process(self.process.pid).children(recursive=True)


@contextlib.contextmanager
def started(output: Path, *arguments: object) -> Iterator[Command]:
    """Run `feat-fed ARGUMENTS` for the block; it is killed if it outlives it."""
    with output.open("wb") as file:
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "COLUMNS": "200"},
        )
    try:
        yield Command(process, output)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE * 30)
        process.kill()
        process.wait()

"""One evaluator a run: a lock, and a sign of life for those whom the lock does not reach."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from feat_fed.errors import RunError
from feat_fed.report.evaluation_folder import EvaluationFolder, EvaluatorLive
from feat_fed.report.run_store import is_locked, lock_run

LOCK = "evaluator"
_BEAT_SEC = 5.0
SILENT_SEC = 30.0
"""After which an evaluator on another machine counts as dead."""

State = Literal["starting", "sampling", "measuring", "waiting", "stopped"]


class Living:
    """What this evaluator says of itself in the run's folder, every few seconds."""

    def __init__(self, folder: EvaluationFolder) -> None:
        self._path = folder.live
        self._lock = threading.Lock()
        self._said = EvaluatorLive(
            host=socket.gethostname(), pid=os.getpid(), state="starting", at=time.time()
        )

    def say(
        self, state: State, round_number: int | None = None, *, waiting_rounds: int = 0
    ) -> None:
        """Say what is done now; the same twice costs nothing."""
        update = {"state": state, "round": round_number, "waiting_rounds": waiting_rounds}
        with self._lock:
            before, self._said = self._said, self._said.model_copy(update=update)
        if self._said != before:
            self.beat()

    def beat(self) -> None:
        """Say the same again."""
        with self._lock, contextlib.suppress(OSError):  # a full disk ends no evaluation here
            self._said.model_copy(update={"at": time.time()}).write(self._path)


@contextlib.contextmanager
def living(run: Path) -> Iterator[Living]:
    """Be the run's only evaluator for the block.

    The lock is ``flock`` on a file beside the run's folder. Linux carries it over NFS (version 4,
    or 3 with its lock service) and over SMB 2 and later, to all machines that have the folder
    mounted, and it ends with its process or machine. Where a mount keeps locks to itself
    (``nolock``, ``local_lock``, ``localflock``), what protects from a second evaluator elsewhere is
    the sign of life that each gives; its age is told by the file server's clock alone.

    Raises
    ------
    RunError
        If there is another one.
    """
    folder = EvaluationFolder.of_run(run)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock_run(run, LOCK))
        except RunError:
            if not is_locked(run, LOCK):
                raise
            raise RunError(_told(run, EvaluatorLive.read(folder.live))) from None
        try:
            folder.root.mkdir(parents=True, exist_ok=True)
            _refuse_another(run, folder)
        except OSError as error:
            raise RunError(f"{folder.root} cannot be written: {error}") from error
        life = Living(folder)
        life.beat()
        stack.enter_context(_beating(life))
        yield life


@contextlib.contextmanager
def _beating(life: Living) -> Iterator[None]:
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(_BEAT_SEC):
            life.beat()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        life.say("stopped")


def _refuse_another(run: Path, folder: EvaluationFolder) -> None:
    """Raise :class:`RunError` if one lives on another machine that the lock does not reach."""
    live = EvaluatorLive.read(folder.live)
    if live is None or live.state == "stopped" or live.host == socket.gethostname():
        return
    probe = folder.root / ".clock"
    probe.touch()
    age_sec = probe.stat().st_mtime - folder.live.stat().st_mtime
    probe.unlink()
    if age_sec < SILENT_SEC:
        raise RunError(
            f"{_told(run, live)}; if it was killed, give the command again in "
            f"{SILENT_SEC:.0f} seconds"
        )


def _told(run: Path, live: EvaluatorLive | None) -> str:
    who = f"process {live.pid} on {live.host}" if live else "another process"
    return f"{run} has an evaluator at work already ({who}): leave it to that one, or stop it first"

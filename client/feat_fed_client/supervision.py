"""Who trains is watched from a process that does nothing else, and started again when it dies.

The worker, forked from here, bears witness of its work through a pipe, and answers through it.
One that is killed, crashes or falls silent is ended with all that it started; the next one goes
on from the round's checkpoint (:mod:`feat_fed.train.mid_round`).
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Literal, NoReturn, cast

import psutil

from feat_fed.child import be_child
from feat_fed.protocol import FailureCode
from feat_fed.train.memory import oom_kills
from feat_fed.train.patience import Patience, Pulse

__all__ = ["Death", "Patience", "Sign", "Witness", "Work", "supervised"]

log = logging.getLogger(__name__)

Sign = Literal["working", "alive", "stepped", "kept"]
"""Of life: in a phase without steps, in any phase, after an optimiser step, after a checkpoint."""

Witness = Callable[[Sign], None]

Work = Callable[[Witness], Sequence[bytes]]

_LOOK_SEC = 0.5
_ANSWER = b"answer "
_PIPE_BYTES = 1024**2
"""All that Linux gives a user; an update goes through it, and each filling wakes both ends."""


@dataclass(frozen=True)
class Death:
    """How a worker ended that did not answer."""

    code: FailureCode
    how: str


def supervised(
    work: Work,
    *,
    patience: Patience | None = None,
    meanwhile: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> list[bytes] | Death:
    """Do ``work`` in a child, in another one if that dies, and return its answer or last death.

    Parameters
    ----------
    work
        Gets a witness to bear and returns an answer of any number of parts.
    meanwhile
        Entered here while a child is there, and left before another one is forked.
    """
    patience = patience or Patience()
    deaths = 0
    while True:
        life = _Life.begin(work, patience)
        with meanwhile():
            outcome = life.watch()
        if not isinstance(outcome, Death):
            return outcome
        deaths = 1 if life.kept else deaths + 1
        log.error("who trained has died: %s (%d in a row)", outcome.how, deaths)
        if deaths >= patience.deaths:
            return outcome
        time.sleep(patience.pause_sec * deaths)


class _Life:
    """One child, from its start to its end."""

    def __init__(self, pid: int, receiver: Connection, patience: Patience) -> None:
        self.kept = False
        self._pid = pid
        self._receiver = receiver
        self._pulse = Pulse(patience)
        self._oom_kills = oom_kills()

    @classmethod
    def begin(cls, work: Work, patience: Patience) -> _Life:
        """Fork the child; it ends with this process, and leads a process group."""
        receiver, sender = Pipe(duplex=False)
        with contextlib.suppress(OSError, AttributeError):  # not everywhere
            fcntl.fcntl(sender.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        parent_pid, pid = os.getpid(), os.fork()
        if pid == 0:
            receiver.close()
            _do(work, sender, parent_pid)
        sender.close()
        with contextlib.suppress(OSError):  # it may have done so itself, or be gone
            os.setpgid(pid, pid)
        return cls(pid, receiver, patience)

    def watch(self) -> list[bytes] | Death:
        """Wait for the child's end, which is brought about when it answers or falls silent."""
        answer = None
        stalled = False
        with contextlib.suppress(EOFError, OSError):  # the child's end of the pipe is closed
            while answer is None and not stalled:
                if self._receiver.poll(_LOOK_SEC):
                    answer = self._hear(self._receiver.recv_bytes())
                elif self._has_ended():
                    if not self._receiver.poll():  # its last words may have come meanwhile
                        break
                else:
                    stalled = self._pulse.silent_sec > self._pulse.allowed_sec
        silent_sec = self._pulse.silent_sec
        code = self._end(at_once=answer is None)
        if answer is not None:
            return answer
        if stalled:
            return Death("stalled", f"no sign of work for {silent_sec:.0f} s")
        return self._died_of(code)

    def _hear(self, word: bytes) -> list[bytes] | None:
        """Note a sign; return the answer if it is one."""
        if word.startswith(_ANSWER):
            return [self._receiver.recv_bytes() for _ in range(int(word[len(_ANSWER) :]))]
        match cast(Sign, word.decode()):
            case "stepped":
                self._pulse.stepped()
            case "kept":
                self.kept = True
                self._pulse.alive()
            case "working":
                self._pulse.working()
            case "alive":
                self._pulse.alive()
        return None

    def _has_ended(self) -> bool:
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._pid, flags) is not None

    def _end(self, *, at_once: bool) -> int:
        """End the child with its family, at once or when it has ended itself; return its code."""
        family: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(self._pid).children(recursive=True)
        deadline = time.monotonic() + _LOOK_SEC * 10
        while not at_once and not self._has_ended():
            at_once = time.monotonic() > deadline
            time.sleep(0.01)
        if not self._has_ended():
            os.kill(self._pid, signal.SIGKILL)
        for each in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        # Before the child is reaped its group cannot be another's.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, signal.SIGKILL)
        self._receiver.close()
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    def _died_of(self, code: int) -> Death:
        if code >= 0:
            return Death("internal", f"exit status {code} without an answer")
        if -code == signal.SIGKILL and oom_kills() > self._oom_kills:
            return Death("memory", "the kernel killed it, for memory ran out")
        return Death("internal", f"signal {-code}")


def _do(work: Work, sender: Connection, parent_pid: int) -> NoReturn:
    """Be the child: work, answer and exit."""
    # What the parent has dropped is not this one's to free: its threads are not here.
    gc.freeze()

    def answer() -> None:
        os.setpgid(0, 0)
        parts = work(lambda sign: sender.send_bytes(sign.encode()))
        sender.send_bytes(_ANSWER + str(len(parts)).encode())
        for part in parts:
            sender.send_bytes(part)

    be_child(parent_pid, answer)

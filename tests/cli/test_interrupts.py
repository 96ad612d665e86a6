"""Ctrl-C at a bad moment."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import os, signal, subprocess, sys, time
from feat_fed.cli.interrupts import deliver_lost

deliver_lost({KeyboardInterrupt: signal.SIGINT})
left = [signal.SIGINT]

def pressed():
    if left:
        signal.raise_signal(left.pop())

os.register_at_fork(after_in_parent=pressed)
try:
    subprocess.run([sys.executable, "-c", ""], preexec_fn=os.getpid)  # as Ray starts its own
    time.sleep(60)
except KeyboardInterrupt:
    print("stopped")
"""


def test_ctrl_c_in_a_fork_is_not_lost() -> None:
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout) == (0, "stopped\n"), done.stderr
    assert "ignored" not in done.stderr

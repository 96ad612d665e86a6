"""A Ray cluster as a person starts one: a head, and a node that joins it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from feat_fed.processes import free_port
from waiting import nobody_left, wait_until

RAY = str(Path(sys.executable).parent / "ray")


@contextlib.contextmanager
def ray_nodes(log: Path) -> Iterator[str]:
    """Start two nodes with a core each, yield the head's address, and leave nothing behind."""
    port, nodes = free_port(), list[subprocess.Popen[bytes]]()
    address = f"127.0.0.1:{port}"
    # Ray's sockets are in its folder, and a socket's path is short.
    with tempfile.TemporaryDirectory(prefix="ray-") as folder, log.open("wb") as output:
        head = ["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}"]
        try:
            for place in (head, [f"--address={address}"]):
                command = [RAY, "start", *place, "--num-cpus=1", "--disable-usage-stats", "--block"]
                nodes.append(
                    subprocess.Popen(
                        command,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
                    )
                )
                wait_until(lambda: log.read_text().count("--block") >= len(nodes), 90)
            yield address
        finally:
            family = [
                each for node in nodes for each in psutil.Process(node.pid).children(recursive=True)
            ]
            for node in reversed(nodes):
                node.send_signal(signal.SIGTERM)
                node.wait(60)
            nobody_left(family)

"""What is asked of each federation: a model's arrays, sites, and rounds that cost no training."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import psutil
import torch
from torch import Tensor

from feat_fed.config import FEATConfig
from feat_fed.model import FEAT


@dataclass(frozen=True)
class Payload:
    """A network of FEAT's kind; its state is what travels."""

    name: str
    model: FEATConfig

    @cached_property
    def schema(self) -> dict[str, Tensor]:
        """Names, shapes and dtypes, without memory."""
        with torch.device("meta"):
            return dict(FEAT(self.model).state_dict())

    @property
    def num_bytes(self) -> int:
        """Of all tensors."""
        return sum(each.numel() * each.element_size() for each in self.schema.values())

    def arrays(self) -> dict[str, Tensor]:
        """Return numbers like those of a trained network: no two tensors are alike."""
        generator = torch.Generator().manual_seed(0)
        return {
            name: 0.02 * torch.randn(each.shape, generator=generator)
            if each.is_floating_point()
            else torch.zeros(each.shape, dtype=each.dtype)
            for name, each in self.schema.items()
        }


_SMALLEST = FEATConfig(
    in_channels=3, hidden_size=8, num_trios=1, num_heads=1, patch_size=1, mlp_ratio=0.125
)
PAYLOADS = {
    each.name: each
    for each in (
        Payload("small", _SMALLEST),
        Payload("64MB", FEATConfig(in_channels=3, hidden_size=200, num_trios=6, num_heads=4)),
        Payload("128MB", FEATConfig(in_channels=3, hidden_size=280, num_trios=6, num_heads=4)),
        Payload("632MB", FEATConfig(in_channels=3, hidden_size=628, num_trios=6, num_heads=4)),
        Payload("1.4GB", FEATConfig(in_channels=3, hidden_size=940, num_trios=6, num_heads=4)),
    )
}


_ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""Several spin while they wait, where there are more processes than processors."""


@dataclass(frozen=True)
class Setting:
    """One cell of the table."""

    payload: Payload
    sites: int
    rounds: int
    form: str = "fp32"
    """In which the weights travel; only ours has others."""


@dataclass(frozen=True)
class Running:
    """A federation at work."""

    processes: Sequence[subprocess.Popen[bytes]]
    """Whose families are watched."""
    role: Callable[[str], str | None]
    """Tells a process by its command line."""
    rounds_done: Callable[[], int]
    port: int
    """Of the server, where sites come in."""
    logs: Path

    def cpu_sec(self) -> float:
        """Return the processor time so far of all its processes, ended ones included."""
        total = 0.0
        for root in self.processes:
            for each in _family(root.pid):
                with contextlib.suppress(psutil.NoSuchProcess):
                    total += sum(each.cpu_times()[:4])  # its own, and of children it has reaped
        return total

    def require_alive(self) -> None:
        """Raise if any of its processes has ended."""
        for each in self.processes:
            if each.poll() is not None:
                raise RuntimeError(f"{each.args} has ended ({each.returncode}); see {self.logs}")


class Contender(Protocol):
    """A federation that can be started."""

    name: str

    def missing(self) -> str | None:
        """Return why it cannot run here, or None."""

    def running(self, folder: Path, setting: Setting) -> AbstractContextManager[Running]:
        """Start it in an empty folder; all of it is gone after the block."""


def save_arrays(path: Path, payload: Payload) -> None:
    """Write the payload's numbers as numpy has them (.npz)."""
    np.savez(path, **{name: each.numpy() for name, each in payload.arrays().items()})


@contextlib.contextmanager
def started(
    command: Sequence[object], log: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command for the block, and end it with all that it started."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(each) for each in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **_ONE_THREAD, **(env or {})},
        )
    try:
        yield process
    finally:
        family = _family(process.pid)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
        for each in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait()


def _family(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        return [*root.children(recursive=True), root]
    return []

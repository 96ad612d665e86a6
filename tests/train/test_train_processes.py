"""DeepSpeed where feat-fed runs it: forked from a preloaded parent.

That a Ray actor trains one client after the other is in tests/system/test_simulate.py.
"""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

TRAIN = """
import hashlib, os, sys
from contextlib import closing
import torch
from torch import nn
from feat_fed.config import TrainingConfig
from feat_fed.train import cpu_threads, open_engine, preload

def train():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 1024), nn.SiLU(), nn.Linear(1024, 64))
    x = torch.randn(512, 64)
    with cpu_threads(2), closing(open_engine(model, TrainingConfig(engine="deepspeed"))) as engine:
        for _ in range(3):
            engine.step([lambda model: (model(x) - x).square().mean()])
        weights = engine.weights()
    return hashlib.sha256(b"".join(w.numpy().tobytes() for w in weights.values())).hexdigest()
"""

FORKED = """
def threads():
    return len(os.listdir("/proc/self/task"))

before = threads()
preload()
assert threads() == before, "a parent with threads of its own must not fork"

def in_child():
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, train().encode())
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    return os.read(reader, 100).decode()

digests = [in_child(), in_child(), train()]
assert len(set(digests)) == 1, digests
"""


def run(script: str, folder: Path) -> None:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "OMP_"))
    }
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads in /proc")
def test_children_of_a_preloaded_parent_train_alike(tmp_path: Path) -> None:
    run(TRAIN + FORKED, tmp_path)

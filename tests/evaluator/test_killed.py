"""An evaluator that is killed at any change of the disk, again and again, loses no number."""

from __future__ import annotations

import os
import shutil
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluated_run import complete, evaluated_run, scored
from feat_fed.atomic import write_bytes_atomically
from feat_fed.evaluator import bench
from feat_fed.evaluator import watch as watching
from feat_fed.evaluator.watch import watch
from feat_fed.report import SampleFiles
from feat_fed.report.evaluation_folder import EvaluationFolder

_CHANGES = (
    *((Path, name) for name in ("replace", "rename", "unlink", "mkdir")),
    *((os, name) for name in ("link", "fsync")),
    (shutil, "rmtree"),
)


def killed_at(run: Path, change: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Run the evaluator in a process that is killed before its n-th change; whether it was."""
    pid = os.fork()
    if pid == 0:
        left = change

        def counted(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                nonlocal left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*arguments, **options)

            return call

        for owner, name in _CHANGES:
            monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
        try:
            watch(run, look_sec=0.0)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert status in (0, signal.SIGKILL)
    return status != 0


def numbers(run: Path) -> dict[int | None, object]:
    """All that was measured, but when and for how long; each round once."""
    found = EvaluationFolder.of_run(run).evaluations()
    by_round = {each.round: each.model_dump(exclude={"at", "seconds"}) for each in found}
    assert len(by_round) == len(found)
    return by_round


def left(run: Path) -> dict[str, bytes]:
    """All files in the evaluator's folder, without those that tell times."""
    root = EvaluationFolder.of_run(run).root
    found = {str(each.relative_to(root)): each for each in root.rglob("*")}
    return {
        name: b"" if path.is_dir() or name in ("metrics.jsonl", "live.json") else path.read_bytes()
        for name, path in found.items()
    }


def write_pixels(folder: Path, clips_NTHWC: np.ndarray, *, fps: float) -> None:
    """Write three files in place of films, which take long."""
    folder.mkdir()
    files = SampleFiles.under(folder)
    for path in (files.mp4, files.gif, files.contact_sheet):
        write_bytes_atomically(path, clips_NTHWC.tobytes())


def test_kills_cost_the_evaluation_in_flight_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "evaluate", scored({}))
    monkeypatch.setattr(watching, "write_samples", write_pixels)
    store = evaluated_run(tmp_path, rounds=1)
    complete(store)
    whole = tmp_path / "whole"
    shutil.copytree(store.root, whole)
    watch(whole, look_sec=0.0)
    change = 0
    while killed_at(store.root, change := change + 1, monkeypatch):
        assert change < 200
        metrics = EvaluationFolder.of_run(store.root).metrics
        if metrics.exists():  # what a kill inside a write leaves
            with metrics.open("ab") as file:
                file.write(b'{"at": "2026-')
    assert change > 20
    assert numbers(store.root) == numbers(whole)
    assert left(store.root) == left(whole)

"""Trials in a child process (:mod:`.trial`), whatever becomes of it."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Literal

from feat_fed.config import SiteConfig, StudyConfig
from feat_fed.data import ClipEntry
from feat_fed.data.reading.clip import Box
from feat_fed.processes import ChildGroup
from feat_fed_client.check.trial import (
    EncodeTrial,
    StepTrial,
    TrialClip,
    TrialFailure,
    TrialResult,
    TrialTask,
)

TRAIN_TIMEOUT_SEC = 600.0
ENCODE_TIMEOUT_SEC = 120.0

__all__ = ["EncodeTrial", "StepTrial", "Trouble", "try_encoding", "try_step"]


@dataclass(frozen=True)
class Trouble:
    """Why a trial gave no numbers."""

    kind: Literal["memory", "slow", "failed"]
    code: str
    """Of the error, or how the process ended."""
    text: str = ""
    """May hold paths."""


def try_step(site: SiteConfig, study: StudyConfig, *, patients: int = 1) -> StepTrial | Trouble:
    """Take some steps of the study's training on this machine.

    Parameters
    ----------
    patients
        Who take part in a private step.
    """
    label = min(site.data.label or 0, study.model.num_classes - 1)
    task = TrialTask(
        kind="train",
        site=site,
        study=study,
        label=label if study.model.num_classes else None,
        patients=patients,
    )
    result = _run(task, TRAIN_TIMEOUT_SEC)
    if isinstance(result, Trouble):
        return result
    return result.step or Trouble("failed", "no result")


def try_encoding(
    site: SiteConfig, study: StudyConfig, clips: dict[Path, ClipEntry]
) -> EncodeTrial | Trouble:
    """Encode some clips as a round would, and throw the latents away."""
    task = TrialTask(
        kind="encode",
        site=site,
        study=study,
        clips=tuple(_trial_clip(path, each) for path, each in clips.items()),
    )
    result = _run(task, ENCODE_TIMEOUT_SEC)
    if isinstance(result, Trouble):
        return result
    return result.encode or Trouble("failed", "no result")


def _run(task: TrialTask, timeout_sec: float) -> TrialResult | Trouble:
    with tempfile.TemporaryDirectory(prefix="feat-fed-check-") as name, ChildGroup() as children:
        folder = Path(name)
        task_file, result_file = folder / "task.json", folder / "result.json"
        task_file.write_text(task.model_dump_json())
        child = children.start(
            "the trial",
            [sys.executable, "-m", "feat_fed_client.check.trial", str(task_file), str(result_file)],
            log_file=folder / "log",
        )
        try:
            code = child.process.wait(timeout_sec)
        except subprocess.TimeoutExpired:
            return Trouble("slow", f"{timeout_sec:.0f} s")
        if result_file.exists():
            result = TrialResult.model_validate_json(result_file.read_bytes())
            return _trouble(result.failure) if result.failure else result
    # Nothing else sends this signal: the kernel does when memory is short.
    if code == -signal.SIGKILL:
        return Trouble("memory", "killed")
    return Trouble("failed", signal.Signals(-code).name if code < 0 else f"exit status {code}")


def _trouble(failure: TrialFailure) -> Trouble:
    return Trouble("memory" if failure.code == "memory" else "failed", failure.code, failure.text)


def _trial_clip(path: Path, entry: ClipEntry) -> TrialClip:
    return TrialClip(
        path=path,
        sha256=entry.sha256,
        num_frames=entry.num_frames,
        height_px=entry.height_px,
        width_px=entry.width_px,
        field=_corners(entry.field) if entry.field else None,
        overlays=tuple(_corners(each) for each in entry.overlays),
    )


def _corners(box: Box) -> tuple[int, int, int, int]:
    left, top, right, bottom = astuple(box)
    return left, top, right, bottom

"""Curves for TensorBoard, where they cannot be written."""

from functools import partial
from pathlib import Path

import pytest

from feat_fed.scalar_events import ScalarEvents
from feat_fed.train import StepProgress
from feat_fed_client import events as events_module
from feat_fed_client.events import round_events


class FullDisk:
    """A writer whose disk is full."""

    def __init__(self, path: str) -> None:
        self.written = 0

    def write(self, content: bytes) -> None:
        self.written += 1
        if self.written > 2:  # the two that begin a file
            raise OSError(28, "No space left on device")

    def close(self) -> None:
        raise OSError(28, "No space left on device")


def step(loss: float | None) -> StepProgress:
    return StepProgress(step=1, steps=2, loss=loss, clips_per_sec=1.0)


def test_a_full_disk_costs_the_curves_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tensorboardX.RecordWriter", FullDisk)
    with round_events(tmp_path, study_id="0" * 32, first_step=0) as events:
        events.step(step(0.5), step=0)
        events.step(step(0.5), step=1)
        events.heldout(0.5, step=0)
    assert caplog.text.count("No space left on device") == 1


def test_a_folder_that_cannot_be_made_costs_the_curves_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tensorboard").write_text("a file")
    with round_events(tmp_path, study_id="0" * 32, first_step=0) as events:
        events.step(step(0.5), step=0)
    assert caplog.text.count("no events for TensorBoard") == 1


def test_what_is_written_is_on_disk_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "ScalarEvents", partial(ScalarEvents, flush_sec=0.0))
    with round_events(tmp_path, study_id="0" * 32, first_step=0) as events:
        (file,) = (tmp_path / "tensorboard" / ("0" * 32)).iterdir()
        size = file.stat().st_size
        events.step(step(None), step=0)
        assert file.stat().st_size > size

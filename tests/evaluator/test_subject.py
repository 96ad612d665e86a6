"""Clips of rounds, checkpoints and others, drawn batch by batch."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from clip_files import moving_frames, write_video
from feat_fed.config import SamplerConfig
from feat_fed.errors import ConfigError, DataError, RunError, StorageError
from feat_fed.evaluate.clips import ClipSource
from feat_fed.evaluate.protocol import load_protocol
from feat_fed.evaluator.drawing import draw_clips
from feat_fed.evaluator.subject import Drawing, of_checkpoint, of_round, of_videos
from feat_fed.generate import run_pipeline
from feat_fed.report import RunStore
from tiny_run import tiny_run

PLAIN = load_protocol("plain")
FIVE = SamplerConfig(steps=2, num_clips=5, seed=3)


@pytest.fixture
def run(tmp_path: Path) -> RunStore:
    return tiny_run(tmp_path / "run")


def pixels(clips: ClipSource) -> np.ndarray:
    return np.stack([clips.read(index, 0, 4) for index in range(len(clips))])


def test_clips_are_those_of_their_seeds_whatever_the_batch(run: RunStore, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    pipeline = run_pipeline(run, FIVE)
    whole = draw_clips(pipeline, FIVE, batch_clips=5)
    parts = draw_clips(
        pipeline, FIVE, batch_clips=2, scratch=tmp_path, progress=lambda *at: told.append(at)
    )
    assert (whole.shape, whole.dtype) == ((5, 4, 16, 16, 3), np.uint8)
    assert np.abs(parts.astype(int) - whole).max() <= 1
    assert told == [(0, 5), (2, 5), (4, 5), (5, 5)]
    assert [each.name for each in tmp_path.iterdir()] == ["run"]  # the file has no name


def test_a_full_disk_is_told_before_it_kills(
    run: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match=r"15,360 bytes for 5 clips cannot be had"):
        draw_clips(run_pipeline(run, FIVE), FIVE, batch_clips=5)


def test_a_round_and_its_exported_folder_give_the_same_clips(run: RunStore, tmp_path: Path) -> None:
    drawing = Drawing(FIVE)
    of_run = of_round(run, PLAIN, drawing, round_number=1)
    run_pipeline(run, FIVE, round_number=1).save_pretrained(tmp_path / "export")
    exported = of_checkpoint(tmp_path / "export", PLAIN, drawing)
    quiet = lambda done, total: None  # noqa: E731
    assert np.array_equal(pixels(of_run.make(quiet)), pixels(exported.make(quiet)))
    assert (of_run.round, of_run.weights, of_run.seed) == (1, "ema", 3)
    assert of_run.sampler["kind"] == exported.sampler["kind"] == "ddim"
    assert of_run.sampler["num_clips"] == 5
    assert len({of_run.weights_sha256, exported.weights_sha256, ""}) == 3
    other = of_round(run, PLAIN, drawing, round_number=1, weights="global")
    assert other.weights_sha256 != of_run.weights_sha256


def test_what_cannot_be_measured_is_told_before_anything_is_drawn(run: RunStore) -> None:
    with pytest.raises(ConfigError, match="clips of 4 frames and protocol feat-paper measures 16"):
        of_round(run, load_protocol("feat-paper"), Drawing(FIVE), round_number=0)
    with pytest.raises(RunError, match="has no weights of round 7"):
        of_round(run, PLAIN, Drawing(FIVE), round_number=7)
    enlarged = PLAIN.model_copy(update={"frames": PLAIN.frames.model_copy(update={"size_px": 128})})
    subject = of_round(run, enlarged, Drawing(FIVE), round_number=0)
    assert "makes 16 x 16 px and protocol plain measures at 128 px" in subject.notes[0]


def test_videos_of_another_model_are_taken_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        of_videos(tmp_path / "none")
    write_video(tmp_path / "a.mp4", moving_frames(), "libx264")
    subject = of_videos(tmp_path)
    assert len(subject.make(lambda done, total: None)) == 1
    assert (subject.source, subject.sampler) == ("folder", {})

"""``feat-fed evaluate``, from the command to the record."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from clip_files import moving_frames, write_video
from feat_fed.cli.main import run_app
from feat_fed.data.inventory.manifest import Manifest
from feat_fed.evaluate.clips import FileClips
from feat_fed.report import RunStore
from feat_fed.report.evaluation_folder import EvaluationFolder
from tiny_run import tiny_run

VIDEOS = 6
FEW = ("--metric", "FVD-random", "--metric", "sharpness")


def write_videos(folder: Path, *, seed: int, contrast: float = 1.0) -> Path:
    """Write lossless videos of a pattern that differs between them."""
    folder.mkdir()
    random = np.random.default_rng(seed)
    for number in range(VIDEOS):
        shift, frames = random.integers(40, size=2), moving_frames(8, 32, 32)
        frames = np.roll(frames, tuple(shift), axis=(1, 2)).astype(float)
        noise = random.normal(0, 12, frames.shape)
        noisy = np.clip(127 + contrast * (frames - 127) + noise, 0, 255).astype(np.uint8)
        write_video(folder / f"{number}.mkv", noisy, "ffv1", "bgr0")
    return folder


@pytest.fixture
def real(tmp_path: Path) -> Path:
    return write_videos(tmp_path / "real", seed=0)


@pytest.fixture
def run(tmp_path: Path) -> RunStore:
    return tiny_run(tmp_path / "run")


def measured(capsys: pytest.CaptureFixture[str], *options: object) -> dict[str, object]:
    """Run the command for a machine; return its record without what time makes different."""
    assert run_app(["evaluate", "--json", "--device", "cpu", *map(str, options)]) == 0
    record: dict[str, object] = json.loads(capsys.readouterr().out)
    return {name: value for name, value in record.items() if name not in ("at", "seconds")}


def value(record: dict[str, object], metric: str) -> float:
    metrics = record["metrics"]
    assert isinstance(metrics, list)
    return next(each["value"] for each in metrics if each["metric"] == metric)


def refused(capsys: pytest.CaptureFixture[str], *options: object) -> str:
    assert run_app(["evaluate", *map(str, options)]) == 1
    return " ".join(capsys.readouterr().err.split())


def test_videos_of_another_model_give_the_same_numbers_twice(
    tmp_path: Path, real: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    near = write_videos(tmp_path / "near", seed=1)
    far = write_videos(tmp_path / "far", seed=2, contrast=0.3)
    options = ("--benchmark", "folder", "--folder", real, *FEW, "--cache", tmp_path / "cache")
    first = measured(capsys, "--videos", near, *options)
    again = measured(capsys, "--videos", near, *options, "--out", tmp_path / "log.jsonl")
    assert again == first
    assert first["benchmark"] == "folder" and first["source"] == "folder"
    assert value(first, "FVD-random") < value(
        measured(capsys, "--videos", far, *options), "FVD-random"
    )
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 1
    assert list((tmp_path / "cache").iterdir()) != []


def test_a_round_is_measured_shown_and_recorded(
    run: RunStore, real: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--run", run.root, "--folder", real, "-n", 5, "--batch-clips", 2)
    assert run_app(["evaluate", *map(str, options), "--round", "0"]) == 0
    shown = capsys.readouterr()
    assert "round 0 (ema) against folder" in shown.out
    assert "FVD-random" in shown.out and "95 % interval" in shown.out
    assert "warning: FVD-random: " in shown.err and "protocol plain (" in shown.err
    last = measured(capsys, *options, "--weights", "global", "--seed", 9)
    recorded = EvaluationFolder.of_run(run.root).evaluations()
    assert [(each.round, each.weights, each.seed) for each in recorded] == [
        (0, "ema", 0),
        (1, "global", 9),
    ]
    assert last["sampler"]["num_clips"] == 5
    assert recorded[0].networks.keys() == {"random"}


def test_videos_that_the_run_was_trained_on_are_refused(
    run: RunStore, real: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sha256 = FileClips("", [(real / "2.mkv",)], [""]).sha256s[0]
    store = run.root / "sites" / "a" / "store"
    store.mkdir(parents=True)
    with Manifest(store, alone=None) as manifest, manifest.changing() as database:
        database.execute("INSERT INTO contents VALUES (?, 'p')", (sha256,))
        database.execute("INSERT INTO sides VALUES ('0.2', 'p', 'train')")
    options = ("--run", run.root, "--folder", real, "-n", 4, *FEW)
    assert "1 of 6 videos (benchmark folder) were trained on" in refused(capsys, *options)
    allowed = measured(capsys, *options, "--even-trained-on")
    assert allowed["benchmark"] == "folder (trained on: 1 of 6)"


def test_too_few_videos_are_told(tmp_path: Path, real: Path, capsys) -> None:
    two = tmp_path / "two"
    two.mkdir()
    for number in range(2):
        (two / f"{number}.mkv").write_bytes((real / f"{number}.mkv").read_bytes())
    assert "has 2 videos" in refused(capsys, "--videos", real, "--folder", two)
    assert "has 2 videos" in refused(capsys, "--videos", two, "--folder", real)


def test_a_broken_file_is_told_by_name(tmp_path: Path, real: Path, capsys) -> None:
    (real / "3.mkv").write_bytes((real / "3.mkv").read_bytes()[:400])
    videos = write_videos(tmp_path / "v", seed=3)
    assert "folder: 3.mkv: " in refused(capsys, "--videos", videos, "--folder", real)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "give one of --run, --checkpoint and --videos (given: none)"),
        (("--videos", "v", "--checkpoint", "c"), "(given: --checkpoint, --videos)"),
        (("--videos", "v", "--round", "1"), "--round says nothing of --videos; leave it out"),
        (("--videos", "v", "-n", "8"), "--num-clips says nothing of --videos"),
        (("--checkpoint", "c", "--weights", "ema"), "--weights says nothing of --checkpoint"),
        (("--videos", "v"), "--folder is missing; give where the real videos are (folder)"),
        (("--videos", "v", "--folder", "f", "--network", "i3d"), "is not NAME=PATH"),
        (("--videos", "v", "--folder", "f", "--protocol", "feat-paper"), "i3d_torchscript.pt"),
        (("--videos", "v", "--folder", "f", "--metric", "BLEU"), "has no BLEU"),
        (
            ("--videos", "v", "--folder", "f", "--network", f"inception=/none/x.pt:{'0' * 64}"),
            "there is no file /none/x.pt",
        ),
        (
            ("--videos", "v", "--folder", "f", "--network", "inception=a.mp4:abcd"),
            "'abcd' is no SHA-256, which has 64 digits",
        ),
        (("--videos", ".", "--folder", ".", "--benchmark", "kinetics"), "no benchmark 'kinetics'"),
        (("--videos", ".", "--folder", ".", "--device", "cuda"), "torch finds no CUDA device here"),
        (("--videos", ".", "--folder", ".", "--out", "."), ". cannot be written: Is a directory"),
        (("--videos", ".", "--folder", ".", "--out", "/dev/full"), "/dev/full is no file"),
    ],
)
def test_a_wrong_command_says_what_is_meant(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    says: str,
) -> None:
    write_video(tmp_path / "a.mp4", moving_frames(4), "libx264")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert says in refused(capsys, *options)

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from feat_fed.report import write_samples
from feat_fed.report.samples import write_clips


def psnr_db(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * np.log10(255**2 / max(1e-9, np.mean((a.astype(float) - b) ** 2)))


def film_frames(path: Path) -> list[np.ndarray]:
    with av.open(path) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def gif_frames(path: Path) -> tuple[list[np.ndarray], list[int]]:
    with Image.open(path) as image:
        assert image.info["loop"] == 0
        pairs = []
        for index in range(image.n_frames):
            image.seek(index)
            pairs.append((np.asarray(image.convert("RGB")), image.info["duration"]))
    return [frame for frame, _ in pairs], [ms for _, ms in pairs]


def colours(clips: int, frames: int, size_px: int) -> np.ndarray:
    """Return clips of one colour each, that fade to black evenly."""
    first = np.random.default_rng(0).integers(100, 200, (clips, 1, 1, 1, 3))
    light = np.linspace(1, 0, frames)[:, None, None, None]
    shape = (clips, frames, size_px, size_px, 3)
    return np.broadcast_to(first * light, shape).astype(np.uint8)


def test_the_film_is_what_browsers_play(tmp_path: Path, beating_clips: np.ndarray) -> None:
    files = write_samples(tmp_path, beating_clips, fps=12.5)
    with av.open(files.mp4) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert (stream.frames, stream.average_rate) == (16, 12.5)
    content = files.mp4.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


@pytest.mark.parametrize("kind", ["mp4", "gif"])
def test_each_clip_plays_in_its_place(tmp_path: Path, kind: str) -> None:
    clips = colours(6, 5, 128)
    files = write_samples(tmp_path, clips, fps=10)
    frames = film_frames(files.mp4) if kind == "mp4" else gif_frames(files.gif)[0]
    assert len(frames) == 5
    for time, frame in enumerate(frames):
        assert frame.shape == (2 * 128 + 4, 4 * 128 + 3 * 4, 3)
        for index in range(6):
            top, left = index // 4 * 132, index % 4 * 132
            cell = frame[top + 4 : top + 124, left + 4 : left + 124]
            assert psnr_db(cell, clips[index, time, 4:124, 4:124]) > 35


@pytest.mark.parametrize("kind", ["mp4", "gif"])
def test_small_frames_are_enlarged_faithfully(
    tmp_path: Path, beating_clips: np.ndarray, kind: str
) -> None:
    files = write_samples(tmp_path, beating_clips[:1], fps=8)
    frames = film_frames(files.mp4) if kind == "mp4" else gif_frames(files.gif)[0]
    for frame, original in zip(frames, beating_clips[0], strict=True):
        assert frame.shape == (128, 128, 3)
        assert psnr_db(frame.reshape(64, 2, 64, 2, 3).mean((1, 3)), original) > 34


@pytest.mark.parametrize("fps", [8, 24, 30])
def test_the_gif_lasts_as_long_as_the_film(
    tmp_path: Path, beating_clips: np.ndarray, fps: float
) -> None:
    files = write_samples(tmp_path, beating_clips, fps=fps)
    assert sum(gif_frames(files.gif)[1]) == pytest.approx(16_000 / fps, abs=10)


def test_the_sheet_has_a_row_a_clip_from_first_frame_to_last(tmp_path: Path) -> None:
    clips = colours(3, 15, 128)
    files = write_samples(tmp_path, clips, fps=10)
    sheet = np.asarray(Image.open(files.contact_sheet))
    assert sheet.shape == (3 * 132 - 4, 8 * 132 - 4, 3)
    centres = sheet[64::132, 64::132]
    np.testing.assert_array_equal(centres, clips[:, ::2, 0, 0])


@pytest.mark.parametrize("shape", [(1, 1, 17, 31, 3), (20, 2, 33, 129, 3), (1, 3, 300, 200, 3)])
def test_any_size_and_number_is_written(tmp_path: Path, shape: tuple[int, ...]) -> None:
    clips = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    files = write_samples(tmp_path / "new", clips, fps=10)
    frames = film_frames(files.mp4)
    assert len(frames) == len(gif_frames(files.gif)[0]) == shape[1]
    assert frames[0].shape[0] % 2 == frames[0].shape[1] % 2 == 0
    assert sorted(each.suffix for each in (tmp_path / "new").iterdir()) == [".gif", ".mp4", ".png"]


@pytest.mark.parametrize(
    "clips",
    [
        np.zeros((1, 2, 8, 8, 1), np.uint8),
        np.zeros((0, 2, 8, 8, 3), np.uint8),
        np.zeros((1, 2, 8, 8, 3), np.float32),
    ],
)
def test_what_is_no_batch_of_clips_is_refused(tmp_path: Path, clips: np.ndarray) -> None:
    with pytest.raises(ValueError, match="give uint8 of shape"):
        write_samples(tmp_path, clips, fps=8)


def test_a_rate_of_nothing_is_refused(tmp_path: Path, beating_clips: np.ndarray) -> None:
    with pytest.raises(ValueError, match="fps is 0"):
        write_samples(tmp_path, beating_clips, fps=0)


def test_each_clip_becomes_a_file_and_older_ones_go(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("kept")
    write_clips(tmp_path, colours(5, 3, 32), fps=10)
    clips = colours(3, 4, 31)
    write_clips(tmp_path, clips, fps=10)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["clip-0000.mp4", "clip-0001.mp4", "clip-0002.mp4", "notes.txt"]
    for index, clip in enumerate(clips):
        frames = film_frames(tmp_path / names[index])
        assert [frame.shape for frame in frames] == [(32, 32, 3)] * 4
        assert psnr_db(np.stack(frames)[:, :28, :28], clip[:, :28, :28]) > 30

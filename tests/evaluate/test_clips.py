"""Videos to be measured: windows, digests, and errors that name the file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from clip_files import decode, moving_frames, write_frames, write_video
from feat_fed.errors import DataError
from feat_fed.evaluate.clips import ArrayClips, FileClips


@pytest.fixture
def videos(tmp_path: Path) -> FileClips:
    """A video file and a folder of frames, of different sizes."""
    video = write_video(tmp_path / "a.mp4", moving_frames(), "libx264")
    frames = write_frames(tmp_path / "b", moving_frames(12, 32, 40))
    return FileClips("two", [(video,), frames], ["a.mp4", "b"])


def test_a_window_is_that_of_a_whole_decode(videos: FileClips, tmp_path: Path) -> None:
    whole = decode(tmp_path / "a.mp4")
    assert videos.num_frames(0) == len(whole)
    assert np.array_equal(videos.read(0, 3, 4, stride=5), whole[3:19:5])
    assert np.array_equal(videos.read(1, 2, 3), moving_frames(12, 32, 40)[2:5])
    assert videos.size_px(1) == (32, 40)


def test_the_digest_is_of_contents_in_order_wherever_they_lie(
    videos: FileClips, tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere.mp4"
    moved.write_bytes((tmp_path / "a.mp4").read_bytes())
    frames = tuple(sorted((tmp_path / "b").iterdir()))
    same = FileClips("x", [(moved,), frames], ["x", "y"])
    turned = FileClips("x", [frames, (moved,)], ["y", "x"])
    assert videos.sha256s[0] == hashlib.sha256(moved.read_bytes()).hexdigest()
    assert same.digest == videos.digest != turned.digest


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / "a.mp4").write_bytes(b""), "a.mp4: "),
        (lambda folder: (folder / "a.mp4").unlink(), "a.mp4: "),
        (lambda folder: (folder / "b" / "000003.png").write_bytes(b"x"), "b/000003.png: not a rea"),
    ],
)
def test_a_broken_file_is_named(videos: FileClips, tmp_path: Path, damage, reason: str) -> None:
    damage(tmp_path)
    with pytest.raises(DataError, match=reason):
        for index in range(2):
            videos.read(index, 0, 6)


def test_a_video_that_is_too_short_is_named(videos: FileClips) -> None:
    with pytest.raises(DataError, match=r"two: b: fewer frames than asked for"):
        videos.read(1, 8, 6)


def test_an_array_is_videos_too() -> None:
    array = np.stack([moving_frames(), moving_frames()[::-1]])
    clips = ArrayClips("drawn", array)
    assert len(clips) == 2
    assert np.array_equal(clips.read(1, 1, 3, stride=2), array[1, 1:6:2])
    assert clips.digest == ArrayClips("other", array.copy()).digest
    assert clips.digest != ArrayClips("drawn", array[::-1]).digest
    with pytest.raises(DataError, match="frames 20 to 25 are asked for, of 24"):
        clips.read(0, 20, 6)
    with pytest.raises(DataError, match=r"not \(N, T, H, W, 3\) of uint8"):
        ArrayClips("drawn", array.astype(np.float32))

"""Windows of clips in memory."""

import numpy as np
import pytest

from feat_fed.downstream.settings import WindowSettings
from feat_fed.downstream.windows import check_memory, decode_windows, window_places, windows_bytes
from feat_fed.errors import ConfigError, DataError
from feat_fed.evaluate.clips import ArrayClips


@pytest.mark.parametrize(
    ("frames", "views", "places"),
    [
        (100, 3, ([0, 42, 85], 2)),  # from the first frame to the last: 85 + 7 * 2 = 99
        (100, 1, ([42], 2)),
        (16, 3, ([0, 0, 1], 2)),
        (15, 2, ([0, 0], 2)),
        (14, 2, ([0, 6], 1)),
        (8, 3, ([0, 0, 0], 1)),
    ],
)
def test_windows_lie_evenly_over_a_clip(
    frames: int, views: int, places: tuple[list[int], int]
) -> None:
    assert window_places(frames, WindowSettings(views=views)) == places


def test_a_clip_shorter_than_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match="7 frames, and a window has 8"):
        window_places(7, WindowSettings())


def test_frames_are_cropped_and_resized_and_keep_their_values() -> None:
    clips = np.zeros((2, 20, 40, 80, 3), dtype=np.uint8)
    clips[0] = np.arange(20, dtype=np.uint8)[:, None, None, None] * 10
    clips[1, :, :, 20:60] = (250, 100, 0)
    settings = WindowSettings(size_px=32, num_frames=4, stride_frames=3, views=2)
    windows = decode_windows(ArrayClips("made", clips), settings)
    assert windows.shape == (2, 2, 4, 32, 32, 3)
    assert windows[0, :, :, 5, 5, 0].tolist() == [[0, 30, 60, 90], [100, 130, 160, 190]]
    assert (windows[1] == (250, 100, 0)).all()
    padded = decode_windows(ArrayClips("made", clips), settings.model_copy(update={"fit": "pad"}))
    assert (padded[1, 0, 0, 16] == 0).all(axis=-1).sum() > 10


def test_too_short_clips_are_all_named() -> None:
    clips = ArrayClips("made", np.zeros((3, 5, 32, 32, 3), dtype=np.uint8))
    with pytest.raises(DataError, match=r"3 of 3 clips cannot be used\. made: clip 0: 5 frames"):
        decode_windows(clips, WindowSettings(size_px=32))


def test_memory_is_bounded_before_anything_is_decoded() -> None:
    settings = WindowSettings(memory_gb=0.001)
    assert windows_bytes(5, settings) == 5 * 3 * 8 * 64 * 64 * 3
    with pytest.raises(ConfigError, match=r"take 0\.0015 GB, and windows\.memory_gb is"):
        check_memory(5, settings)
    check_memory(5, settings.model_copy(update={"memory_gb": 0.002}))

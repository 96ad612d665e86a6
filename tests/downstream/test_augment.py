"""Weak and strong augmentation: one draw for all frames of a clip."""

import numpy as np
import pytest

from feat_fed.downstream.augment import OPERATIONS, SHIFT, strong, weak
from labelled_clips import phantom

STILL = np.repeat(phantom("endoscopy", 0)[:1], 5, axis=0)
MOVING = phantom("endoscopy", 0)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("strength", [0.0, 0.5, 0.999])
def test_an_operation_treats_all_frames_alike(name: str, strength: float) -> None:
    """A still clip stays still; sharpness may see a frame's neighbour in its first and last row."""
    for backwards in (False, True):
        changed = OPERATIONS[name](STILL, strength, backwards)
        assert changed.shape == STILL.shape
        assert changed.dtype == np.uint8
        rows = slice(1, -1) if name == "sharpness" else slice(None)
        assert (changed[1:-1, rows] == changed[2, rows]).all()


def test_operations_are_fixmatchs_and_all_but_identity_change_something() -> None:
    assert len(OPERATIONS) == 14
    same = [
        name
        for name, operation in OPERATIONS.items()
        if (operation(MOVING, 0.4, False) == MOVING).all()
    ]
    assert same in (["identity"], ["autocontrast", "identity"])


def test_brightness_is_the_clips_and_not_each_frames() -> None:
    """A fade must stay a fade, so stretching the contrast sees all frames at once."""
    grey = np.linspace(40, 120, 6).astype(np.uint8)
    fade = np.broadcast_to(grey[:, None, None, None], (6, 32, 32, 3)).copy()
    stretched = OPERATIONS["autocontrast"](fade, 0.5, False)[:, 0, 0, 0].astype(int)
    assert stretched[0] == 0
    assert stretched[-1] == 255
    assert (np.diff(stretched) > 0).all()


def test_affine_operations_move_a_point_where_they_say() -> None:
    clip = np.zeros((1, 41, 41, 3), dtype=np.uint8)
    clip[0, 20, 30] = 255

    def brightest(name: str, strength: float) -> tuple[int, int]:
        moved = OPERATIONS[name](clip, strength, False)[0, ..., 0].astype(int)
        moved[moved == 127] = 0  # what was filled in
        row, column = np.unravel_index(moved.argmax(), moved.shape)
        return int(row), int(column)

    assert brightest("rotate", 0.0) == (20, 30)
    assert brightest("translate_x", 10 / (0.3 * 41)) == (20, 20)
    assert brightest("translate_y", 10 / (0.3 * 41)) == (10, 30)
    row, column = brightest("rotate", 0.999)  # 30 degrees, 10 px from the middle
    assert abs(row - 20) == 5
    assert column in (28, 29)


def test_weak_augmentation_mirrors_and_shifts_within_bounds() -> None:
    side = MOVING.shape[1]
    most = round(SHIFT * side)
    padded = np.pad(MOVING, ((0, 0), (most, most), (most, most), (0, 0)), mode="reflect")
    allowed = {
        (window[:, :, ::-1] if mirrored else window).tobytes()
        for top in range(2 * most + 1)
        for left in range(2 * most + 1)
        for mirrored in (False, True)
        for window in (padded[:, top : top + side, left : left + side],)
    }
    clips = np.repeat(MOVING[None], 40, axis=0)
    drawn = weak(clips, np.random.default_rng(0))
    assert {clip.tobytes() for clip in drawn} <= allowed
    assert len({clip.tobytes() for clip in drawn}) > 20


def test_without_mirroring_left_stays_left() -> None:
    clips = np.zeros((30, 2, 32, 32, 3), dtype=np.uint8)
    clips[:, :, :, 24:] = 255
    for augmented in (
        weak(clips, np.random.default_rng(0), flip=False),
        strong(clips, np.random.default_rng(0), ops=0, flip=False),
    ):
        bright = augmented.mean(axis=(1, 2, 4))
        assert (bright[:, 16:].mean(axis=1) > bright[:, :16].mean(axis=1)).all()


def test_strong_augmentation_cuts_one_place_out_of_all_frames() -> None:
    clips = np.full((30, 4, 32, 32, 3), 200, dtype=np.uint8)
    changed = strong(clips, np.random.default_rng(1), ops=0)
    cut = (changed == 127).all(axis=-1)
    assert (cut == cut[:, :1]).all()
    areas = cut[:, 0].sum(axis=(1, 2))
    assert 0 < areas.max() <= 16 * 16
    assert len(set(areas)) > 5


def test_equal_generators_give_equal_clips() -> None:
    clips = np.stack([MOVING, STILL[:1].repeat(8, axis=0)])
    first, second, third = (strong(clips, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert (first == second).all()
    assert (first != third).any()

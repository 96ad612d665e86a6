"""What a clip shows: counts, motion, darkness, the field, and that one pass is enough."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from clip_files import write_dicom
from feat_fed.config.site import RulesConfig
from feat_fed.data.phantoms import Shape, echo_clip, endoscopy_clip
from feat_fed.data.quality import Look, Sheet, look_at
from feat_fed.data.quality.look import SINGLE_PICTURES
from feat_fed.data.reading.clip import Box
from feat_fed.errors import ClipError
from shared_files import media

RULES = RulesConfig()
SIZE = 96


def phantom(draw=echo_clip, *, frames: int = 20, size_px: int = SIZE) -> np.ndarray:
    return draw(Shape(frames, size_px, 25.0), gain=1.0, rng=np.random.default_rng(3))


def on_black(clip: np.ndarray, *, left: int, top: int, height: int, width: int) -> np.ndarray:
    screen = np.zeros((len(clip), height, width, 3), np.uint8)
    screen[:, top : top + clip.shape[1], left : left + clip.shape[2]] = clip
    return screen


def look(frames, *, regions: tuple[Box, ...] = (), rules: RulesConfig = RULES) -> Look:
    return look_at(frames, regions=regions, rules=rules)[0]


def moving_square(*, size_px: int = 64, frames: int = 20) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.repeat(rng.integers(60, 200, (frames, size_px, size_px, 1), np.uint8), 3, axis=-1)


@pytest.mark.parametrize("frames", [1, 2, 63, 64, 65, 129, 300])
def test_every_frame_is_counted_once(frames: int) -> None:
    assert look(moving_square(size_px=16, frames=frames)).num_frames == frames


def test_motion_and_darkness_are_the_means_over_every_pixel_and_frame() -> None:
    clip = moving_square(frames=150)
    clip[:, :, :32] //= 8  # luma below 25: some of it dark
    grey = clip[..., 0].astype(float)
    found = look(clip, rules=RulesConfig(crop=False))
    assert found.motion == pytest.approx(np.abs(np.diff(grey, axis=0)).mean(), rel=0.05)
    assert found.dark_share == pytest.approx((grey < 16).mean(), abs=0.02)


def test_a_look_is_the_same_every_time_and_fits_json() -> None:
    clip = phantom()
    assert look(iter(clip)) == look(clip)
    assert json.loads(json.dumps(asdict(look(clip))))["num_frames"] == 20


def test_a_black_clip_is_dark_and_still_and_whole() -> None:
    found = look(np.zeros((20, 48, 64, 3), np.uint8))
    assert (found.dark_share, found.motion) == (1.0, 0.0)
    assert (found.field, found.field_from) == (Box(0, 0, 64, 48), "whole")


def test_a_picture_that_stands_still_is_cut_out_by_what_is_not_black() -> None:
    still = np.repeat(moving_square(frames=1, size_px=40), 20, axis=0)
    found = look(on_black(still, left=30, top=20, height=80, width=120))
    assert (found.field, found.field_from, found.motion) == (Box(30, 20, 70, 60), "content", 0.0)


@given(left=st.integers(12, 100), top=st.integers(12, 60))
@settings(max_examples=10, deadline=None)
def test_a_shifted_clip_gives_a_shifted_field(left: int, top: int) -> None:
    clip = phantom(frames=17)
    base = look(on_black(clip, left=12, top=12, height=180, width=220)).field
    found = look(on_black(clip, left=left, top=top, height=180, width=220)).field
    right, down = left - 12, top - 12
    moved = Box(base.left + right, base.top + down, base.right + right, base.bottom + down)
    assert found == moved


def test_what_moves_is_the_field_and_a_bright_menu_is_not() -> None:
    screen = on_black(moving_square(), left=70, top=30, height=120, width=200)
    screen[:, :14] = 210  # a bar across the top
    screen[:, 20:110, :40] = 150  # a panel at the left
    found = look(screen)
    assert found.field_from == "content"
    assert np.abs(np.subtract(edges(found.field), (70, 30, 134, 94))).max() <= 3


def edges(box: Box) -> tuple[int, int, int, int]:
    return box.left, box.top, box.right, box.bottom


def test_one_broken_frame_moves_no_field() -> None:
    screen = on_black(moving_square(frames=70), left=70, top=30, height=120, width=200)
    field = look(screen).field
    screen[33] = np.random.default_rng(1).integers(0, 255, screen[33].shape, np.uint8)
    assert look(screen).field == field


def test_repeated_frames_hide_no_motion() -> None:
    clip = on_black(moving_square(), left=40, top=20, height=100, width=140)
    assert look(np.repeat(clip, 3, axis=0)).field == look(clip).field


@pytest.mark.parametrize(("cut", "sides"), [(0, 0), (20, 0), (0, 60)])
def test_an_endoscopes_disc_is_found_though_the_frame_cuts_it(cut: int, sides: int) -> None:
    clip = phantom(endoscopy_clip, size_px=128)
    clip = np.pad(clip[:, cut : 128 - cut], ((0, 0), (0, 0), (sides, sides), (0, 0)))
    found = look(clip)
    assert found.field_from == "circle"
    disc = Box(sides + 4, max(0, 4 - cut), sides + 124, min(128 - 2 * cut, 124 - cut))
    assert np.abs(np.subtract(edges(found.field), edges(disc))).max() <= 6


def test_an_octagon_counts_as_an_endoscopes_field_and_a_sector_does_not() -> None:
    corners = [(64 + 60 * np.cos(a), 64 + 60 * np.sin(a)) for a in np.pi * (np.arange(8) + 0.5) / 4]
    canvas = Image.new("1", (128, 128))
    ImageDraw.Draw(canvas).polygon(corners, fill=1)
    octagon = moving_square(size_px=128) * np.array(canvas)[None, :, :, None]
    assert look(octagon).field_from == "circle"
    assert look(phantom()).field_from == "content"


def test_the_headers_region_in_which_something_moves_is_taken() -> None:
    screen = on_black(moving_square(), left=70, top=30, height=120, width=200)
    picture, idle = Box(64, 24, 140, 100), Box(0, 0, 50, 120)
    found = look(screen, regions=(idle, picture))
    assert (found.field, found.field_from) == (picture, "header")
    assert look(screen, regions=(idle,)).field_from == "content"  # a header that is wrong


def test_regions_that_touch_are_one_picture() -> None:
    screen = on_black(moving_square(), left=70, top=30, height=120, width=200)
    halves = Box(70, 30, 101, 94), Box(102, 30, 134, 94)
    assert look(screen, regions=halves).field == Box(70, 30, 134, 94)


def test_without_the_crop_the_field_is_the_frame() -> None:
    screen = on_black(moving_square(), left=70, top=30, height=120, width=200)
    found = look(screen, rules=RulesConfig(crop=False))
    assert (found.field, found.field_from) == (Box(0, 0, 200, 120), "whole")


def test_large_frames_are_weighed_small_and_boxes_are_of_the_source() -> None:
    screen = on_black(
        moving_square(size_px=600, frames=6), left=301, top=203, height=1081, width=1921
    )
    assert np.abs(np.subtract(edges(look(screen).field), (301, 203, 901, 803))).max() <= 8


def test_the_sheet_is_small_and_shows_field_and_crop() -> None:
    screen = on_black(moving_square(size_px=300), left=200, top=100, height=500, width=960)
    found, sheet = look_at(screen, regions=(), rules=RULES)
    assert isinstance(sheet, Sheet)
    side = found.field.bottom - found.field.top
    assert sheet.before.shape == (3 * 250 + 8, 480, 3)
    assert sheet.after.shape == (3 * side + 8, side, 3)
    assert (sheet.before == (64, 255, 64)).all(axis=-1).any()


@pytest.mark.parametrize(
    ("frames", "shown"), [(1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (21, [0, 10, 20]), (200, None)]
)
def test_the_sheet_shows_the_first_the_middle_and_the_last_frame(
    frames: int, shown: list[int] | None
) -> None:
    clip = np.broadcast_to(
        np.arange(frames, dtype=np.uint8)[:, None, None, None], (frames, 6, 6, 3)
    )
    rules = RulesConfig(crop=False)
    _, sheet = look_at(clip, regions=(), rules=rules)
    stills = [int(sheet.after[row, 0, 0]) for row in range(0, len(sheet.after), 10)]
    if shown is None:
        assert stills == pytest.approx([0, 100, 200], abs=13)
    else:
        assert stills == pytest.approx(shown, abs=frames // 8)


def unrelated(draw, frames: int = 20) -> np.ndarray:
    one = Shape(1, SIZE, 25.0)
    seeds = (np.random.default_rng(seed) for seed in range(frames))
    return np.concatenate([draw(one, gain=1.0, rng=rng) for rng in seeds])


@pytest.mark.parametrize("draw", [echo_clip, endoscopy_clip])
def test_single_pictures_must_follow_from_each_other(draw) -> None:
    with pytest.raises(ClipError, match="single pictures, not a cine"):
        look_at(unrelated(draw), regions=(), rules=RULES, must_follow=True)
    for fps in (10.0, 25.0):
        cine = draw(Shape(20, SIZE, fps), gain=1.0, rng=np.random.default_rng(1))
        look_at(cine, regions=(), rules=RULES, must_follow=True)
    assert look(unrelated(draw)).num_frames == 20  # a video is a cine: its container says so


@pytest.mark.parametrize("kind", ["pictures", "series"])
def test_a_heap_of_files_is_no_clip_and_a_cine_in_files_is(tmp_path: Path, kind: str) -> None:
    from feat_fed.data.inventory.look import Seen, examine

    cine = endoscopy_clip(Shape(20, SIZE, 25.0), gain=1.0, rng=np.random.default_rng(1))
    for frames, reason in ((unrelated(endoscopy_clip), SINGLE_PICTURES), (cine, "")):
        source = tuple(tmp_path / f"{number:04}" for number in range(len(frames)))
        for number, (path, frame) in enumerate(zip(source, frames, strict=True)):
            if kind == "series":
                more = {"SeriesInstanceUID": "1.2", "InstanceNumber": number + 1}
                write_dicom(path, frame[None], **more)
            else:
                Image.fromarray(frame).save(path, format="PNG")
        seen = examine(source, "series" if kind == "series" else "file", RULES)
        assert isinstance(seen, Seen)
        assert seen.reason == reason


def test_a_moving_probe_is_no_heap_of_pictures() -> None:
    from feat_fed.data.reading.reader import iter_frames

    for name in ("endo/rvim_endo.mp4", "lung_us/Reg_Image_181206_crop.mp4"):
        frames = list(iter_frames(media(name), num_frames=80, stride_frames=2))
        look_at(frames, regions=(), rules=RULES, must_follow=True)


def test_no_frames_is_an_error_and_the_readers_errors_pass() -> None:
    def cut_off() -> Iterator[np.ndarray]:
        yield from moving_square(frames=3)
        raise ClipError("damaged video stream")

    with pytest.raises(ClipError, match="no frames"):
        look([])
    with pytest.raises(ClipError, match="damaged video stream"):
        look(cut_off())


def test_memory_does_not_grow_with_the_number_of_frames() -> None:
    import tracemalloc

    def peak_bytes(frames: int) -> int:
        clip = moving_square(frames=1, size_px=128)[0]
        tracemalloc.start()
        look(np.roll(clip, index, axis=1) for index in range(frames))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak_bytes(1200) < 1.2 * peak_bytes(150)


@pytest.mark.parametrize(
    ("name", "source"),
    [("endo/rvim_endo.mp4", "circle"), ("us_phantom/clarius-ocular-short.mp4", "content")],
)
def test_real_clips_keep_their_picture_and_lose_what_is_around(name: str, source: str) -> None:
    from feat_fed.data.reading.reader import iter_frames

    found = look(frame for _, frame in zip(range(40), iter_frames(media(name)), strict=False))
    assert found.field_from == source
    wanted = {"circle": (44, 0, 1194, 720), "content": (262, 84, 1018, 878)}[source]
    assert np.abs(np.subtract(edges(found.field), wanted)).max() <= 16

"""Text on the picture and beside it: what is caught, what is left alone, what is blackened."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from feat_fed.config.site import RulesConfig
from feat_fed.data.phantoms import Shape, echo_clip, endoscopy_clip
from feat_fed.data.quality import Look, cleaned, look_at
from feat_fed.data.quality.shapes import around, merged
from feat_fed.data.reading.clip import Box
from feat_fed.data.reading.reader import iter_frames
from shared_files import media

RULES = RulesConfig()
SIZE = 240


def phantom(draw=echo_clip, seed: int = 0) -> np.ndarray:
    return draw(Shape(24, SIZE, 25.0), gain=1.0, rng=np.random.default_rng(seed))


ECHO, ENDOSCOPY = phantom(), phantom(endoscopy_clip)


def written(
    clip: np.ndarray,
    text: str | Callable[[int], str],
    *,
    at: tuple[int, int],
    size: int = 12,
    colour: tuple[int, int, int] = (255, 255, 255),
) -> tuple[np.ndarray, np.ndarray]:
    """Return the clip with text on it, and where its letters ever were, (H, W)."""
    font = ImageFont.load_default(size)
    frames, letters = [], np.zeros(clip.shape[1:3], bool)
    for index, frame in enumerate(clip):
        picture, mask = Image.fromarray(frame), Image.new("L", frame.shape[1::-1])
        words = text if isinstance(text, str) else text(index)
        ImageDraw.Draw(picture).text(at, words, font=font, fill=colour)
        ImageDraw.Draw(mask).text(at, words, font=font, fill=255)
        frames.append(np.asarray(picture))
        letters |= np.asarray(mask) > 127
    return np.stack(frames), letters


def look(clip: np.ndarray) -> Look:
    return look_at(clip, regions=(), rules=RULES)[0]


def removed(found: Look) -> np.ndarray:
    """Return what of a frame nobody will see, (H, W)."""
    gone = np.ones((found.height_px, found.width_px), bool)
    gone[found.field.top : found.field.bottom, found.field.left : found.field.right] = False
    for box in found.overlays:
        gone[box.top : box.bottom, box.left : box.right] = True
    return gone


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("draw", [echo_clip, endoscopy_clip])
def test_clean_clips_get_no_mask(draw, seed: int) -> None:
    assert look(phantom(draw, seed)).overlays == ()


@pytest.mark.parametrize("size", [8, 12, 24])
@pytest.mark.parametrize("clip", [ECHO, ENDOSCOPY], ids=["echo", "endoscopy"])
@given(left=st.integers(40, 140), top=st.integers(60, 170))
@settings(max_examples=4, deadline=None)
def test_white_text_anywhere_is_covered(clip: np.ndarray, size: int, left: int, top: int) -> None:
    with_text, letters = written(clip, "DOE 12975", at=(left, top), size=size)
    assert removed(look(with_text))[letters].mean() > 0.97


@pytest.mark.parametrize("start", [0, 31, 90])
@pytest.mark.parametrize(("draw", "frames"), [(echo_clip, 100), (endoscopy_clip, 300)])
def test_text_shown_for_a_tenth_of_the_clip_is_covered(draw, frames: int, start: int) -> None:
    clip = draw(Shape(frames, 160, 25.0), gain=1.0, rng=np.random.default_rng(7))
    part = slice(start * frames // 100, (start + 10) * frames // 100)
    clip[part], letters = written(clip[part], "DOE 12975", at=(30, 80), size=22)
    assert removed(look(clip))[letters].mean() > 0.97


@pytest.mark.parametrize("draw", [echo_clip, endoscopy_clip])
def test_long_clean_clips_get_no_mask(draw) -> None:
    clip = draw(Shape(140, SIZE, 25.0), gain=1.0, rng=np.random.default_rng(4))
    assert look(clip).overlays == ()


@given(
    st.lists(
        st.builds(
            lambda left, top, wide, tall: Box(left, top, left + wide, top + tall),
            *(st.integers(0, 40), st.integers(0, 40), st.integers(1, 40), st.integers(1, 40)),
        ),
        max_size=8,
    )
)
def test_merged_boxes_cover_what_all_covered_and_are_no_more(boxes: list[Box]) -> None:
    result = merged(boxes)
    for box in boxes:
        assert any(around(box, each) == each for each in result)
    assert len(result) <= len(boxes)
    assert merged([*boxes, *boxes]) == merged(result) == result


def test_near_equal_boxes_are_one_and_others_stay() -> None:
    words, moved, far = Box(10, 10, 60, 30), Box(11, 9, 61, 30), Box(70, 10, 90, 30)
    assert merged([words, far, moved, Box(20, 12, 30, 20)]) == (Box(10, 9, 61, 30), far)


@pytest.mark.parametrize("draw", [echo_clip, endoscopy_clip])
def test_a_line_that_fills_much_of_a_small_frame_is_text_too(draw) -> None:
    small = draw(Shape(32, 128, 25.0), gain=1.0, rng=np.random.default_rng(100))
    with_text, letters = written(small, "DOE 12975", at=(20, 80), size=18)
    assert removed(look(with_text))[letters].mean() > 0.9


@pytest.mark.parametrize("colour", [(255, 255, 0), (0, 255, 255), (0, 255, 0), (20, 20, 20)])
def test_coloured_and_dark_text_on_a_lit_picture_is_covered(colour: tuple[int, int, int]) -> None:
    with_text, letters = written(ENDOSCOPY, "DOE 12975", at=(60, 190), size=16, colour=colour)
    assert removed(look(with_text))[letters].mean() > 0.9


def test_the_digits_of_a_clock_are_covered_though_they_change() -> None:
    clock = lambda index: f"9:04:{index // 6:02d}"  # noqa: E731
    with_text, letters = written(ECHO, clock, at=(90, 120), size=14)
    assert removed(look(with_text))[letters].mean() > 0.9


def test_text_beside_the_sector_goes_with_the_crop_or_the_mask() -> None:
    screen = np.pad(ECHO, ((0, 0), (30, 30), (80, 80), (0, 0)))
    for at in ((4, 4), (90, 40), (300, 270), (330, 150)):
        with_text, letters = written(screen, "DOE JOHN", at=at, colour=(160, 160, 160))
        assert removed(look(with_text))[letters].mean() > 0.97, at


def test_text_across_the_sectors_border_is_covered() -> None:
    with_text, letters = written(ECHO, "DOE JOHN 1975", at=(10, 70))
    assert removed(look(with_text))[letters].mean() > 0.9


def test_the_outline_of_a_colour_box_is_left_alone() -> None:
    clip = ECHO.copy()
    clip[:, 80:170, [80, 160]] = clip[:, [80, 170], 80:161] = (0, 200, 255)
    assert removed(look(clip)).mean() < 0.15


def test_cleaned_blackens_inside_the_field_and_leaves_the_source_alone() -> None:
    frames = np.random.default_rng(0).integers(1, 255, (3, 20, 30, 3), np.uint8)
    before = frames.copy()
    small = cleaned(
        frames, field=Box(5, 4, 25, 16), overlays=(Box(20, 10, 40, 40), Box(0, 0, 3, 3))
    )
    expected = before[:, 4:16, 5:25].copy()
    expected[:, 6:, 15:] = 0
    assert (small == expected).all()
    assert (frames == before).all()
    assert (cleaned(frames, field=None, overlays=()) == before).all()
    with pytest.raises(ValueError, match="outside"):
        cleaned(frames, field=Box(40, 0, 50, 10), overlays=())


def test_nothing_of_a_covered_text_is_left_in_a_cleaned_frame() -> None:
    with_text, letters = written(ECHO, "DOE 12975", at=(90, 110))
    found = look(with_text)
    marked = cleaned(
        np.repeat(letters[None, ..., None], 3, axis=-1).astype(np.uint8),
        field=found.field,
        overlays=found.overlays,
    )
    assert letters.sum() > 150
    assert marked.sum() < 0.03 * 3 * letters.sum()


@pytest.mark.parametrize(
    "name",
    [
        "endo/rvim_endo.mp4",
        "lung_us/Reg_Image_18122_crop.mp4",
        "lung_us/Reg_pat3Image_134711.mpeg",
        "lung_us/Reg_pat2Image_134441.mpeg",
        "lung_us/Reg_pat4Image_140434.mpeg",
    ],
)
def test_a_clean_real_clip_keeps_all_of_its_picture(name: str) -> None:
    for frames in (48, 300):
        found, _ = look_at(islice(iter_frames(media(name)), frames), regions=(), rules=RULES)
        assert found.overlays == ()


def test_text_on_a_real_clip_is_covered() -> None:
    clip = np.stack(list(islice(iter_frames(media("lung_us/Reg_pat3Image_134711.mpeg")), 40)))
    with_text, letters = written(clip, "DOE JOHN 12975", at=(120, 170))
    assert removed(look(with_text))[letters].mean() > 0.97


def test_the_names_on_a_real_echo_are_gone() -> None:
    path = media("dicom/fo-dicom__DIRW0007.dcm")
    gone = removed(look_at(iter_frames(path), regions=(), rules=RULES)[0])
    titles, panel = gone[:40], gone[40:210, 445:]
    assert titles.mean() > 0.99
    assert panel.mean() > 0.9
    assert (~gone[100:380, 150:400]).mean() > 0.95  # the heart is still there

"""Fingerprints: near for one clip in other clothes, far for different clips."""

from __future__ import annotations

from io import BytesIO
from itertools import combinations, islice

import av
import numpy as np
import pytest
from PIL import Image

from feat_fed.config.site import RulesConfig
from feat_fed.data.phantoms import Shape, echo_clip, endoscopy_clip
from feat_fed.data.quality import bits_apart, look_at
from feat_fed.data.reading.reader import iter_frames
from shared_files import media

RULES = RulesConfig()
CLIPS = {
    f"{draw.__name__} {seed}": draw(Shape(32, 96, 25.0), gain=1.0, rng=np.random.default_rng(seed))
    for draw in (echo_clip, endoscopy_clip)
    for seed in range(4)
}
ENCODERS = {
    "crf 35": ("mp4", "libx264", {"crf": "35"}, 1.0, 1),
    "mpeg-2": ("mpeg", "mpeg2video", {"qscale": "8"}, 1.0, 1),
    "75 %": ("mp4", "libx264", {"crf": "23"}, 0.75, 1),
    "gif": ("gif", "gif", {}, 1.0, 1),
    "every other frame": ("mp4", "libx264", {"crf": "23"}, 1.0, 2),
}


def encoded(clip: np.ndarray, name: str) -> list[np.ndarray]:
    container, codec, options, scale, step = ENCODERS[name]
    height, width = (round(side * scale) // 2 * 2 for side in clip.shape[1:3])
    buffer = BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(codec, rate=25, options=options)
        stream.width, stream.height = width, height
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        for frame in clip[::step]:
            small = np.asarray(Image.fromarray(frame).resize((width, height)))
            out.mux(stream.encode(av.VideoFrame.from_ndarray(small, format="rgb24")))
        out.mux(stream.encode())
    buffer.seek(0)
    with av.open(buffer) as back:
        return [frame.to_ndarray(format="rgb24") for frame in back.decode(video=0)]


def fingerprint(frames) -> str:
    return look_at(frames, regions=(), rules=RULES)[0].fingerprint


def test_it_has_256_bits_and_counts_those_that_differ() -> None:
    one = fingerprint(CLIPS["echo_clip 0"])
    assert len(one) == 64
    assert bits_apart(one, one) == 0
    assert bits_apart("f0" * 32, "0f" * 32) == 256
    assert bits_apart("00" * 32, "01" + "00" * 31) == 1


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("clip", ["echo_clip 0", "endoscopy_clip 0"])
def test_re_encoding_stays_within_the_rule(clip: str, name: str) -> None:
    apart = bits_apart(fingerprint(CLIPS[clip]), fingerprint(encoded(CLIPS[clip], name)))
    assert apart <= RULES.duplicate_bits


def test_different_clips_are_far_apart() -> None:
    prints = [fingerprint(clip) for clip in CLIPS.values()]
    assert min(bits_apart(*pair) for pair in combinations(prints, 2)) > 2 * RULES.duplicate_bits


def test_brightness_changes_little() -> None:
    clip = CLIPS["endoscopy_clip 1"]
    assert bits_apart(fingerprint(clip), fingerprint((clip * 0.8).astype(np.uint8))) <= 8


def test_clips_of_one_frame_and_of_one_colour_have_one_too() -> None:
    assert len(fingerprint(CLIPS["echo_clip 0"][:1])) == 64
    assert len(fingerprint(np.zeros((3, 20, 20, 3), np.uint8))) == 64


def test_views_of_one_patient_are_different_clips() -> None:
    files = sorted(media("lung_us").glob("Reg_pat1*"))
    prints = [fingerprint(islice(iter_frames(file), 64)) for file in files]
    assert min(bits_apart(*pair) for pair in combinations(prints, 2)) > 2 * RULES.duplicate_bits

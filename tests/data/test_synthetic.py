"""The demonstration's hospitals: real files, all readable, equal on every run."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from feat_fed.config import ClipConfig, RulesConfig
from feat_fed.data import Manifest, probe, read_clip, scan
from feat_fed.data.frames import square_video
from feat_fed.data.phantoms import Shape, echo_clip, endoscopy_clip
from feat_fed.data.synthetic import write_demo_hospitals


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*.*"))
    }


def test_every_clip_is_usable_and_patients_are_right(tmp_path: Path) -> None:
    sites = write_demo_hospitals(tmp_path, seed=7)
    assert list(sites) == ["hospital-1", "hospital-2"]
    syntaxes: Counter[str | None] = Counter()
    waived = RulesConfig(review="waived")
    for site, patients in zip(sites.values(), (6, 5), strict=True):
        site = site.model_copy(update={"rules": waived})
        with Manifest(tmp_path / "stores" / str(patients), alone="refuse") as manifest:
            found = scan(site, manifest=manifest, clips=ClipConfig())
        assert not found.excluded
        assert len({clip.patient for clip in found.clips}) == patients
        assert all(20 <= (clip.fps or 0) <= 31 for clip in found.clips)
        syntaxes.update(probe(clip.source[0]).transfer_syntax for clip in found.clips)
    assert syntaxes == {
        None: 4,
        "1.2.840.10008.1.2.1": 4,
        "1.2.840.10008.1.2.5": 4,
        "1.2.840.10008.1.2.4.50": 5,
        "1.2.840.10008.1.2.4.102": 4,
    }


def test_equal_seeds_give_equal_files(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_demo_hospitals(tmp_path / name, seed=seed, clips_per_patient=1, hospitals=1)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    changed = digests(tmp_path / "a").items() ^ digests(tmp_path / "c").items()
    assert len(changed) == 2 * 5


@pytest.mark.parametrize("draw", [echo_clip, endoscopy_clip])
def test_motion_is_smooth_and_visible_at_64_px(draw: object) -> None:
    video = draw(Shape(48, 128, 25.0), gain=1.0, rng=np.random.default_rng(3))  # type: ignore[operator]
    small = square_video(video, size_px=64)

    def change(lag: int) -> float:
        return float((small[lag:] - small[:-lag]).square().mean().sqrt())

    assert change(1) < 0.6 * change(6)
    assert change(6) > 0.25 * float(small.std())
    assert video.shape == (48, 128, 128, 3) and video.dtype == np.uint8


def test_a_written_clip_is_the_drawn_one(tmp_path: Path) -> None:
    write_demo_hospitals(tmp_path, hospitals=1, clips_per_patient=1, seed=0)
    raw = read_clip(tmp_path / "hospital-1" / "patient-5" / "clip-1.dcm")
    assert raw.frames_THWC.std() > 20
    assert 24 <= len(raw.frames_THWC) <= 48

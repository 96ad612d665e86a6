"""Verdicts: each rule alone, their order, and what a person is asked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from feat_fed.config.site import RulesConfig
from feat_fed.data.phantoms import Shape, endoscopy_clip
from feat_fed.data.quality import Look, Verdict, judge, look_at, rules
from feat_fed.data.reading.clip import Box, ClipInfo

RULES = RulesConfig()
INFO = ClipInfo(40, 64, 64, 25.0, modality="US")
GOOD = Look(40, 64, 64, 0.4, 3.0, "0" * 64, Box(0, 0, 64, 64), "content", ())
TEXT = (Box(3, 3, 30, 12),)


def test_a_good_clip_is_usable_without_a_reason() -> None:
    assert judge(INFO, GOOD, RULES) == Verdict("usable", "")


@pytest.mark.parametrize(
    ("look", "reason"),
    [
        (replace(GOOD, num_frames=1), rules.STILL),
        (replace(GOOD, num_frames=15), rules.TOO_SHORT),
        (replace(GOOD, dark_share=0.99), rules.DARK),
        (replace(GOOD, motion=0.1), rules.STATIC),
    ],
)
def test_each_rule_excludes(look: Look, reason: str) -> None:
    assert judge(INFO, look, RULES) == Verdict("excluded", reason)


def test_limits_are_inclusive() -> None:
    edge = replace(GOOD, num_frames=16, dark_share=0.98, motion=0.2)
    assert judge(INFO, edge, RULES).outcome == "usable"


def test_modalities_are_asked_of_files_that_have_one() -> None:
    endoscopy_only = RulesConfig(modalities=("ES",))
    assert judge(INFO, GOOD, endoscopy_only) == Verdict("excluded", rules.MODALITY)
    assert judge(replace(INFO, modality="ES"), GOOD, endoscopy_only).outcome == "usable"
    assert judge(replace(INFO, modality=None), GOOD, endoscopy_only).outcome == "usable"


@pytest.mark.parametrize("modality", ["CT", "MR", "PT", "NM", "MG", "CR", "DX", "unknown"])
def test_what_is_no_cine_by_its_modality_has_to_be_asked_for(modality: str) -> None:
    slices = replace(INFO, modality=modality)
    assert judge(slices, GOOD, RULES) == Verdict("excluded", rules.MODALITY)
    assert judge(slices, GOOD, RulesConfig(modalities=(modality,))).outcome == "usable"
    assert judge(slices, GOOD, RulesConfig(modalities=None)).outcome == "usable"


@pytest.mark.parametrize(
    ("overlays", "review", "outcome"),
    [
        ("mask", "required", "review"),
        ("keep", "required", "review"),
        ("exclude", "required", "excluded"),
        ("mask", "waived", "usable"),
        ("exclude", "waived", "excluded"),
    ],
)
def test_text_on_the_picture(overlays: str, review: str, outcome: str) -> None:
    config = RulesConfig(overlays=overlays, review=review)
    assert judge(INFO, replace(GOOD, overlays=TEXT), config).outcome == outcome


def test_what_the_file_says_of_burned_in_text() -> None:
    says = replace(INFO, burned_in=True)
    assert judge(says, GOOD, RULES) == Verdict("review", rules.SAYS_BURNED_IN)
    assert judge(says, GOOD, RulesConfig(review="waived")).outcome == "usable"
    denies = replace(INFO, burned_in=False)
    assert judge(denies, replace(GOOD, overlays=TEXT), RULES).outcome == "review"


def test_black_still_and_single_clips_are_judged_so_from_their_pixels() -> None:
    clip = endoscopy_clip(Shape(20, 64, 25.0), gain=1.0, rng=np.random.default_rng(0))
    noise = np.random.default_rng(0).integers(0, 4, clip.shape, np.uint8)
    for frames, reason in (
        (np.repeat(clip[:1], 20, axis=0), rules.STATIC),
        (noise, rules.DARK),
        (clip[:1], rules.STILL),
        (clip, ""),
    ):
        look, _ = look_at(frames, regions=(), rules=RULES)
        assert judge(INFO, look, RULES).reason == reason


def test_reasons_are_ours_alone() -> None:
    secret = replace(INFO, patient_key="DOE^JOHN", modality="SECRET")
    for config in (RULES, RulesConfig(modalities=("US",))):
        assert "SECRET" not in judge(secret, GOOD, config).reason

"""Copies are found wherever they come from, and what is found is what a slow search finds."""

import pytest
import torch
from torch import Tensor

from feat_fed.codec import flip_latent
from feat_fed.memorisation import COPY, Calibration, is_near, nearest, search
from feat_fed.memorisation.scaling import Scaling, pooled
from latent_patients import SIGNS, Clip, patients

FRAMES, STRIDE = 4, 2
SPAN = (FRAMES - 1) * STRIDE + 1


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return [Clip(each) for each in patients(12, seed=1)]


def window(clip: Clip, start: int) -> Tensor:
    return clip.z_FChw[start : start + SPAN : STRIDE]


def noisy(z_FChw: Tensor) -> Tensor:
    noise = torch.randn(z_FChw.shape, generator=torch.Generator().manual_seed(2))
    return z_FChw + 0.5 * noise


@pytest.mark.parametrize(
    ("change", "least"),
    [
        (lambda z: z, 0.9999),
        (noisy, COPY - 0.03),
        (lambda z: 1.02 * z + 0.05, 0.97),
        (lambda z: torch.round(4 * z) / 4, COPY),
    ],
    ids=["exact", "noisy", "brighter", "quantised"],
)
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_planted_copy_is_found_at_its_place(
    change: object, least: float, mirrored: bool, clips: list[Clip]
) -> None:
    assert callable(change)
    z_FChw = window(clips[7], 11)
    z_FChw = change(flip_latent(z_FChw, SIGNS) if mirrored else z_FChw)
    [found] = nearest(z_FChw[None], clips, stride_frames=STRIDE)
    assert (found.clip, found.start_frame, found.mirrored) == (7, 11, mirrored)
    assert found.score >= least


def test_a_mirrored_copy_is_no_copy_where_nothing_is_mirrored(clips: list[Clip]) -> None:
    straight = [Clip(each.z_FChw, mirrors=(False,)) for each in clips]
    z_FChw = flip_latent(window(clips[7], 11), SIGNS)
    [found] = nearest(z_FChw[None], straight, stride_frames=STRIDE)
    assert not found.mirrored and found.score < 0.9


def slow(z_FChw: Tensor, clips: list[Clip]) -> tuple[float, int, int, bool]:
    """Compare with each window by itself, in float64."""
    images = [
        (place, mirrored, clip.read(0, clip.num_frames, mirrored=mirrored))
        for place, clip in enumerate(clips)
        for mirrored in clip.mirrors
    ]
    best = (-2.0, -1, 0, False)
    for place, mirrored, image in images:
        scaling = Scaling.of(pooled(each) for _, same, each in images if same == mirrored)
        x = scaling(pooled(z_FChw)).flatten().double()
        for start in range(len(image) - SPAN + 1):
            y = scaling(pooled(image[start : start + SPAN : STRIDE])).flatten().double()
            score = float(x @ y / (x.norm() * y.norm()))
            best = max(best, (score, place, start, mirrored))
    return best


@pytest.mark.parametrize("block", [1, 5, 16, 512])
def test_blocks_give_what_a_double_loop_gives(
    block: int, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_BLOCK_FRAMES", block)
    few = [Clip(each.z_FChw[: SPAN + 3 * place]) for place, each in enumerate(clips[:4])]
    sought = torch.stack([each[:FRAMES] for each in patients(3, seed=9)])
    all_found = nearest(sought, few, stride_frames=STRIDE)
    assert max(each.longest for each in few) <= max(block, SPAN - 1) + SPAN - 1
    for z_FChw, found in zip(sought, all_found, strict=True):
        score, place, start, mirrored = slow(z_FChw, few)
        assert (found.clip, found.start_frame, found.mirrored) == (place, start, mirrored)
        assert found.score == pytest.approx(score, abs=1e-5)


def test_clips_that_are_too_short_are_passed_over(clips: list[Clip]) -> None:
    short = Clip(clips[0].z_FChw[: SPAN - 1])
    [found] = nearest(window(clips[0], 0)[None], [short], stride_frames=STRIDE)
    assert (found.clip, found.score) == (-1, -1.0)


def test_a_clip_without_anything_in_it_is_near_to_nothing() -> None:
    black = [Clip(torch.zeros(8, 3, 12, 12))]
    [found] = nearest(torch.zeros(1, FRAMES, 3, 12, 12), black)
    assert found.score == 0.0


def test_unrelated_clips_are_near_no_more_often_than_is_said_and_copies_always() -> None:
    near = total = 0
    for trial in range(12):
        train = [Clip(each) for each in patients(20, seed=100 + trial)]
        others = torch.stack([each[:FRAMES] for each in patients(39 + 40, seed=200 + trial)])
        scores = [each.score for each in nearest(others, train)]
        calibration = Calibration.of(scores[:39])
        assert calibration is not None and calibration.rate == pytest.approx(0.05)
        near += sum(is_near(each, calibration) for each in scores[39:])
        total += len(scores[39:])
        copy = noisy(train[3].z_FChw[5 : 5 + FRAMES])
        [found] = nearest(copy[None], train)
        assert is_near(found.score, calibration)
    # A trial's rate varies with its 39 patients, as Beta(2, 38) does: 0.014 standard error in all.
    assert near / total < 0.05 + 3 * 0.014

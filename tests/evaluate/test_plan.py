import pytest

from feat_fed.errors import DataError
from feat_fed.evaluate.plan import plan_both
from feat_fed.evaluate.protocol import Protocol, load_protocol
from feature_files import ListClips, videos


def clips(count: int, frames: int = 16, size: tuple[int, int] = (32, 32)) -> ListClips:
    return ListClips("ours", videos(count, frames=frames, size=size))


def paper(**real: object) -> Protocol:
    protocol = load_protocol("feat-paper")
    return protocol.model_copy(update={"real": protocol.real.model_copy(update=real)})


def test_real_clips_begin_anywhere_and_generated_ones_at_the_start() -> None:
    real, generated = plan_both(clips(30, 24), clips(5, 24), load_protocol("feat-paper"))
    starts = {clip.start for clip in real.clips}
    assert starts <= set(range(9))
    assert len(starts) > 4
    assert [clip.video for clip in real.clips] == list(range(30))
    assert {clip.start for clip in generated.clips} == {0}
    assert real.size_px == generated.size_px == (128, 128)


def test_the_same_seed_gives_the_same_clips() -> None:
    plans = [
        plan_both(clips(9, 40), clips(5), paper().model_copy(update={"seed": seed}))[0]
        for seed in (1, 1, 2)
    ]
    assert plans[0] == plans[1] != plans[2]


def test_no_more_than_the_count_in_order_or_at_random() -> None:
    first, _ = plan_both(clips(20), clips(5), paper(num_clips=6))
    assert [clip.video for clip in first.clips] == [0, 1, 2, 3, 4, 5]
    drawn, _ = plan_both(clips(20), clips(5), paper(num_clips=6, choose="random"))
    videos_drawn = [clip.video for clip in drawn.clips]
    assert len(set(videos_drawn)) == 6
    assert videos_drawn != sorted(videos_drawn)


def test_fewer_videos_are_gone_through_again_where_the_protocol_says_so() -> None:
    _, generated = plan_both(clips(5), clips(5, 30), load_protocol("cd-fvd"))
    assert len(generated.clips) == 2048
    counts = [[clip.video for clip in generated.clips].count(video) for video in range(5)]
    assert set(counts) == {409, 410}


def test_short_real_videos_are_skipped_and_short_generated_ones_refused() -> None:
    mixed = ListClips("mixed", videos(6) + videos(2, frames=9))
    real, _ = plan_both(mixed, clips(5), load_protocol("feat-paper"))
    assert [clip.video for clip in real.clips] == [0, 1, 2, 3, 4, 5]
    with pytest.raises(DataError, match=r"mixed: video-6.mp4 has 9 frames and a clip takes 16 \(2"):
        plan_both(clips(5), mixed, load_protocol("feat-paper"))


def test_strides_take_longer_videos() -> None:
    protocol = load_protocol("feat-paper").model_copy(update={"stride_frames": 3})
    with pytest.raises(DataError, match="a clip takes 46"):
        plan_both(clips(5, 46), clips(5, 45), protocol)


@pytest.mark.parametrize("count", [0, 2])
def test_two_videos_are_no_distribution(count: int) -> None:
    with pytest.raises(DataError, match=f"ours has {count} videos: a distribution"):
        plan_both(clips(count), clips(9), load_protocol("plain"))
    with pytest.raises(DataError, match="of 16 frames or more"):
        plan_both(clips(9, 12), clips(9), load_protocol("feat-paper"))


def test_generated_videos_decide_size_and_length_where_the_protocol_leaves_them_open() -> None:
    real, generated = plan_both(
        clips(5, 30, (50, 70)), clips(5, 8, (24, 32)), load_protocol("plain")
    )
    assert real.size_px == generated.size_px == (24, 32)
    assert real.num_frames == generated.num_frames == 8


def test_mixed_sizes_are_refused_where_one_must_be_known() -> None:
    mixed = ListClips("mixed", videos(4) + videos(1, size=(48, 40)))
    plan_both(mixed, clips(5), load_protocol("plain"))
    plan_both(clips(5), mixed, load_protocol("feat-paper"))
    with pytest.raises(DataError, match=r"video-0.mp4 is 40 x 40 px .* video-4.mp4 is 48 x 40"):
        plan_both(clips(5), mixed, load_protocol("plain"))

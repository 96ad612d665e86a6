"""From videos to numbers, against the protocols written out plainly."""

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as nnf
from PIL import Image

from feat_fed.errors import ConfigError, DataError
from feat_fed.evaluate.metrics import NOT_PUBLISHED, SINGULAR, measure
from feat_fed.evaluate.networks import FeatureNetwork, load_network
from feat_fed.evaluate.protocol import Protocol, load_protocol
from feat_fed.measured import MetricValue
from feature_files import (
    ListClips,
    StandInI3D,
    StandInInception,
    jpeg,
    save_program,
    seeded,
    videos,
)


def quick(name: str, **changes: object) -> Protocol:
    """Return a built-in protocol without intervals, which take most of the time."""
    return load_protocol(name).model_copy(update={"resamples": 0} | changes)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FeatureNetwork]:
    folder = tmp_path_factory.mktemp("programs")
    networks = {}
    for name, module in (("i3d-torchscript", StandInI3D), ("inception", StandInInception)):
        sha256 = save_program(folder / f"{name}.pt", seeded(module))
        networks[name] = load_network(name, folder / f"{name}.pt", sha256)
    return networks


@pytest.fixture
def random_network() -> dict[str, FeatureNetwork]:
    return {"random": load_network("random")}


def real_and_generated(**size: object) -> tuple[ListClips, ListClips]:
    return ListClips("real", videos(14, **size)), ListClips("fake", videos(11, seed=5, **size))


def by_name(values: tuple[MetricValue, ...]) -> dict[str, MetricValue]:
    return {each.metric: each for each in values}


def frechet(a: np.ndarray, b: np.ndarray, ddof: int) -> float:
    s_a, s_b = (np.cov(each, rowvar=False, ddof=ddof) for each in (a, b))
    root = scipy.linalg.sqrtm(s_a @ s_b)
    moved = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    return float(np.real(moved + np.trace(s_a + s_b - 2 * root)))


def frames_of_stylegan_v(video: np.ndarray, folder: Path) -> np.ndarray:
    """convert_videos_to_frames.py: the shorter side to 128, centre crop, JPEG."""
    frames = []
    for frame in video:
        image = Image.fromarray(frame)
        ratio = max(image.size) / min(image.size)
        short_first = image.width <= image.height
        size = (128, int(128 * ratio)) if short_first else (int(128 * ratio), 128)
        image = image.resize(size, Image.LANCZOS)
        top, left = round((image.height - 128) / 2.0), round((image.width - 128) / 2.0)
        frames.append(jpeg(np.array(image.crop((left, top, left + 128, top + 128))), folder))
    return np.stack(frames)


def test_the_paper_s_protocol_gives_what_its_code_gives(
    programs: dict[str, FeatureNetwork], tmp_path: Path
) -> None:
    """FVD, FID and IS as calc_metrics_for_dataset.py computes them, of the stand-ins."""
    real = ListClips("real", videos(6, size=(70, 90)) + videos(3, size=(96, 80), seed=1))
    fake = ListClips("fake", videos(8, frames=20, size=(64, 64), seed=5))
    metrics = ["FVD", "FID", "IS"]
    found = by_name(
        measure(real, fake, quick("feat-paper"), programs, metrics=metrics, batch_clips=3)
    )

    i3d, inception = seeded(StandInI3D), seeded(StandInInception)
    clips, images, scores = [], [], []
    for source in (real, fake):
        stored = [frames_of_stylegan_v(video, tmp_path) for video in source.videos]
        batch = torch.from_numpy(np.stack([video[:16] for video in stored]))
        frames = torch.from_numpy(np.concatenate(stored)).permute(0, 3, 1, 2)
        with torch.no_grad():
            x = batch.permute(0, 4, 1, 2, 3)
            clips.append(i3d(x, rescale=True, resize=True, return_features=True).numpy())
            images.append(inception(frames, return_features=True).numpy())
            scores.append(inception(frames, no_output_bias=True).numpy().astype(np.float64))
    assert found["FVD"].value == pytest.approx(frechet(*clips, ddof=0), rel=1e-4)
    assert found["FID"].value == pytest.approx(frechet(*images, ddof=0), rel=1e-4)
    assert (found["FVD"].num_real, found["FVD"].num_generated) == (9, 8)
    assert (found["FID"].num_real, found["FID"].num_generated) == (9 * 16, 8 * 20)

    parts = []
    for i in range(10):
        part = scores[1][i * 160 // 10 : (i + 1) * 160 // 10]
        kl = part * (np.log(part) - np.log(part.mean(axis=0, keepdims=True)))
        parts.append(np.exp(kl.sum(axis=1).mean()))
    assert found["IS"].value == pytest.approx(np.mean(parts), rel=1e-5)
    assert (found["IS"].num_real, found["IS"].better) == (0, "higher")


def test_plain_gives_what_common_metrics_give(programs: dict[str, FeatureNetwork]) -> None:
    """Clips as they are, the shorter side at 224, the centre square, [-1, 1], N - 1."""
    real, fake = real_and_generated(frames=9, size=(48, 64))
    found = by_name(measure(real, fake, quick("plain"), programs))

    sets = []
    for source in (real, fake):
        batch = []
        for video in source.videos:
            x = torch.from_numpy(video).permute(0, 3, 1, 2).float() / 255
            size = (224, math.ceil(64 * 224 / 48))
            x = nnf.interpolate(x, size=size, mode="bilinear", align_corners=False)
            left = (x.shape[3] - 224) // 2
            batch.append((x[:, :, :, left : left + 224].transpose(0, 1) - 0.5) * 2)
        with torch.no_grad():
            network = seeded(StandInI3D)
            sets.append(network(torch.stack(batch), return_features=True).numpy())
    assert found["FVD"].value == pytest.approx(frechet(*sets, ddof=1), rel=1e-4)


def test_no_more_generated_images_than_the_protocol_says(
    programs: dict[str, FeatureNetwork],
) -> None:
    protocol = quick("feat-paper")
    generated = protocol.generated.model_copy(update={"max_images": 50})
    protocol = protocol.model_copy(update={"generated": generated})
    sides = ListClips("real", videos(4)), ListClips("fake", videos(5, seed=1))
    (found,) = measure(*sides, protocol, programs, metrics=["FID"])
    assert (found.num_real, found.num_generated) == (4 * 16, 50)


def test_without_weights_plain_gives_numbers_that_are_never_called_fvd(
    random_network: dict[str, FeatureNetwork],
) -> None:
    found = by_name(measure(*real_and_generated(), quick("plain"), random_network))
    assert set(found) == {"FVD-random", "KVD-random", "sharpness", "flicker"}
    assert found["FVD-random"].warning == SINGULAR


def test_numbers_are_the_same_each_time(random_network: dict[str, FeatureNetwork]) -> None:
    sides = real_and_generated(frames=20)
    protocol = load_protocol("plain").model_copy(update={"resamples": 5})
    first = measure(*sides, protocol, random_network, batch_clips=4)
    again = measure(*sides, protocol, {"random": load_network("random")}, batch_clips=4)
    assert first == again
    assert all(each.low <= each.value <= each.high for each in first)


def test_a_model_that_is_nearer_is_seen_to_be(random_network: dict[str, FeatureNetwork]) -> None:
    real = ListClips("real", videos(20))
    near = ListClips("near", videos(20, seed=1))
    far = ListClips("noise", list(np.random.RandomState(0).randint(0, 256, (20, 16, 40, 40, 3))))
    far.videos = [video.astype(np.uint8) for video in far.videos]
    close, away = (
        by_name(measure(real, source, quick("plain"), random_network)) for source in (near, far)
    )
    for name in ("FVD-random", "KVD-random"):
        assert close[name].value < away[name].value / 5
    assert close["sharpness"].value == pytest.approx(1, abs=0.1)
    assert away["sharpness"].value > 5
    assert away["flicker"].value > 5


def test_blurred_and_frozen_videos_show_in_the_diagnostics(
    random_network: dict[str, FeatureNetwork],
) -> None:
    real = ListClips("real", videos(8))
    frozen = ListClips("frozen", [np.repeat(v[:1], 16, axis=0) for v in videos(8, seed=1)])
    blurred = ListClips(
        "blurred",
        [
            (v[:, :-1].astype(int) + v[:, 1:])[:, :, :-1] // 4
            + (v[:, :-1].astype(int) + v[:, 1:])[:, :, 1:] // 4
            for v in videos(8, size=(41, 41), seed=1)
        ],
    )
    blurred.videos = [video.astype(np.uint8) for video in blurred.videos]
    metrics = ["sharpness", "flicker"]
    still = by_name(measure(real, frozen, quick("plain"), {}, metrics=metrics))
    soft = by_name(measure(real, blurred, quick("plain"), {}, metrics=metrics))
    assert still["flicker"].value == 0
    assert still["sharpness"].value == pytest.approx(1, abs=0.1)
    assert soft["sharpness"].value < 0.3


def test_a_file_that_is_not_the_published_one_is_said_to_be_another(
    programs: dict[str, FeatureNetwork],
) -> None:
    sides = ListClips("real", videos(4)), ListClips("fake", videos(4, seed=1))
    found = by_name(measure(*sides, quick("feat-paper"), programs, metrics=["FVD"]))
    assert found["FVD"].warning == f"{NOT_PUBLISHED}; {SINGULAR}"


def test_a_metric_without_its_network_says_what_to_fetch() -> None:
    with pytest.raises(ConfigError, match=r"FVD of feat-paper: i3d-torchscript needs i3d_torch"):
        measure(*real_and_generated(), load_protocol("feat-paper"), {})
    with pytest.raises(ConfigError, match=r"CD-FVD of plain: videomae-g needs vit_g_hybrid"):
        measure(*real_and_generated(), load_protocol("plain"), {}, metrics=["CD-FVD"])
    with pytest.raises(ConfigError, match="FVD-random of plain: add the network `random`"):
        measure(*real_and_generated(), load_protocol("plain"), {}, metrics=["FVD-random"])
    with pytest.raises(ConfigError, match="the protocol feat-paper has no CD-FVD; it has FVD,"):
        measure(*real_and_generated(), load_protocol("feat-paper"), {}, metrics=["CD-FVD"])


class NotANumber(StandInI3D):
    """Of a dark clip it computes nothing."""

    def forward(
        self,
        x: torch.Tensor,
        rescale: bool = False,
        resize: bool = False,
        return_features: bool = False,
    ) -> torch.Tensor:
        return x.float().mean([2, 3, 4]).log()


def test_a_feature_that_is_no_number_names_network_and_video(tmp_path: Path) -> None:
    sha256 = save_program(tmp_path / "nan.pt", seeded(NotANumber))
    networks = {"i3d-torchscript": load_network("i3d-torchscript", tmp_path / "nan.pt", sha256)}
    real, fake = real_and_generated()
    fake.videos[7] = np.zeros_like(fake.videos[7])
    with pytest.raises(
        DataError, match=r"fake: the i3d-torchscript features of video-7.mp4 are not finite"
    ):
        measure(real, fake, quick("feat-paper"), networks, metrics=["FVD"], batch_clips=3)


def test_real_videos_of_one_colour_are_nothing_to_compare_with() -> None:
    flat = ListClips("flat", [np.full((16, 32, 32, 3), 9, np.uint8)] * 5)
    with pytest.raises(DataError, match="flat: the sharpness of the real videos is 0"):
        measure(flat, flat, quick("plain"), {}, metrics=["sharpness"])


def test_progress_is_told(random_network: dict[str, FeatureNetwork]) -> None:
    told: list[tuple[str, int, int]] = []
    measure(
        *real_and_generated(),
        quick("plain"),
        random_network,
        metrics=["FVD-random"],
        on_progress=lambda *each: told.append(each),
    )
    assert told == [
        ("real: random", 8, 14),
        ("real: random", 14, 14),
        ("fake: random", 8, 11),
        ("fake: random", 11, 11),
    ]

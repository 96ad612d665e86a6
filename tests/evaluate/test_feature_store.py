import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from feat_fed.evaluate.feature_store import extract_once
from feat_fed.evaluate.features import Extracted, Running
from feat_fed.evaluate.networks import FeatureNetwork, load_network
from feat_fed.evaluate.plan import plan_both
from feat_fed.evaluate.protocol import Protocol, load_protocol
from feature_files import ListClips, videos


class Counting:
    """The random network, and how many clips it saw."""

    def __init__(self) -> None:
        self.network = load_network("random")
        self.clips = 0
        compute = self.network._features

        def counted(pixels: Tensor, fit: str) -> Tensor:
            self.clips += len(pixels)
            return compute(pixels, fit)

        self.network._features = counted


@pytest.fixture
def counting() -> Counting:
    return Counting()


def once(
    folder: Path,
    network: FeatureNetwork,
    *,
    seed: int = 0,
    protocol: Protocol | None = None,
) -> Extracted:
    protocol = protocol or load_protocol("plain")
    real = ListClips("real", videos(5, frames=6, seed=seed))
    plan, _ = plan_both(real, ListClips("fake", videos(4, frames=4)), protocol)
    return extract_once(folder, real, plan, network, protocol, Running())


def test_real_videos_go_through_a_network_once(tmp_path: Path, counting: Counting) -> None:
    first = once(tmp_path, counting.network)
    again = once(tmp_path, counting.network)
    assert counting.clips == 5
    np.testing.assert_array_equal(first.features_ND, again.features_ND)
    np.testing.assert_array_equal(first.videos_N, again.videos_N)


def test_other_videos_protocols_and_networks_are_other_features(
    tmp_path: Path, counting: Counting
) -> None:
    once(tmp_path, counting.network)
    once(tmp_path, counting.network, seed=1)
    assert counting.clips == 10
    protocol = load_protocol("plain").model_copy(update={"seed": 9})
    once(tmp_path, counting.network, protocol=protocol)
    assert counting.clips == 15
    counting.network.sha256 = "0" * 64
    once(tmp_path, counting.network)
    assert counting.clips == 20
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "other"])
def test_a_damaged_file_is_not_trusted(
    harm: str, tmp_path: Path, counting: Counting, caplog: pytest.LogCaptureFixture
) -> None:
    expected = once(tmp_path, counting.network).features_ND
    file = next(tmp_path.iterdir())
    content = bytearray(file.read_bytes())
    if harm == "other":  # whole, and of other videos
        once(tmp_path / "elsewhere", counting.network, seed=1)
        content = bytearray(next((tmp_path / "elsewhere").iterdir()).read_bytes())
        counting.clips = 5
    content[-60] ^= harm == "flip"
    file.write_bytes({"cut": content[:-100], "empty": b""}.get(harm, content))
    with caplog.at_level(logging.WARNING):
        found = once(tmp_path, counting.network).features_ND
    np.testing.assert_array_equal(found, expected)
    assert counting.clips == 10
    assert "stored features are computed again" in caplog.text
    once(tmp_path, counting.network)
    assert counting.clips == 10


def test_a_folder_that_cannot_be_written_costs_time_only(
    tmp_path: Path, counting: Counting, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    with caplog.at_level(logging.WARNING):
        found = once(tmp_path / "file", counting.network)
    assert torch.from_numpy(found.features_ND).isfinite().all()
    assert "features are not kept" in caplog.text

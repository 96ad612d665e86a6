from pathlib import Path

import pytest

from feat_fed.config.load import dump_yaml
from feat_fed.errors import ConfigError
from feat_fed.evaluate.protocol import built_in_protocols, load_protocol


def test_three_protocols_ship_with_the_package() -> None:
    assert built_in_protocols() == ["cd-fvd", "feat-paper", "plain"]


def test_the_paper_s_protocol_is_that_of_stylegan_v() -> None:
    protocol = load_protocol("feat-paper")
    frames = protocol.frames
    assert (frames.resize, frames.size_px, frames.jpeg_quality) == ("pillow-lanczos", 128, 75)
    assert (protocol.num_frames, protocol.ddof, protocol.fit) == (16, 0, "squash")
    assert (protocol.real.offset, protocol.generated.offset) == ("random", "start")
    assert (protocol.real.num_clips, protocol.generated.num_clips) == (2048, 2048)
    assert (protocol.images, protocol.generated.max_images) == ("videos", 50_000)


@pytest.mark.parametrize("name", ["cd-fvd", "feat-paper", "plain"])
def test_a_digest_is_of_all_that_is_said(name: str, tmp_path: Path) -> None:
    protocol = load_protocol(name)
    copy = tmp_path / "mine.yaml"
    copy.write_text(dump_yaml(protocol))
    assert load_protocol(copy).digest() == protocol.digest()
    copy.write_text(dump_yaml(protocol.model_copy(update={"ddof": 1 - protocol.ddof})))
    assert load_protocol(copy).digest() != protocol.digest()


def test_a_name_says_what_was_computed(tmp_path: Path) -> None:
    """Nothing of a random network can be called FVD."""
    mine = tmp_path / "mine.yaml"
    text = dump_yaml(load_protocol("plain")).replace("metric: FVD-random", "metric: CD-FVD")
    mine.write_text(text)
    with pytest.raises(ConfigError, match="CD-FVD is computed with videomae-g, not with random"):
        load_protocol(mine)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("metric: KVD-random", "metric: FVD-random", "FVD-random is there twice"),
        ("repeat: false", "repeat: true", "real.repeat needs real.num_clips"),
        ("fit: crop", "fit: stretch", "fit"),
        ("ddof: 1", "ddof: 2", "ddof"),
    ],
)
def test_what_makes_no_sense_is_refused(old: str, new: str, told: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    text = dump_yaml(load_protocol("plain")).replace("num_clips: 2048", "num_clips: null")
    mine.write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=told):
        load_protocol(mine)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="cd-fvd, feat-paper, plain"):
        load_protocol("stylegan")

"""A classifier learns, the same every time, and FixMatch uses what has no label."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from feat_fed.downstream.network import make_network, to_input
from feat_fed.downstream.scores import scores
from feat_fed.downstream.settings import TrainingSettings, WindowSettings
from feat_fed.downstream.training import Trained, Windows, predict, train
from feat_fed.downstream.windows import decode_windows
from feat_fed.errors import CheckpointError, TrainingError
from feat_fed.evaluate.clips import ArrayClips
from labelled_clips import CLASSES, phantom

CPU = torch.device("cpu")
SEEN = WindowSettings(size_px=32, num_frames=4, stride_frames=1, views=2)


def phantoms(clips: int, first_seed: int) -> Windows:
    """Return as many grey clips of each class, alternating."""
    made = [
        np.repeat(phantom(label, first_seed + number).mean(axis=-1, keepdims=True), 3, axis=-1)
        for number in range(clips)
        for label in CLASSES
    ]
    labels = np.tile(np.arange(2), clips)
    source = ArrayClips("phantoms", np.stack(made).astype(np.uint8))
    return Windows(decode_windows(source, SEEN), labels)


def trained(
    settings: TrainingSettings, unlabelled: Windows | None = None, seed: int = 0
) -> Trained:
    return train(
        phantoms(4, 0),
        None if unlabelled is None else unlabelled.windows_NVTSS3,
        settings,
        num_classes=2,
        seed=seed,
        device=CPU,
    )


def test_two_kinds_of_clips_are_learned_from_four_of_each() -> None:
    test = phantoms(8, 100)
    learned = trained(TrainingSettings(steps=40, batch_size=4))
    found = scores(test.labels_N, predict(learned.network, test.windows_NVTSS3, CPU), positive=1)
    assert found["accuracy"][0] >= 0.9
    assert found["auroc"][0] >= 0.95
    assert learned.loss < 0.3
    assert learned.kept is None
    wrong = Windows(test.windows_NVTSS3, 1 - test.labels_N)
    assert (
        scores(wrong.labels_N, predict(learned.network, wrong.windows_NVTSS3, CPU), positive=1)[
            "accuracy"
        ][0]
        <= 0.1
    )


def test_equal_seeds_give_equal_answers_and_other_seeds_others() -> None:
    settings = TrainingSettings(steps=3, batch_size=4, mu=1, threshold=0.0)
    unlabelled, test = phantoms(3, 50), phantoms(2, 100)
    first, again, other, without = (
        predict(each.network, test.windows_NVTSS3, CPU)
        for each in (
            trained(settings, unlabelled),
            trained(settings, unlabelled),
            trained(settings, unlabelled, seed=1),
            trained(settings),
        )
    )
    assert (first == again).all()
    assert (first != other).any()
    assert (first != without).any()
    assert first.sum(axis=1) == pytest.approx(1)


def test_fixmatch_counts_clips_that_it_is_sure_of() -> None:
    unlabelled = phantoms(6, 50)
    sure = trained(TrainingSettings(steps=30, batch_size=4, mu=1, threshold=0.7), unlabelled)
    assert sure.kept is not None
    assert sure.kept > 0.5
    never = trained(TrainingSettings(steps=2, batch_size=4, mu=1, threshold=1.0), unlabelled)
    assert never.kept == 0


def test_a_loss_that_is_not_finite_ends_training_with_a_mend() -> None:
    with pytest.raises(TrainingError, match=r"loss of step \d+ is .*lower the learning rate"):
        trained(TrainingSettings(steps=30, batch_size=4, learning_rate=1e30))


def test_pixels_are_mapped_to_minus_one_to_one() -> None:
    pixels = np.zeros((1, 2, 32, 32, 3), dtype=np.uint8)
    pixels[..., 1] = 255
    video = to_input(pixels, CPU)
    assert video.shape == (1, 3, 2, 32, 32)
    assert [video[0, channel].unique().item() for channel in range(3)] == [-1, 1, -1]


def test_pretrained_weights_are_taken_without_their_head(tmp_path: Path) -> None:
    """As MedicalNet keeps them: in a state dict, with a prefix, for one channel of grey."""
    given = make_network("small", num_classes=5, seed=1).state_dict()
    given["conv1.weight"] = given["conv1.weight"].sum(dim=1, keepdim=True)
    state = {f"module.{key}": each for key, each in given.items()}
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    network = make_network("small", num_classes=2, seed=0, weights=tmp_path / "w.pth")
    fresh = make_network("small", num_classes=2, seed=0).state_dict()
    taken = network.state_dict()
    assert taken["fc.weight"].equal(fresh["fc.weight"])
    assert taken["layer4.0.conv2.weight"].equal(given["layer4.0.conv2.weight"])
    assert taken["conv1.weight"].sum(dim=1, keepdim=True).allclose(given["conv1.weight"], atol=1e-6)
    save_file({key: each.contiguous() for key, each in taken.items()}, tmp_path / "w.safetensors")
    same = make_network("small", num_classes=2, seed=3, weights=tmp_path / "w.safetensors")
    assert same.state_dict()["conv1.weight"].equal(taken["conv1.weight"])


@pytest.mark.parametrize(
    "name", ["absent.pth", "text.pth", "text.safetensors", "list.pth", "other.pth"]
)
def test_other_weights_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "text.safetensors").write_text("no weights")
    torch.save([1, 2], tmp_path / "list.pth")
    other = make_network("small", num_classes=2, seed=0).state_dict()
    other["layer1.0.conv1.weight"] = torch.zeros(8, 8, 3, 3)
    torch.save(other, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=name):
        make_network("small", num_classes=2, seed=0, weights=tmp_path / name)


def test_an_unknown_tensor_is_refused(tmp_path: Path) -> None:
    more = make_network("small", num_classes=2, seed=0).state_dict() | {"x.weight": torch.zeros(1)}
    torch.save(more, tmp_path / "more.pth")
    with pytest.raises(CheckpointError, match=r"x\.weight"):
        make_network("small", num_classes=2, seed=0, weights=tmp_path / "more.pth")

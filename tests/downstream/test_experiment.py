"""Which clips each arm of an experiment is trained on."""

from pathlib import Path

import numpy as np
import pytest

from feat_fed.config.site import PATIENT_IN_NAME
from feat_fed.downstream.dataset import read_labelled, read_split, read_unlabelled
from feat_fed.downstream.experiment import fixmatch_experiment, tstr_experiment
from feat_fed.downstream.labelled import LabelledClips, patient_by
from feat_fed.downstream.settings import DownstreamConfig, WindowSettings
from feat_fed.errors import ConfigError, DataError
from labelled_clips import write_classes, write_polypdiag

CONFIG = DownstreamConfig(windows=WindowSettings(size_px=32, num_frames=2, views=1))
PATIENT_OF = patient_by(PATIENT_IN_NAME)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[LabelledClips, LabelledClips]:
    root = write_polypdiag(tmp_path_factory.mktemp("polypdiag"), train=4, test=1)
    return read_split(root, PATIENT_OF, test_share=0.3, seed=0)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classes(tmp_path_factory.mktemp("generated"), clips=2, first_seed=90)


def test_arms_of_fixmatch_share_their_labelled_clips(
    data: tuple[LabelledClips, LabelledClips], generated: Path
) -> None:
    experiment = fixmatch_experiment(
        *data,
        read_unlabelled(generated, at_most=3),
        CONFIG,
        num_labelled=4,
        arms=("supervised", "rest", "generated"),
    )
    supervised, rest, more = experiment.arms(0)
    assert supervised.unlabelled is None
    for arm in (supervised, rest, more):
        assert arm.labelled.labels_N.tolist().count(0) == 2
        assert (arm.labelled.windows_NVTSS3 == supervised.labelled.windows_NVTSS3).all()
    assert rest.unlabelled is not None
    together = np.concatenate([rest.labelled.windows_NVTSS3, rest.unlabelled])
    assert len({clip.tobytes() for clip in together}) == len(data[0]) == 8
    assert more.unlabelled is not None
    assert len(more.unlabelled) == 3
    draws = [experiment.arms(seed)[0].labelled.windows_NVTSS3.tobytes() for seed in range(4)]
    assert len(set(draws)) > 1
    assert experiment.arms(0)[0].labelled.windows_NVTSS3.tobytes() == draws[0]
    assert experiment.facts.model_dump(exclude={"digests"}) == {
        "classes": ("0", "1"),
        "positive": "1",
        "train": {"0": 4, "1": 4},
        "test": {"0": 1, "1": 1},
        "test_patients": 2,
        "generated": 3,
    }


def test_the_first_of_the_list_are_the_same_with_every_seed(
    data: tuple[LabelledClips, LabelledClips],
) -> None:
    experiment = fixmatch_experiment(
        *data, None, CONFIG, num_labelled=4, arms=("supervised",), draw="first", positive="0"
    )
    first, second = (experiment.arms(seed)[0].labelled for seed in (0, 1))
    assert (first.windows_NVTSS3 == second.windows_NVTSS3).all()
    assert first.labels_N.tolist() == [0, 1, 0, 1]
    assert experiment.facts.positive == "0"


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"num_labelled": 5}, ConfigError, "--labelled 5 cannot be shared out evenly to 2"),
        ({"num_labelled": 10}, DataError, r"fewer of 0 \(4\), 1 \(4\); lower --labelled to 8"),
        ({"arms": ("generated",)}, ConfigError, "name their folder with --generated"),
        ({"arms": ("rest",), "num_labelled": 8}, ConfigError, "all 8 to train on are labelled"),
        ({"positive": "polyp"}, ConfigError, "--positive polyp is no class; there are 0, 1"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    data: tuple[LabelledClips, LabelledClips],
    options: dict[str, object],
    error: type[Exception],
    says: str,
) -> None:
    given = {"num_labelled": 4, "arms": ("supervised",)} | options
    with pytest.raises(error, match=says):
        fixmatch_experiment(*data, None, CONFIG, **given)  # type: ignore[arg-type]


def test_generated_clips_that_are_tested_on_are_refused(
    data: tuple[LabelledClips, LabelledClips],
) -> None:
    with pytest.raises(DataError, match="would be trained and tested on"):
        fixmatch_experiment(
            *data, data[1].clips, CONFIG, num_labelled=4, arms=("supervised", "generated")
        )


def test_tstr_trains_on_real_and_on_generated_clips(tmp_path: Path) -> None:
    real, test = read_split(
        write_classes(tmp_path / "real", clips=3), PATIENT_OF, test_share=0.3, seed=0
    )
    write_classes(tmp_path / "made", clips=2, first_seed=90)
    made = read_labelled(tmp_path / "made", PATIENT_OF)
    experiment = tstr_experiment(real, test, made, CONFIG)
    on_real, on_generated = experiment.arms(0)
    assert on_real.labelled.labels_N.tolist() == [0, 0, 1, 1]
    assert on_generated.labelled.labels_N.tolist() == [0, 0, 1, 1]
    assert (on_real.labelled.windows_NVTSS3 != on_generated.labelled.windows_NVTSS3).any()
    assert on_real.unlabelled is on_generated.unlabelled is None
    (tmp_path / "made" / "echo").rename(tmp_path / "made" / "heart")
    with pytest.raises(DataError, match="of the class heart, and real clips are of echo, endosc"):
        tstr_experiment(real, test, read_labelled(tmp_path / "made", PATIENT_OF), CONFIG)
    (tmp_path / "made" / "heart").rename(tmp_path / "heart")
    with pytest.raises(DataError, match="has no clips of the class echo; generate some"):
        tstr_experiment(real, test, read_labelled(tmp_path / "made", PATIENT_OF), CONFIG)

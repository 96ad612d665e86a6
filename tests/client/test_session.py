"""Where the study and the site meet."""

from pathlib import Path

import pytest
import torch

from feat_fed.config import SiteConfig, SiteDataConfig, StudyConfig, TrainingConfig, load_study
from feat_fed.errors import ConfigError
from feat_fed.model.state import state_schema
from feat_fed.protocol import Assignment
from feat_fed_client.session import SiteSession


def label_of(study: StudyConfig, label: int | None, folder: Path) -> int | None:
    data = SiteDataConfig(paths=(folder,), label=label)
    return SiteSession(SiteConfig(name="a", data=data, store=folder))._label(study)


def with_classes(number: int) -> StudyConfig:
    study = load_study("demo")
    model = study.model.model_copy(update={"num_classes": number})
    return study.model_copy(update={"model": model})


def test_a_study_without_classes_asks_for_none(tmp_path: Path) -> None:
    assert label_of(load_study("demo"), None, tmp_path) is None
    assert label_of(load_study("demo"), 3, tmp_path) is None


def test_a_study_with_classes_takes_the_sites(tmp_path: Path) -> None:
    assert label_of(with_classes(2), 1, tmp_path) == 1


@pytest.mark.parametrize("label", [None, 2])
def test_a_site_must_say_its_class(label: int | None, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.label is .* classes 0 to 1"):
        label_of(with_classes(2), label, tmp_path)


def test_the_site_says_how_and_the_study_what(tmp_path: Path) -> None:
    site = SiteConfig(
        name="a",
        data=SiteDataConfig(paths=(tmp_path,)),
        store=tmp_path,
        micro_batch=2,
        gradient_checkpointing=True,
    )
    study = load_study("demo", rounds=7)
    told = Assignment(study_id="a" * 32, round=3, task="train", first_step=440, study=study)
    job = SiteSession(site)._job(told, {"w": torch.zeros(1)})
    assert (job.micro_batch, job.gradient_checkpointing) == (2, True)
    assert (job.first_step, job.total_steps) == (440, 7 * study.training.local_steps)


def test_a_kept_state_is_read_by_the_training_of_a_later_round_alone(tmp_path: Path) -> None:
    study = load_study("demo")
    kept = study.training.model_copy(update={"optimiser_state": "kept"})
    session = SiteSession(
        SiteConfig(name="a", data=SiteDataConfig(paths=(tmp_path,)), store=tmp_path)
    )

    def state_for(number: int, task: str, training: TrainingConfig) -> object:
        told = Assignment.model_validate(
            {"study_id": "a" * 32, "round": number, "task": task, "first_step": 0}
            | {"study": study.model_copy(update={"training": training})}
        )
        if number == 1:
            weights = state_schema(study.model).items()
            moments = {
                f"{key}/{name}": torch.ones(() if key == "step" else spec.shape)
                for name, spec in weights
                for key in ("step", "exp_avg", "exp_avg_sq")
            }
            session._optimiser(told).write(moments, after=1)
        return session._job(told, {}).optimiser_state

    assert state_for(1, "train", kept) is None
    assert state_for(2, "train", kept) is not None
    assert state_for(2, "evaluate", kept) is None
    assert state_for(2, "train", study.training) is None

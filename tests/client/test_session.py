"""Where the study and the site meet."""

import importlib
from pathlib import Path

import pytest
import torch

from clip_files import moving_frames, write_dicom
from feat_fed.codec import LatentStore
from feat_fed.config import (
    ComputeConfig,
    RulesConfig,
    SiteConfig,
    SiteDataConfig,
    StudyConfig,
    TrainingConfig,
    load_study,
)
from feat_fed.data import Manifest
from feat_fed.data.inventory.erase import erase_patient, find_patient
from feat_fed.errors import ConfigError, DataError
from feat_fed.model.state import state_schema
from feat_fed.protocol import Assignment
from feat_fed.report.live import SiteLive
from feat_fed_client.label import label_of
from feat_fed_client.session import SiteSession


def label_in(study: StudyConfig, label: int | None, folder: Path) -> int | None:
    data = SiteDataConfig(paths=(folder,), label=label)
    return label_of(SiteConfig(name="a", data=data, store=folder), study)


def with_classes(number: int) -> StudyConfig:
    study = load_study("demo")
    model = study.model.model_copy(update={"num_classes": number})
    return study.model_copy(update={"model": model})


def test_a_study_without_classes_asks_for_none(tmp_path: Path) -> None:
    assert label_in(load_study("demo"), None, tmp_path) is None
    assert label_in(load_study("demo"), 3, tmp_path) is None


def test_a_study_with_classes_takes_the_sites(tmp_path: Path) -> None:
    assert label_in(with_classes(2), 1, tmp_path) == 1


@pytest.mark.parametrize("label", [None, 2])
def test_a_site_must_say_its_class(label: int | None, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.label is .* classes 0 to 1"):
        label_in(with_classes(2), label, tmp_path)


@pytest.fixture
def site(tmp_path: Path) -> SiteConfig:
    for patient in "abcd":
        (tmp_path / "clips").mkdir(exist_ok=True)
        write_dicom(tmp_path / "clips" / f"{patient}.dcm", moving_frames(20), PatientID=patient)
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "patients.key").write_bytes(bytes(32))  # who is held out is known
    rules = RulesConfig(duplicate_bits=None, review="waived")
    data = SiteDataConfig(paths=(tmp_path / "clips",), rules=rules, workers=1)
    return SiteConfig(
        name="a", data=data, store=tmp_path / "store", compute=ComputeConfig(device="cpu")
    )


def assignment() -> Assignment:
    study = load_study("demo")
    clips = study.clips.model_copy(update={"frames": 8, "size_px": 32})
    study = study.model_copy(update={"clips": clips})
    return Assignment(study_id="0" * 32, round=3, task="train", first_step=0, study=study)


def test_clips_are_found_split_and_encoded_and_it_is_told_how_many(
    site: SiteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[SiteLive] = []
    monkeypatch.setattr(SiteLive, "write", lambda live, path: told.append(live))
    clips = SiteSession(site).clips(assignment())
    assert clips.heldout is not None
    assert (clips.train.num_clips + clips.heldout.num_clips, clips.heldout.num_patients) == (4, 1)
    assert clips.train.batch(0, 0, 3).shape == (3, 8, 6, 8, 8)
    assert {(each.phase, each.round, each.of_clips) for each in told} == {("preparing", 3, 4)}
    assert told[-1].clips == 4


def test_a_patient_can_be_erased_while_clips_are_encoded(
    site: SiteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.import_module("feat_fed.codec.prepare"), "TURN_SEC", 1e-3)
    erased: list[str] = []

    def erase(_: float) -> None:
        if not erased:
            with Manifest(site.store, alone="refuse") as manifest:  # between two turns
                found = find_patient(manifest, "b").sha256s
                LatentStore(site.store / "latents").erase(found, wait_sec=0)
                erase_patient(manifest, "b")
                erased.extend(found)

    monkeypatch.setattr("feat_fed.codec.at_site.sleep", erase)
    clips = SiteSession(site).clips(assignment())
    assert clips.heldout is not None and erased
    assert clips.train.num_clips + clips.heldout.num_clips == 3
    assert not list((site.store / "latents").glob(f"*{erased[0]}*"))


def test_a_site_without_clips_is_told_so(site: SiteConfig) -> None:
    alone = site.model_copy(update={"data": site.data.model_copy(update={"paths": ()})})
    with pytest.raises(DataError, match=r"no usable clip below data\.paths"):
        SiteSession(alone).clips(assignment())


def test_the_site_says_how_and_the_study_what(tmp_path: Path) -> None:
    site = SiteConfig(
        name="a",
        data=SiteDataConfig(paths=(tmp_path,)),
        store=tmp_path,
        compute=ComputeConfig(micro_batch=2, gradient_checkpointing=True),
    )
    study = load_study("demo", rounds=7)
    told = Assignment(study_id="a" * 32, round=3, task="train", first_step=440, study=study)
    job = SiteSession(site)._job(told, {"w": torch.zeros(1)})
    assert job.compute == site.compute
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

from pathlib import Path
from typing import Any

import pytest
import torch

from client.check_site import changed, look_at_clips, make_site, small_study
from feat_fed.config import HoursConfig, SiteConfig, StudyConfig
from feat_fed.errors import TrainingError
from feat_fed_client.check import Finding, Subject, compute, measure, trial
from feat_fed_client.check.measure import StepTrial, Trouble, try_step


@pytest.fixture
def site(tmp_path: Path) -> SiteConfig:
    return make_site(tmp_path, patients="")


def with_trial(
    site: SiteConfig, found: StepTrial | Trouble, study: StudyConfig | None = None
) -> Subject:
    subject = Subject(site, study=study or small_study(), offline=True)
    vars(subject)["step"] = found
    return subject


def a_trial(**fields: Any) -> StepTrial:
    return StepTrial.model_validate(
        {
            "micro_batch": 2,
            "steps": 5,
            "step_sec": 1.0,
            "score_clip_sec": 1.0,
            "peak_bytes": 10**8,
            "may_use_bytes": 10**9,
        }
        | fields
    )


def test_a_real_step_is_measured_in_a_child(site: SiteConfig) -> None:
    subject = Subject(site, study=small_study(), offline=True)
    assert isinstance(subject.step, StepTrial)
    assert (subject.step.micro_batch, subject.step.steps) == (2, trial.MAX_STEPS - 1)
    assert subject.step.peak_bytes is not None and subject.step.peak_bytes > 10**6
    assert compute.memory(subject).status == "green"
    found = compute.round_time(subject)
    assert (found.status, found.numbers["steps"]) == ("green", 10)


@pytest.mark.slow
def test_a_step_of_two_processes_is_measured(site: SiteConfig) -> None:
    two = changed(site, compute={"devices": 2})
    subject = Subject(two, study=small_study(), offline=True)
    assert isinstance(subject.step, StepTrial), subject.step
    assert (subject.step.micro_batch, subject.step.peak_bytes) == (1, None)
    assert compute.memory(subject).status == "green"


def test_a_study_that_is_too_large_is_red_with_the_numbers(site: SiteConfig) -> None:
    small = changed(site, compute={"memory_share": 1e-6})
    subject = Subject(small, study=small_study(), offline=True)
    found = compute.memory(subject)
    assert (found.status, compute.round_time(subject).status) == ("red", "red")
    assert "step" not in vars(subject), "what cannot fit is tried, and takes all memory"
    needed, may_use = found.numbers["needed_bytes"], found.numbers["may_use_bytes"]
    assert isinstance(needed, int) and isinstance(may_use, int) and needed > may_use
    assert "memory_share" in found.mend


def test_a_step_that_is_too_large_is_an_error_of_the_trial(
    site: SiteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = small_study()
    state_bytes = 4 * Subject(site, study=study).weights_bytes
    # Room for the weights' state, and for nothing of a step.
    monkeypatch.setattr("feat_fed.train.fit.available_bytes", lambda: int(state_bytes * 1.2))
    result = trial._try(trial.TrialTask(kind="train", site=site, study=study), tmp_path)
    assert result.failure is not None
    assert "of memory may be used" in result.failure.text
    subject = with_trial(site, Trouble("failed", result.failure.code, result.failure.text))
    found = compute.memory(subject)
    assert found.status == "red"
    assert "a step of one clip needs" in found.found
    assert compute.round_time(subject).status == "red"


def test_a_trial_names_no_log_that_goes_with_it(
    site: SiteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(task: trial.TrialTask, folder: Path) -> None:
        raise TrainingError(f"no loss (worker 1); its log is {folder}/training/worker-1.log")

    monkeypatch.setattr(trial, "try_training", fail)
    task = trial.TrialTask(kind="train", site=site, study=small_study())
    failure = trial._try(task, tmp_path).failure
    assert failure is not None and failure.text == "no loss (worker 1)"


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "memory"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "failed"),
        ("raise SystemExit(3)", "failed"),
        ("import time; time.sleep(60)", "slow"),
    ],
)
def test_whatever_ends_the_child_is_a_result(
    command: str, kind: str, site: SiteConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nexec {measure.sys.executable} -c '{command}'\n")
    python.chmod(0o755)

    class FakeSys:
        executable = str(python)

    monkeypatch.setattr(measure, "sys", FakeSys)
    monkeypatch.setattr(measure, "TRAIN_TIMEOUT_SEC", 1.5 if kind == "slow" else 60)
    found = try_step(site, small_study())
    assert isinstance(found, Trouble)
    assert found.kind == kind
    assert compute.memory(with_trial(site, found)).status == "red"


def test_fewer_clips_at_once_are_amber(site: SiteConfig) -> None:
    assert compute.memory(with_trial(site, a_trial())).status == "green"
    assert compute.memory(with_trial(site, a_trial(micro_batch=1))).status == "amber"
    asked = changed(site, compute={"micro_batch": 1})
    assert compute.memory(with_trial(asked, a_trial(micro_batch=1))).status == "green"
    assert compute.memory(with_trial(site, a_trial(peak_bytes=10**10))).status == "amber"


def round_of(site: SiteConfig, *, steps: int, round_sec: float, **limits: Any) -> Finding:
    study = small_study(training={"local_steps": steps}, sites={"round_sec": round_sec})
    return compute.round_time(with_trial(changed(site, limits=limits), a_trial(), study))


def test_a_round_against_the_deadline(site: SiteConfig) -> None:
    # Around the steps of 1 s: 2 s of scoring and 20 s of starting.
    assert round_of(site, steps=100, round_sec=1000).status == "green"
    assert round_of(site, steps=100, round_sec=130).status == "amber"
    late = round_of(site, steps=1000, round_sec=1000)
    assert (late.status, late.numbers["round_sec"]) == ("amber", 1022.0)
    assert "it ends before that, with about 878 steps" in late.found
    never = round_of(site, steps=100, round_sec=20)
    assert "not one step" in never.found


def test_limits_shorten_a_round(site: SiteConfig) -> None:
    minutes = round_of(site, steps=1000, round_sec=1000, minutes_per_round=5)
    assert (minutes.status, minutes.numbers["steps"]) == ("amber", 300)
    assert "limits.minutes_per_round" in minutes.found
    night = HoursConfig.model_validate("23:30-00:10")
    hours = round_of(site, steps=9000, round_sec=9000, hours=(night,))
    assert (hours.numbers["steps"], "limits.hours" in hours.found) == (2400, True)


def test_a_gpu_that_is_not_there_is_red(site: SiteConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert compute.devices(Subject(site)).status == "green"
    assert compute.devices(Subject(changed(site, compute={"device": "cuda"}))).status == "red"
    named = compute.devices(Subject(changed(site, compute={"devices": (0,)})))
    assert (named.status, "names GPUs" in named.found) == ("red", True)
    monkeypatch.setattr(compute, "_driver", lambda: "570.1")
    unused = compute.devices(Subject(changed(site, compute={"device": "auto"})))
    assert (unused.status, "cannot use" in unused.found) == ("amber", True)


def test_gpus_that_are_there(site: SiteConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        name, total_memory = "NVIDIA H100", 80 * 10**9

    for name, value in {
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "get_device_properties": lambda index: Properties,
        "is_bf16_supported": lambda including_emulation: False,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)

    def found(devices: int | tuple[int, ...], precision: str | None = None) -> Finding:
        asked = {"device": "cuda", "devices": devices, "precision": precision}
        return compute.devices(Subject(changed(site, compute=asked)))

    assert found(2).numbers["gpu_memory_bytes"] == 160 * 10**9
    assert found((1,)).status == "green"
    assert found(3).status == "red"
    assert "asks for GPU 5" in found((0, 5)).found
    assert found(1, "bf16").status == "amber"


def private_study(**patient: Any) -> StudyConfig:
    told = {"noise_multiplier": 1.0, "sample_rate": 0.5, "clips_per_patient": 2, "draws": 2}
    return small_study(strategy={"weigh_by": "equal"}, privacy={"patient": told | patient})


def test_a_private_step_is_tried_with_as_many_patients_as_take_part(tmp_path: Path) -> None:
    site = make_site(tmp_path, patients="abcdefgh")
    assert Subject(site, study=private_study())._patients_in_a_step() == 1, "not looked at yet"
    look_at_clips(site)
    subject = Subject(site, study=private_study(sample_rate=0.5))
    assert subject.clips is not None
    training = sum(side == "train" for side in subject.clips.sides.values())
    assert 4 <= training < 8
    assert subject._patients_in_a_step() == round(training / 2)
    assert Subject(site, study=small_study())._patients_in_a_step() == 1


def test_a_private_step_takes_a_patients_windows_at_once(site: SiteConfig, tmp_path: Path) -> None:
    """Also of a study whose noise is found when it begins."""
    study = private_study(noise_multiplier=None, epsilon=3.0)
    task = trial.TrialTask(kind="train", site=site, study=study, patients=9)
    found = trial._try(task, tmp_path / "trial").step
    assert found is not None and (found.micro_batch, found.steps) == (4, trial.MAX_STEPS - 1)
    told = compute.memory(with_trial(site, found, study))
    assert (told.status, told.numbers["batch_size"]) == ("green", 4)
    assert "4 of 4 clips of a patient at once" in told.found

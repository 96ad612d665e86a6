"""Where the study and the site meet."""

import dataclasses
import datetime as dt
import importlib
import os
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from clip_files import moving_frames, write_dicom
from feat_fed.codec import LatentStore
from feat_fed.config import (
    ComputeConfig,
    LimitsConfig,
    RulesConfig,
    SiteConfig,
    SiteDataConfig,
    StudyConfig,
    TrainingConfig,
    load_study,
)
from feat_fed.data import Manifest
from feat_fed.data.inventory.erase import erase_patient, find_patient
from feat_fed.errors import ConfigError, DataError, TrainingError
from feat_fed.model import FEAT
from feat_fed.model.state import state_schema
from feat_fed.protocol import Assignment
from feat_fed.report.live import SiteLive
from feat_fed.train import RoundJob
from feat_fed_client import session as session_module
from feat_fed_client.label import label_of
from feat_fed_client.limits import DeclinedError, SiteLimits
from feat_fed_client.niceness import be_nice
from feat_fed_client.pause import begin_pause, end_pause
from feat_fed_client.session import SiteClips, SiteSession


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


def tiny(**training: object) -> Assignment:
    """A round of four steps, of which each takes no time."""
    tree = {
        "name": "tiny",
        "model": {"in_channels": 6, "hidden_size": 16, "num_trios": 1, "num_heads": 2},
        "clips": {"frames": 2, "size_px": 32},
        "training": {"engine": "torch", "local_steps": 4, "batch_size": 1, "heldout_clips": 1}
        | training,
    }
    study = StudyConfig.model_validate(tree)
    return Assignment(study_id="0" * 32, round=2, task="train", first_step=4, study=study)


def weights_of(study: StudyConfig) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return FEAT(study.model).state_dict()


NOON = dt.datetime(2026, 6, 1, 12).astimezone()


class Noise:
    """Latent clips of nothing, without files."""

    num_clips, num_patients = 3, 2
    digest = "of nothing"

    def batch(self, seed: int, step: int, batch_size: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed % 2**31 + step)
        return torch.randn(batch_size, 2, 6, 8, 8, generator=generator)

    def fixed(self, num_clips: int) -> torch.Tensor:
        return self.batch(0, 0, num_clips)


@pytest.fixture
def ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SiteConfig:
    """A site whose clips are encoded."""
    clips = SiteClips(train=Noise(), heldout=Noise())  # type: ignore[arg-type]
    monkeypatch.setattr(SiteSession, "clips", lambda session, assignment: clips)
    data = SiteDataConfig(paths=(tmp_path,))
    return SiteConfig(
        name="a", data=data, store=tmp_path / "store", compute=ComputeConfig(device="cpu")
    )


@dataclasses.dataclass
class Clock:
    """A clock that a test sets by hand: noon, unless it says otherwise."""

    time: dt.datetime = NOON

    def __call__(self) -> dt.datetime:
        return self.time


def within(site: SiteConfig, clock: Clock, **limits: object) -> SiteSession:
    return SiteSession(site, SiteLimits(LimitsConfig.model_validate(limits), site.store, clock))


def at_step(monkeypatch: pytest.MonkeyPatch, number: int, do: Callable[[], object]) -> None:
    """Do something while step ``number`` of the round is told."""
    write = SiteLive.write

    def told(live: SiteLive, path: Path) -> None:
        write(live, path)
        if live.step == number:
            do()

    monkeypatch.setattr(SiteLive, "write", told)
    monkeypatch.setattr("feat_fed_client.session._LIVE_EVERY_SEC", 0.0)


def test_a_round_that_runs_into_the_hours_end_has_an_honest_count(
    ready: SiteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, told = Clock(), tiny()
    session = within(ready, clock, hours=["10:00-14:00"])
    at_step(monkeypatch, 2, lambda: setattr(clock, "time", clock.time.replace(hour=14)))
    report, weights = session.run(told, weights_of(told.study))
    assert (report.outcome, report.steps, report.ended_by) == ("ok", 2, "hours")
    assert any(
        not torch.equal(tensor, weights[name]) for name, tensor in weights_of(told.study).items()
    )


def test_a_pause_ends_a_round_at_its_next_step_and_the_one_after_is_declined(
    ready: SiteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tiny()
    at_step(monkeypatch, 3, lambda: begin_pause(ready.store, None))
    session = within(ready, Clock())
    report, _ = session.run(told, weights_of(told.study))
    assert (report.steps, report.ended_by) == (3, "pause")
    # What is done is told again to whoever asks; the next round is not begun.
    assert session.run(told, weights_of(told.study))[0] == report
    with pytest.raises(DeclinedError, match="is paused"):
        session.run(told.model_copy(update={"round": told.round + 1}), weights_of(told.study))


def test_hours_that_end_while_clips_are_encoded_leave_no_step(
    site: SiteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, told = Clock(), tiny()
    session = within(site, clock, hours=["10:00-14:00"])
    write = SiteLive.write

    def end(live: SiteLive, path: Path) -> None:
        write(live, path)
        if live.of_clips:
            clock.time = clock.time.replace(hour=15)

    monkeypatch.setattr(SiteLive, "write", end)
    monkeypatch.setattr("feat_fed_client.session._LIVE_EVERY_SEC", 0.0)
    with pytest.raises(DeclinedError) as declined:
        session.run(told, weights_of(told.study))
    assert declined.value.limit == "hours"
    assert list((site.store / "latents").iterdir())  # what was encoded stays
    live = SiteLive.read(site.store / "live.json")
    assert live is not None and live.phase == "idle"


def test_patients_are_counted_for_a_study_that_weighs_by_them_alone(ready: SiteConfig) -> None:
    told = tiny()
    assert within(ready, Clock()).run(told, weights_of(told.study))[0].patients is None
    strategy = told.study.strategy.model_copy(update={"weigh_by": "patients"})
    study = told.study.model_copy(update={"strategy": strategy})
    asked = told.model_copy(update={"study": study, "study_id": "1" * 32})
    assert within(ready, Clock()).run(asked, weights_of(study))[0].patients == 2


def test_minutes_of_the_site_end_a_round(ready: SiteConfig) -> None:
    told = tiny(local_minutes=60)
    report, _ = within(ready, Clock(), minutes_per_round=1e-9).run(told, weights_of(told.study))
    assert (report.steps, report.ended_by) == (1, "minutes")


def test_a_round_ends_where_its_update_would_come_too_late(
    ready: SiteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tiny()
    session = SiteSession(ready, train_until=time.monotonic() + 3600)
    at_step(monkeypatch, 2, lambda: setattr(session, "_train_until", time.monotonic()))
    report, _ = session.run(told, weights_of(told.study))
    assert (report.steps, report.ended_by) == (2, "minutes")
    assert session.run(told, weights_of(told.study))[0] == report  # what is done is sent


def test_a_round_whose_time_is_up_when_its_clips_are_ready_is_not_begun(ready: SiteConfig) -> None:
    told = tiny()
    late = SiteSession(ready, train_until=time.monotonic())
    with pytest.raises(TrainingError, match=r"sites\.round_sec"):
        late.run(told, weights_of(told.study))
    # Nothing is in the spool: asked for again, the round is trained whole.
    assert SiteSession(ready).run(told, weights_of(told.study))[0].steps == 4


def test_a_pause_is_heard_while_files_are_looked_at(site: SiteConfig) -> None:
    looks = 0

    def witness(sign: str) -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            begin_pause(site.store, None)

    with pytest.raises(DeclinedError) as declined:
        SiteSession(site, witness=witness).clips(assignment())
    assert (declined.value.limit, looks) == ("paused", 2)
    assert not (site.store / "latents").exists()
    end_pause(site.store)
    clips = SiteSession(site).clips(assignment())
    assert clips.heldout is not None
    assert clips.train.num_clips + clips.heldout.num_clips == 4


def test_who_waits_for_the_clips_gives_signs_and_hears_a_pause(site: SiteConfig) -> None:
    signs = 0

    def witness(sign: str) -> None:
        nonlocal signs
        signs += 1
        if signs == 3:
            begin_pause(site.store, None)

    with (
        Manifest(site.store, alone="refuse"),
        pytest.raises(DeclinedError, match="is paused"),
    ):
        SiteSession(site, witness=witness).clips(assignment())
    assert signs == 3


def test_the_sites_precision_wins_over_the_studys(tmp_path: Path) -> None:
    data = SiteDataConfig(paths=(tmp_path,))
    compute = ComputeConfig(precision="bf16")
    session = SiteSession(SiteConfig(name="a", data=data, store=tmp_path, compute=compute))
    assert session._job(tiny(precision="fp32"), {}).training.precision == "bf16"


def test_progress_says_memory_and_the_time_that_is_left(
    ready: SiteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[SiteLive] = []
    monkeypatch.setattr(SiteLive, "write", lambda live, path: told.append(live))
    monkeypatch.setattr("feat_fed_client.session._LIVE_EVERY_SEC", 0.0)
    assignment = tiny()
    # Two seconds before the hours end, however long the steps take.
    clock = Clock(dt.datetime(2026, 6, 1, 13, 59, 58).astimezone())
    within(ready, clock, hours=["10:00-14:00"]).run(assignment, weights_of(assignment.study))
    steps = [each for each in told if each.phase == "training"]
    assert [each.step for each in steps] == [1, 2, 3, 4]
    assert all(each.memory_bytes and each.memory_bytes > 10**8 for each in steps)
    assert all(each.sec_left is not None and 0 <= each.sec_left <= 2 for each in steps)
    assert steps[-1].sec_left == 0


def test_a_disk_that_takes_no_progress_ends_no_round(
    ready: SiteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(live: SiteLive, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SiteLive, "write", full)
    told = tiny()
    report, _ = SiteSession(ready).run(told, weights_of(told.study))
    assert report.steps == 4


def test_a_round_gives_way_to_other_processes(ready: SiteConfig) -> None:
    """In a child, since a process cannot take its niceness back."""
    nice = ready.model_copy(update={"compute": ComputeConfig(device="cpu", niceness=7)})
    told = tiny()
    pid = os.fork()
    if pid == 0:
        levels = {99}
        try:
            SiteSession(nice).run(told, weights_of(told.study))
            threads = psutil.Process().threads()
            levels = {os.getpriority(os.PRIO_PROCESS, each.id) for each in threads}
        finally:
            os._exit(levels.pop() if len(levels) == 1 else 99)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def test_a_thread_that_ends_meanwhile_stops_no_round(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(which: int, who: int) -> int:
        raise ProcessLookupError(3, "No such process")

    monkeypatch.setattr(os, "getpriority", ended)
    be_nice(5)


def test_curves_of_a_study_are_one_folder_by_its_steps(ready: SiteConfig) -> None:
    told = tiny()
    SiteSession(ready).run(told, weights_of(told.study))
    last = told.model_copy(update={"task": "evaluate"})
    SiteSession(ready).run(last, weights_of(told.study))
    points = events(ready.store / "tensorboard" / told.study_id)
    assert [step for tag, step, _ in points if tag == "train/loss"] == [4, 5, 6, 7]
    assert [step for tag, step, _ in points if tag == "heldout/loss"] == [4, 8]
    assert {tag for tag, _, _ in points} == {
        "train/loss",
        "train/gradient_norm",
        "train/learning_rate",
        "speed/clips_per_sec",
        "memory/peak_gb",
        "heldout/loss",
    }


def test_training_goes_on_without_a_writer_of_curves(
    ready: SiteConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    caplog.set_level("INFO")
    told = tiny()
    report, _ = SiteSession(ready).run(told, weights_of(told.study))
    assert report.steps == 4
    assert caplog.text.count("tensorboardX is not installed") == 1
    assert not (ready.store / "tensorboard").exists()


def events(folder: Path) -> list[tuple[str, int, float]]:
    """Read event files as TensorBoard does: records of length, its CRC, content, its CRC."""
    from tensorboardX.proto.event_pb2 import Event

    points = []
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        while content:
            (size,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + size])
            points += [(each.tag, event.step, each.simple_value) for each in event.summary.value]
            content = content[16 + size :]
    return points


def private(**training: object) -> Assignment:
    told = tiny(**training)
    privacy = {"patient": {"noise_multiplier": 1.0, "sample_rate": 0.5}}
    tree = told.study.model_dump(mode="json") | {"privacy": privacy}
    tree["strategy"]["weigh_by"] = "equal"
    return told.model_copy(update={"study": StudyConfig.model_validate(tree)})


def test_a_study_with_dp_sgd_is_trained_with_it(
    ready: SiteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, jobs = private(), []
    train = session_module.train_round

    def spied(job: RoundJob, **more: object) -> object:
        jobs.append(job)
        return train(job, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(session_module, "train_round", spied)
    monkeypatch.setattr(Noise, "patients", ("a", "b"), raising=False)
    windows = lambda _, who, number, seed: torch.ones(number, 2, 6, 8, 8)  # noqa: E731
    monkeypatch.setattr(Noise, "windows_of", windows, raising=False)
    report, _ = SiteSession(ready).run(told, weights_of(told.study))
    assert (report.steps, report.skipped_steps) == (4, 0)
    assert jobs[0].privacy == told.study.privacy.patient


def test_shards_that_dp_sgd_cannot_clip_are_refused_before_clips_are_looked_at(
    ready: SiteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SiteSession, "clips", None)
    compute = ComputeConfig(device="cpu", devices=2, zero_stage=3)
    site, told = ready.model_copy(update={"compute": compute}), private(engine="deepspeed")
    with pytest.raises(ConfigError, match=r"compute\.zero_stage is 3"):
        SiteSession(site).run(told, weights_of(told.study))

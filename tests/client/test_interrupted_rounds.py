"""A site's round that is interrupted, asked for again, or meets a full disk."""

from __future__ import annotations

import os
import random
import resource
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import pytest
from pydantic import BaseModel
from safetensors.torch import save
from torch import Tensor

from clip_files import moving_frames, write_dicom
from feat_fed.codec import LatentStore
from feat_fed.config import ComputeConfig, RulesConfig, SiteConfig, SiteDataConfig, StudyConfig
from feat_fed.data import Manifest
from feat_fed.data.inventory.erase import erase_patient, find_patient
from feat_fed.federate import pack
from feat_fed.model import FEAT
from feat_fed.protocol import Assignment, Report
from feat_fed.tensor_file import read_tensor_file
from feat_fed_client import session as session_module
from feat_fed_client.round_files import forget_rounds
from feat_fed_client.session import SiteSession
from feat_fed_client.supervision import Death, Patience, Sign, Witness, supervised

STEPS = 6
STUDY = StudyConfig.model_validate(
    {
        "name": "tiny",
        "rounds": 2,
        "model": {"in_channels": 6, "hidden_size": 16, "num_trios": 1, "num_heads": 2},
        "clips": {"frames": 4, "size_px": 32},
        "training": {
            "engine": "torch",
            "local_steps": STEPS,
            "batch_size": 2,
            "heldout_clips": 2,
            "optimiser_state": "kept",
        },
    }
)
ROUND = Assignment(study_id="a" * 32, round=1, task="train", first_step=0, study=STUDY)


def received() -> dict[str, Tensor]:
    return {name: each.detach() + 0.01 for name, each in FEAT(STUDY.model).state_dict().items()}


WEIGHTS = received()

Answer = tuple[Report, dict[str, Tensor]]


@pytest.fixture
def make_site(tmp_path: Path) -> Callable[[str], SiteConfig]:
    (tmp_path / "clips").mkdir()
    for patient in "abcd":
        write_dicom(tmp_path / "clips" / f"{patient}.dcm", moving_frames(20), PatientID=patient)

    def make(name: str) -> SiteConfig:
        store = tmp_path / name
        store.mkdir()
        (store / "patients.key").write_bytes(bytes(32))  # who is held out is known
        rules = RulesConfig(duplicate_bits=None, review="waived")
        return SiteConfig(
            name="a",
            data=SiteDataConfig(paths=(tmp_path / "clips",), rules=rules, workers=1),
            store=store,
            compute=ComputeConfig(device="cpu", threads=1),
            checkpoint_minutes=1e-9,
        )

    return make


@pytest.fixture
def site(make_site: Callable[[str], SiteConfig]) -> SiteConfig:
    return make_site("store")


class AnyHeader(BaseModel):
    """Of any of our tensor files."""


class Cut(Exception):  # noqa: N818
    pass


def after(steps: int) -> Witness:
    """Interrupt a round when so many checkpoints were written."""
    kept = 0

    def witness(sign: Sign) -> None:
        nonlocal kept
        kept += sign == "kept"
        if kept == steps:
            raise Cut

    return witness


def run(site: SiteConfig, witness: Witness = lambda _: None, **changes: object) -> Answer:
    told = ROUND.model_copy(update=changes)
    return SiteSession(site, witness=witness).run(told, WEIGHTS)


def interrupted(site: SiteConfig, steps: int) -> None:
    with pytest.raises(Cut):
        run(site, after(steps))


def told_alike(one: Report, other: Report) -> bool:
    return one.model_copy(update={"train_sec": other.train_sec}) == other


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return pack(one) == pack(other)


def test_killed_at_random_steps_it_gives_the_bytes_of_one_that_was_not(
    make_site: Callable[[str], SiteConfig], tmp_path: Path
) -> None:
    whole, killed = make_site("whole"), make_site("killed")
    deaths = tmp_path / "deaths"
    deaths.mkdir()

    def work(witness: Witness) -> list[bytes]:
        life = len(list(deaths.iterdir()))
        signs_left = random.Random(life).randint(8, 12)  # some before the steps, three in each

        def mortal(sign: Sign) -> None:
            nonlocal signs_left
            witness(sign)
            signs_left -= sign != "working"
            if life < 2 and not signs_left:
                (deaths / str(life)).touch()
                os.kill(os.getpid(), signal.SIGKILL)

        report, weights = run(killed, mortal)
        return [report.model_dump_json().encode(), save(weights)]

    report, weights = run(whole)
    answer = supervised(work, patience=Patience(pause_sec=0.01))
    assert not isinstance(answer, Death)
    assert len(list(deaths.iterdir())) == 2
    assert answer[1] == save(weights)
    assert told_alike(Report.model_validate_json(answer[0]), report)
    states = [each / "optimiser" / ROUND.study_id for each in (whole.store, killed.store)]
    one, other = (read_tensor_file(s / "after-0001.safetensors", AnyHeader)[1] for s in states)
    assert same(one, other)
    assert not list(killed.store.rglob(".*.safetensors"))
    assert not list((killed.store / "rounds").rglob("*.safetensors"))


def test_a_round_asked_for_again_is_answered_from_the_spool(
    site: SiteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, weights = run(site)
    with monkeypatch.context() as patch:
        patch.setattr(session_module, "train_round", None)
        again = run(site)
    assert again[0] == report
    assert same(again[1], weights)
    moved = {name: each + 0.01 for name, each in WEIGHTS.items()}
    assert not same(SiteSession(site).run(ROUND, moved)[1], weights)


def test_a_round_under_way_is_dropped_when_another_is_asked_for(
    site: SiteConfig, caplog: pytest.LogCaptureFixture
) -> None:
    interrupted(site, 3)
    caplog.set_level("INFO")
    run(site, round=2, first_step=STEPS)
    assert "goes on after" not in caplog.text
    interrupted(site, 2)
    run(site, round=2, task="evaluate")
    assert not list((site.store / "rounds").rglob("*.safetensors"))
    assert not list((site.store / "spool").rglob("*.safetensors"))


def test_an_erased_patient_has_no_part_in_what_goes_on(
    site: SiteConfig, make_site: Callable[[str], SiteConfig], caplog: pytest.LogCaptureFixture
) -> None:
    def erase(store: Path) -> None:
        with Manifest(store, alone="refuse") as manifest:
            LatentStore(store / "latents").erase(find_patient(manifest, "b").sha256s)
            erase_patient(manifest, "b")

    never = make_site("never")
    interrupted(never, 1)
    erase(never.store)
    forget_rounds(never.store)
    interrupted(site, 3)
    erase(site.store)
    caplog.set_level("INFO")
    report, weights = run(site)
    assert "goes on after" not in caplog.text
    expected = run(never)
    assert told_alike(report, expected[0])
    assert same(weights, expected[1])


def test_a_disk_that_takes_no_weights_costs_no_round(
    make_site: Callable[[str], SiteConfig], caplog: pytest.LogCaptureFixture
) -> None:
    expected = run(make_site("whole"))
    full = make_site("full")
    SiteSession(full).clips(ROUND)  # encoded before the disk is full

    def work(_: Witness) -> list[bytes]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        caplog.handler.stream.truncate(0)
        report, weights = run(full)
        return [report.model_dump_json().encode(), save(weights), caplog.text.encode()]

    answer = supervised(work, patience=Patience(deaths=1))
    assert not isinstance(answer, Death)
    assert told_alike(Report.model_validate_json(answer[0]), expected[0])
    assert answer[1] == save(expected[1])
    log = answer[2].decode()
    assert log.count("goes on without this checkpoint") == STEPS
    assert "OLDER OPTIMISER" in log
    assert "SENT WITHOUT A COPY" in log
    assert not list((full.store / "spool").rglob("*.safetensors"))


def test_a_killed_one_of_two_processes_costs_no_step(
    make_site: Callable[[str], SiteConfig], caplog: pytest.LogCaptureFixture
) -> None:
    expected, alone = run(make_site("alone"))
    site = make_site("together").model_copy(
        update={"compute": ComputeConfig(device="cpu", threads=1, devices=2)}
    )
    kept, killed = 0, list[psutil.Process]()

    def kill(sign: Sign) -> None:
        nonlocal kept
        kept += sign == "kept"
        if kept == 3 and not killed:
            killed.extend(each for each in workers() if each.cmdline()[-3] == "1")
            killed[0].kill()

    report, weights = run(site, kill)
    assert "process 2 of 2 has ended (SIGKILL)" in caplog.text
    assert kept == STEPS, "none of the steps before the kill was taken again"
    assert (report.steps, report.examples) == (expected.steps, expected.examples)
    assert report.train_loss == pytest.approx(expected.train_loss, rel=1e-5)
    assert report.heldout_loss == pytest.approx(expected.heldout_loss, rel=1e-5)
    moved = apart(alone, WEIGHTS)
    assert apart(weights, alone) < 5e-4 * moved
    assert workers() == []
    left = {each.name for each in (site.store / "training").iterdir()}
    assert left == {".lock", "worker-0.log", "worker-1.log"}
    assert not list((site.store / "rounds").rglob("*.safetensors"))


def workers() -> list[psutil.Process]:
    """Training processes under this one: ... feat_fed.train.worker FOLDER RANK SIZE PIPE."""
    return [
        each
        for each in psutil.Process().children(recursive=True)
        if "feat_fed.train.worker" in each.cmdline()
    ]


def apart(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> float:
    return max(float((left[name] - right[name]).abs().max()) for name in left)

"""A question for copies at a site: what is found, what stays there, what leaves."""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message, RecordDict
from torch import Tensor

from clip_files import moving_frames, write_dicom
from feat_fed.audit import lines
from feat_fed.config import (
    ComputeConfig,
    ReleaseConfig,
    RulesConfig,
    SiteConfig,
    SiteDataConfig,
    StudyConfig,
)
from feat_fed.federate import pack
from feat_fed.memorisation import GeneratedClips, NearestClips
from feat_fed.privacy.ledger import LEDGER_FOLDER
from feat_fed.protocol import Assignment, Report, enclose, opened
from feat_fed.wire import bundle, from_records, to_records
from feat_fed_client import compared
from feat_fed_client.app import answer, let_out
from feat_fed_client.copies import CopySearch, KeptAnswer
from feat_fed_client.executor import Executor
from feat_fed_client.round_files import forget_rounds
from feat_fed_client.session import SiteSession

STUDY = StudyConfig.model_validate(
    {
        "name": "tiny",
        "model": {"in_channels": 6, "hidden_size": 16, "num_trios": 1, "num_heads": 2},
        "clips": {"frames": 4, "size_px": 32, "heldout_fraction": 0.4},
    }
)
SECRET = "anna"


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the disk, which is waited for at each line."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SiteConfig:
    root = tmp_path_factory.mktemp("site")
    (root / "clips").mkdir()
    for number, patient in enumerate((SECRET, "b", "c", "d", "e")):
        frames = moving_frames(20 + number)
        write_dicom(root / "clips" / f"{patient}.dcm", frames, PatientID=patient)
    (root / "store").mkdir()
    (root / "store" / "patients.key").write_bytes(bytes(32))  # who is held out is known
    rules = RulesConfig(duplicate_bits=None, review="waived")
    data = SiteDataConfig(paths=(root / "clips",), rules=rules, workers=1)
    return SiteConfig(
        name="a", data=data, store=root / "store", compute=ComputeConfig(device="cpu")
    )


@pytest.fixture
def site(made: SiteConfig) -> Iterator[SiteConfig]:
    forget_rounds(made.store)
    (made.store / compared.FILE).unlink(missing_ok=True)
    yield made


def assignment(clips: int, study: StudyConfig = STUDY) -> Assignment:
    return Assignment(
        study_id="a" * 32,
        round=3,
        task="memorisation",
        first_step=0,
        study=study,
        enclosed=enclose(GeneratedClips(clips=clips)),
    )


@pytest.fixture
def latents(site: SiteConfig) -> Tensor:
    """One clip that was drawn, and one that is in training, mirrored."""
    train = SiteSession(site).clips(assignment(2)).train.whole()
    copy_FChw = train[0].read(3, 7, mirrored=True)
    noise = torch.randn(copy_FChw.shape, generator=torch.Generator().manual_seed(1))
    return torch.stack([noise, copy_FChw])


def asked(
    site: SiteConfig, z_NFChw: Tensor, study: StudyConfig = STUDY, **changes: Any
) -> tuple[Report, list[bytes]]:
    """Return what leaves the site."""
    told = assignment(len(z_NFChw), study).model_copy(update=changes)
    content = to_records(told, pack({"z": z_NFChw}))
    message = Message(content, dst_node_id=1, message_type="query.memorisation")
    message.metadata.__dict__["_message_id"] = "1"
    reply, _ = let_out(lambda: answer(message, site), message, site)
    return from_records(reply.content, Report)


def with_release(site: SiteConfig, **policy: Any) -> SiteConfig:
    return site.model_copy(update={"release": ReleaseConfig.model_validate(policy)})


def test_a_planted_training_clip_is_found_and_shown_at_the_site_alone(
    site: SiteConfig, latents: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "feat_fed_client")
    report, buckets = asked(site, latents)
    told = opened(report.enclosed, NearestClips)
    assert (report.outcome, report.examples, buckets) == ("ok", 0, [])
    assert told.near == (False, True)
    assert told.scores is not None and told.scores[1] == 1.0 and told.scores[0] < 0.5
    assert (told.heldout_patients, told.calibrated) == (1, "few")
    [folder] = (site.store / "memorisation").iterdir()
    assert {each.name for each in folder.iterdir()} == {
        "answer.json", "contact-sheet.png", "samples.gif", "samples.mp4",
    }  # fmt: skip
    kept = KeptAnswer.model_validate_json((folder / "answer.json").read_bytes())
    assert [each.clip for each in kept.pairs] == [2, 1]
    assert (kept.pairs[0].start_frame, kept.pairs[0].mirrored, kept.pairs[0].near) == (
        3,
        True,
        True,
    )
    assert str(folder) in caplog.text and "1 of 2 generated clips" in caplog.text
    left = report.model_dump_json() + told.model_dump_json()
    assert str(folder) not in left and kept.pairs[0].source_sha256 not in left


def test_a_question_that_comes_again_is_answered_from_the_disk_and_counted_once(
    site: SiteConfig, latents: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = with_release(site, max_clips=3)
    first = asked(site, latents)
    with monkeypatch.context() as patch:
        patch.setattr(SiteSession, "clips", None)
        assert asked(site, latents) == first
    report, _ = asked(site, latents + 1)  # two more than the one that is left
    assert (report.outcome, report.code, report.enclosed) == ("declined", "release", None)
    assert not list((site.store / "memorisation").glob("round-*/*.part"))
    assert forget_rounds(site.store) == 4  # as the erasure of a patient does
    assert asked(site, latents) == first  # searched again, and not counted again


def test_a_count_that_cannot_be_read_is_not_taken_for_none(
    site: SiteConfig, latents: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    (site.store / compared.FILE).write_text('{"questions": [')
    report, _ = asked(site, latents)
    assert (report.outcome, report.code, report.enclosed) == ("failed", "storage", None)
    assert "compared.json cannot be read" in caplog.text
    assert not (site.store / "memorisation").exists()


@pytest.mark.parametrize(
    ("privacy", "policy", "told"),
    [
        ({}, {"tell": "nothing"}, None),
        ({}, {"tell": "verdicts"}, {"near", "calibrated"}),
        ({"secure_aggregation": {}}, {}, {"near", "calibrated"}),
        ({"secure_aggregation": {}}, {"tell": "scores"}, None),
    ],
)
def test_the_sites_policy_decides_what_leaves(
    privacy: dict[str, Any],
    policy: dict[str, Any],
    told: set[str] | None,
    site: SiteConfig,
    latents: Tensor,
) -> None:
    tree = {**STUDY.model_dump(), "privacy": privacy, "strategy": {"weigh_by": "equal"}}
    tree["sites"]["minimum"] = 3
    report, _ = asked(with_release(site, **policy), latents, StudyConfig.model_validate(tree))
    if policy.get("tell") == "nothing":
        assert (report.outcome, report.code, report.enclosed) == ("declined", "release", None)
        assert not (site.store / "memorisation").exists()
        return
    left = opened(report.enclosed, NearestClips)
    assert left.near == (False, True)
    if told is not None:
        assert set(left.model_dump(exclude_none=True)) == told


def test_a_site_that_trained_with_dp_sgd_tells_no_scores_to_a_study_that_says_it_has_none(
    site: SiteConfig, latents: Tensor, tmp_path: Path
) -> None:
    shutil.copytree(site.store, tmp_path / "store")
    site = site.model_copy(update={"store": tmp_path / "store"})
    (site.store / LEDGER_FOLDER).mkdir(parents=True)
    told = opened(asked(site, latents)[0].enclosed, NearestClips)
    assert (told.near, told.scores, told.threshold) == ((False, True), None, None)
    report, _ = asked(with_release(site, tell="scores"), latents)
    assert opened(report.enclosed, NearestClips).scores is not None


def test_a_trainer_that_tells_too_much_is_stopped_at_the_door(
    site: SiteConfig, latents: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    report = CopySearch(site, assignment(2)).answer(pack({"z": latents}))
    message = Message(to_records(assignment(2)), dst_node_id=1, message_type="query.memorisation")
    message.metadata.__dict__["_message_id"] = "1"

    def left(told: Report, **policy: Any) -> Report:
        reply = Message(to_records(told), reply_to=message)
        passed, _ = let_out(lambda: reply, message, with_release(site, **policy))
        return from_records(passed.content, Report)[0]

    # The trainer told scores; the door lets verdicts out, or nothing.
    assert opened(left(report, tell="verdicts").enclosed, NearestClips).scores is None
    assert left(report, tell="nothing").code == "internal"
    assert "no answer about copies may leave" in caplog.text
    plain = opened(report.enclosed, NearestClips)
    one = plain.model_copy(update={"near": plain.near[:1], "scores": (0.5,)})
    assert left(report.model_copy(update={"enclosed": enclose(one)})).code == "internal"
    assert "not of the 2 clips" in caplog.text
    planted = json.loads(plain.model_dump_json()) | {"note": SECRET}
    for hostile in (planted, {**planted, "scores": [0.123456, 1.0]}, {"near": [True]}):
        text = enclose(type("Any", (), {"model_dump_json": lambda _, h=hostile: json.dumps(h)})())
        assert left(report.model_copy(update={"enclosed": text})).code == "internal"
    assert left(report.model_copy(update={"train_loss": 0.1, "examples": 7})).train_loss is None


@pytest.mark.parametrize(
    "z_NFChw",
    [
        torch.zeros(2, 4, 6, 8, 9),
        torch.zeros(3, 4, 6, 8, 8),
        torch.full((2, 4, 6, 8, 8), torch.nan),
        torch.zeros(2, 4, 6, 8, 8, dtype=torch.float64),
    ],
    ids=["shape", "number", "nan", "dtype"],
)
def test_latents_of_another_form_are_refused(z_NFChw: Tensor, site: SiteConfig) -> None:
    enclosed = enclose(GeneratedClips(clips=2))
    report, _ = asked(site, z_NFChw, enclosed=enclosed)
    assert (report.outcome, report.code) == ("failed", "protocol")
    assert not (site.store / "memorisation").exists()


def test_the_audit_log_has_the_question_and_what_left(
    site: SiteConfig, latents: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = to_records(assignment(2), pack({"z": latents}))
    message = Message(content, dst_node_id=1, message_type="query.memorisation")
    message.metadata.__dict__["_message_id"] = "1"
    monkeypatch.setattr(Executor, "_work", lambda *_: answer(message, site))
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    fab = type("Fab", (), {"content": bundle()[0]})
    executor = Executor("127.0.0.1:1", b"secret", lambda _: site)
    executor._recorded(None, "flwr-clientapp", fab, message, context)  # type: ignore[arg-type]
    received, decided, leaving = [each.event for each in lines(site.store / "audit")][-3:]
    assert (received["task"], received["weights_bytes"]) == (
        "memorisation",
        len(pack({"z": latents})[0]),
    )
    assert decided["outcome"] == "compared"
    assert set(leaving["report_fields"]) == {
        "study_id",
        "round",
        "task",
        "site",
        "outcome",
        "enclosed",
    }

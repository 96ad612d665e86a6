"""What a coordinator reads and finds who releases a run, with the sites' answers there already."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from fake_sites import STUDY, finished_run
from feat_fed.audit import lines, verify
from feat_fed.cli.main import run_app
from feat_fed.memorisation import NearestClips, Release, SiteAnswer
from feat_fed.model import read_weights, write_weights
from feat_fed.pipeline import FEATPipeline
from feat_fed.report.evaluation_folder import EvaluationFolder
from feat_fed.report.run_store import RunStore
from feat_fed_server.release_folder import AskingState, ClipsHeader, ReleaseFolder

CLIPS = 3


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run") / "run"
    sampler = STUDY.sampler.model_copy(update={"kind": "ddim", "steps": 2, "num_clips": CLIPS})
    study = STUDY.model_copy(update={"rounds": 1, "sampler": sampler})
    return finished_run(root, study, "a", "b").root


@pytest.fixture
def store(trained: Path, tmp_path: Path) -> RunStore:
    shutil.copytree(trained, tmp_path / "run")
    return RunStore(tmp_path / "run")


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    status = run_app(["release", *map(str, arguments), "--clips", str(CLIPS)])
    shown = capsys.readouterr()
    return status, " ".join((shown.out + shown.err).split())


def answer(store: RunStore, *near: tuple[bool, ...]) -> None:
    """Put answers of the sites there, about the clips that will be drawn."""
    folder = ReleaseFolder(store.root)
    sampler = store.study.sampler
    header = ClipsHeader.of(store, 1, sampler)
    if folder.latents_of(header) is None:
        from feat_fed.generate import run_pipeline

        seeds = range(sampler.seed, sampler.seed + CLIPS)
        drawn = run_pipeline(store, sampler)(
            seeds=seeds, num_inference_steps=2, output_type="latent"
        )
        folder.write_latents(drawn.frames, header)  # type: ignore[arg-type]
    answers = {
        site: SiteAnswer(
            site=site,
            status="answered",
            nearest=NearestClips(
                near=each,
                calibrated="few",
                heldout_patients=9,
                threshold=0.6,
                scores=tuple(0.9 if it else 0.3 for it in each),
            ),
        )
        for site, each in zip("ab", near, strict=False)
    }
    state = AskingState(
        clips_sha256=folder.read_latents()[1],
        clips=CLIPS,
        round=1,
        until=time.time(),
        sites=("a", "b"),
        answers=answers,
    )
    folder.write_asking(state)


def decided(store: RunStore) -> list[dict[str, Any]]:
    told = [each.event for each in lines(store.root / "audit")]
    return [each for each in told if each["kind"] == "release-decided"]


NONE, SECOND = (False,) * 3, (False, True, False)


def test_what_no_site_finds_a_copy_in_is_released(
    store: RunStore, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(store, NONE, NONE)
    status, said = told(capsys, store.root)
    folder = ReleaseFolder(store.root)
    assert status == 0 and "3 of 3 let through" in said
    assert sorted(each.name for each in folder.samples.iterdir()) == [
        "clip-0001", "clip-0002", "clip-0003",
    ]  # fmt: skip
    assert (folder.samples / "clip-0001" / "samples.mp4").stat().st_size > 0
    assert FEATPipeline.from_pretrained(folder.model).size.num_frames == 2
    assert Release.model_validate_json(folder.decision.read_bytes()).model == "released"


def test_a_copy_is_withheld_and_the_model_until_a_word_is_given_and_logged(
    store: RunStore, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(store, NONE, NONE)
    told(capsys, store.root)
    answer(store, NONE, SECOND)
    folder = ReleaseFolder(store.root)
    status, said = told(capsys, store.root)
    assert status == 1 and not folder.model.exists()  # nor that of the release before
    assert (
        "b: 1 of 3 clips are too near to its own; largest similarity 0.90; threshold 0.60; as many"
        in said
    )
    assert "fewer than 19 patients held out" in said
    assert "2 of 3 let through" in said and "kept back" in said and "--release-anyway" in said
    assert {each.name for each in folder.samples.iterdir()} == {"clip-0001", "clip-0003"}
    status, said = told(capsys, store.root, "--release-anyway", "  the board has agreed  ")
    assert status == 0 and "in spite of the gate" in said
    assert folder.model.is_dir() and not (folder.samples / "clip-0002").exists()
    found = json.loads(folder.decision.read_text())
    assert [each["near_at"] for each in found["clips"]] == [[], ["b"], []]
    assert [(each["gate"], each["model"], each.get("word")) for each in decided(store)] == [
        ("passed", "released", None),
        ("near", "kept", None),
        ("near", "released-anyway", "the board has agreed"),
    ]
    assert not verify(store.root / "audit").problems


def test_answers_about_other_weights_do_not_count_and_the_held_best_round_will_do(
    store: RunStore, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(store, NONE, NONE)
    held = EvaluationFolder.of_run(store.root).checkpoints
    held.mkdir(parents=True)
    store.ema(1).rename(held / store.ema(1).name)  # as after rotation
    assert told(capsys, store.root, "--round", 1)[0] == 0
    found = read_weights(held / store.ema(1).name, kind="ema", model=store.study.model)
    other = {name: each + 1 for name, each in found.tensors.items()}
    write_weights(store.ema(1), other, kind="ema", model=store.study.model)
    status, said = told(capsys, store.root, "--wait-sec", 0)
    assert status == 1 and "a: missing" in said and "b: missing" in said


def test_without_waiting_what_has_been_answered_decides(
    store: RunStore, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(store, SECOND)
    folder = ReleaseFolder(store.root)
    status, said = told(capsys, store.root, "--wait-sec", 0)
    assert status == 1 and "b: missing, it has not answered" in said
    assert "0 of 3 let through" in said and "not every hospital that took part" in said
    assert not folder.samples.exists() and not folder.model.exists()
    word = ("--release-anyway", "b has left the study")
    assert told(capsys, store.root, "--wait-sec", 0, *word)[0] == 0
    assert {each.name for each in folder.samples.iterdir()} == {"clip-0001", "clip-0003"}
    assert folder.model.is_dir()
    assert [(each["gate"], each["lacking"]) for each in decided(store)] == 2 * [
        ("incomplete", ["b"])
    ]


@pytest.mark.parametrize("word", ["", "  ", "ok", "two\nlines", "x" * 501])
def test_a_word_that_is_none_is_refused_before_anything_is_done(
    word: str, store: RunStore, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said = told(capsys, store.root, "--release-anyway", word)
    assert status == 1 and "3 to 500 characters on one line" in said
    assert not (store.root / "release").exists()


def test_a_coordinators_mistakes_are_named(
    store: RunStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is not a run" in told(capsys, tmp_path)[1]
    status, said = told(capsys, store.root, "--federation", tmp_path / "federation.yaml")
    assert status == 1 and "federation.yaml" in said
    assert not (store.root / "release").exists()  # nothing was drawn for it
    assert "no weights of round 7" in told(capsys, store.root, "--round", 7)[1]
    answer(store, NONE, NONE)
    ReleaseFolder(store.root)._asking.write_text("{")
    assert "asking.json is damaged; remove it" in told(capsys, store.root)[1]
    store.roster.unlink()
    status, said = told(capsys, store.root)
    assert status == 1 and "was simulated" in said
    (store.root / "metrics.jsonl").write_text("")
    assert "nothing to release" in told(capsys, store.root)[1]
    assert decided(store) == []

"""A release before real hospitals: a planted training clip among the generated ones is withheld."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
import torch
import yaml

from fake_sites import finished_run
from feat_fed.audit import FOLDER, lines, verify
from feat_fed.cli.demo import Consortium, fix_pseudonyms
from feat_fed.config import load_site, load_study
from feat_fed.data.synthetic import write_demo_hospitals
from feat_fed.memorisation import Release
from feat_fed.protocol import Assignment
from feat_fed.report.run_store import RunStore
from feat_fed_client.session import SiteSession
from feat_fed_server.release_folder import ClipsHeader, ReleaseFolder
from system.study_runs import TINY, Command, started

NAMES = ("hospital-1", "hospital-2")
CLIPS = 3


def tiny_run(root: Path) -> RunStore:
    """Make a run that two hospitals took part in; nothing about its model is of interest here."""
    tree = yaml.safe_load(TINY.read_text()) | {"rounds": 1}
    tree["sites"] |= {"wait_sec": 1, "settle_sec": 0.5, "round_sec": 5}
    study = root / "study.yaml"
    study.write_text(yaml.safe_dump(tree))
    return finished_run(root / "runs" / "tiny", load_study(study), *NAMES)


def found_consortium(store: RunStore) -> Consortium:
    """Make the files of two hospitals, one of which tells verdicts alone, and of their server."""
    data = write_demo_hospitals(store.root.parent / "data", hospitals=2, seed=1)
    consortium = Consortium.make(store.root, data)
    # Where few patients are left in training, the mean of their clips is much like any one of them.
    fix_pseudonyms(consortium, seed=1)
    with consortium.site_files[NAMES[1]].open("a") as file:
        file.write("release: {tell: verdicts}\n")
    tree = {"address": consortium.address, "sites": list(NAMES)}
    (consortium.keys.parent / "federation.yaml").write_text(yaml.safe_dump(tree))
    return consortium


def plant(store: RunStore, file: Path) -> None:
    """Put a window of a hospital's training clip among what looks generated."""
    site = load_site(file)
    told = Assignment(
        study_id="a" * 32, round=1, task="memorisation", first_step=0, study=store.study
    )
    copy_FChw = SiteSession(site).clips(told).train.whole()[0].read(5, 9, mirrored=True)
    noise = torch.randn((CLIPS, *copy_FChw.shape), generator=torch.Generator().manual_seed(1))
    noise[1] = copy_FChw + 0.05 * noise[1]
    sampler = store.study.sampler.model_copy(update={"num_clips": CLIPS})
    header = ClipsHeader.of(store, 1, sampler)
    ReleaseFolder(store.root).write_latents(noise, header)


@pytest.mark.slow
def test_a_copy_is_withheld_and_the_model_needs_a_word(tmp_path: Path) -> None:
    store = tiny_run(tmp_path)
    consortium = found_consortium(store)
    plant(store, consortium.site_files[NAMES[0]])
    release = (
        *("release", store.root, "--clips", CLIPS, "--wait-sec", 300),
        *("--federation", consortium.keys.parent / "federation.yaml"),
    )

    def client(name: str) -> contextlib.AbstractContextManager[Command]:
        file = consortium.site_files[name]
        return started(tmp_path / f"{name}.out", "client", "--site-config", file)

    with (
        client(NAMES[0]) as first,
        client(NAMES[1]),
        started(tmp_path / "release.out", *release) as command,
    ):
        assert command.end(330) == 1, command.text()
        assert "Traceback" not in command.text() + first.text()
    folder = ReleaseFolder(store.root)
    found = Release.model_validate_json(folder.decision.read_bytes())
    first_told, second_told = (each.nearest for each in found.sites)
    assert first_told is not None and second_told is not None
    assert first_told.near[1] and first_told.scores and first_told.scores[1] >= 0.95
    assert second_told.scores is None and second_told.heldout_patients is None
    assert (found.gate, found.model) == ("near", "kept")
    assert NAMES[0] in found.clips[1].near_at and not found.clips[1].released
    assert not folder.model.exists() and not (folder.samples / "clip-0002").exists()
    assert store.summary().state == "complete"  # as it was
    with started(
        tmp_path / "again.out", *release, "--release-anyway", "a planted copy, of a test"
    ) as command:
        assert command.end(120) == 0, command.text()  # and nobody is asked again
    assert folder.model.is_dir() and not (folder.samples / "clip-0002").exists()
    look_at_logs(store)


def look_at_logs(store: RunStore) -> None:
    events = [each.event for each in lines(store.root / FOLDER)]
    decided = [each for each in events if each["kind"] == "release-decided"]
    assert [each.get("word") for each in decided] == [None, "a planted copy, of a test"]
    assert not verify(store.root / FOLDER).problems
    for name in NAMES:
        site = store.root / "sites" / name / "store"
        assert not verify(site / FOLDER).problems
        outcomes = [each.event.get("outcome") for each in lines(site / FOLDER)]
        assert outcomes.count("compared") == 1
        [pictures] = (site / "memorisation").iterdir()
        assert (pictures / "contact-sheet.png").exists()
        assert json.loads((pictures / "answer.json").read_text())["pairs"]
        assert str(pictures) not in "".join(
            each.read_text() for each in (store.root / "release").glob("*.json")
        )

"""A server that is killed at any write of a study, and goes on, ends with the same bytes."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from fake_sites import STUDY, honest, run, trained_at
from feat_fed.config import StudyConfig
from feat_fed.privacy.central import central_noise
from feat_fed.report.live import StudyLive
from feat_fed.report.run_store import RunStore
from feat_fed.tensor_file import read_digest, verify_tensor_file
from feat_fed_server.central import NoisyMean
from feat_fed_server.inbox import Inbox

SITES = {"a": honest("a", 0.5, examples=3), "b": honest("b", -0.25, examples=2)}


class AnyHeader(BaseModel):
    """Whatever a tensor file says of itself."""


class Killed(BaseException):
    """The process is no more: nothing that it tries afterwards reaches the disk."""


class Disk:
    """Counts what changes names on the disk, and lets the process die before the n-th change."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.changes = 0
        self.dies_at: int | None = None
        for owner, name in (
            (Path, "replace"),
            (Path, "unlink"),
            (Path, "mkdir"),
            (shutil, "rmtree"),
        ):
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name)))
        monkeypatch.setattr(os, "fsync", lambda _: None)
        monkeypatch.setattr(StudyLive, "write", lambda *_: None)

    def _counted(self, change: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            if self.dies_at is not None and self.changes >= self.dies_at:
                raise Killed
            self.changes += 1
            return change(*arguments, **options)

        return counted


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def study(rounds: int) -> StudyConfig:
    """Two sites, all kinds of files, and rounds that go."""
    changes = {
        "rounds": rounds,
        "strategy": {"kind": "fedadam"},
        "sites": {"minimum": 2, "round_sec": 60},
        "checkpoints": {"keep_last": 2},
    }
    return StudyConfig.model_validate(STUDY.model_dump() | changes)


def finished(root: Path) -> dict[str, str]:
    """All that a run keeps of its rounds (weights, averages, the optimiser, manifests).

    Tensor files by the digest of their content: safetensors orders its metadata by chance.
    """
    assert not list((root / "inbox").iterdir())
    return {
        each.name: files_of(each) if each.suffix == ".json" else verified_digest(each)
        for each in sorted((root / "checkpoints").iterdir())
    }


def files_of(manifest: Path) -> str:
    """All of a manifest but the sites' standing, which holds times."""
    return json.dumps({**json.loads(manifest.read_text()), "standing": None})


def verified_digest(path: Path) -> str:
    verify_tensor_file(path, AnyHeader)
    return read_digest(path)


def updates_in(store: RunStore, number: int) -> set[str]:
    return {each.stem for each in store.inbox(number).glob("[ab].safetensors")}


def test_a_kill_at_any_write_of_a_round_changes_no_byte(tmp_path: Path, disk: Disk) -> None:
    run(RunStore.create(tmp_path / "before", study(2)), SITES)

    def third_round(name: str) -> RunStore:
        shutil.copytree(tmp_path / "before", tmp_path / name)
        return RunStore.resume(tmp_path / name, study(3))

    whole = third_round("whole")
    began = disk.changes
    run(whole, SITES)
    expected, writes = finished(whole.root), disk.changes - began
    assert "round-0001.json" not in expected  # removed in this round
    assert writes > 15
    for at in range(writes):
        store = third_round(f"killed-{at}")
        disk.dies_at = disk.changes + at
        with pytest.raises(Killed):
            run(store, SITES)
        disk.dies_at = None
        there = updates_in(store, 3)
        grid = run(RunStore(store.root), SITES)
        assert finished(store.root) == expected, f"killed at write {at} of {writes}"
        assert not there & set(trained_at(grid, 3))
        assert [each.round for each in store.rounds()] == [1, 2, 3]


def test_a_study_killed_five_times_ends_with_the_bytes_of_an_undisturbed_one(
    tmp_path: Path, disk: Disk
) -> None:
    whole = RunStore.create(tmp_path / "whole", study(3))
    run(whole, SITES)
    store = RunStore.create(tmp_path / "killed", study(3))
    for writes in (3, 8, 12, 15, 9):
        disk.dies_at = disk.changes + writes
        with pytest.raises(Killed):
            run(RunStore(store.root), SITES)
        disk.dies_at = None
    run(RunStore(store.root), SITES)
    assert finished(store.root) == finished(whole.root)


def test_a_kill_at_any_write_makes_no_second_release(tmp_path: Path, disk: Disk) -> None:
    """Under central privacy: the noise that was drawn for a round stays the round's."""
    privacy = {"central": {"noise_multiplier": 1.0, "clipping": "adaptive"}}
    changes = {"strategy": {"weigh_by": "equal"}, "privacy": privacy}
    private = StudyConfig.model_validate(study(1).model_dump() | changes)
    assert private.privacy.central is not None
    noise = central_noise(private.privacy.central, min_sites=2)
    whole = RunStore.create(tmp_path / "whole", private)
    began = disk.changes
    run(whole, SITES)
    writes, drawn_before = disk.changes - began, 0
    for at in range(writes):
        store = RunStore.create(tmp_path / f"killed-{at}", private)
        disk.dies_at = disk.changes + at
        with pytest.raises(Killed):
            run(store, SITES)
        disk.dies_at = None
        closed = Inbox(store.inbox(1)).closed() if store.inbox(1).exists() else None
        run(RunStore(store.root), SITES)
        released = {each.central.release for each in store.records() if each.central}
        assert len(released) == 1
        if closed is not None and closed.noise_seed is not None:
            drawn = NoisyMean.drawn(noise, clip_norm=1.0, num_sites=2, seed=closed.noise_seed)
            assert released == {drawn.seeded.name}
            drawn_before += 1
        spending = store.summary().central
        assert spending is not None
        assert [each.releases for each in spending.sites] == [1, 1]
    assert drawn_before > 3

"""Processes are killed in the middle of a study, and it goes on, and its bytes do not change.

`make faults` runs all faults that :mod:`faults.cases` knows.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from faults.cases import FAULTS
from faults.matrix import suffer
from faults.reference import bytes_of, undisturbed
from faults.stage import Stage, make_consortium
from feat_fed.report import RunStore
from feat_fed.tensor_file import read_tensor_file
from feat_fed.train.run_state import restore
from system.consortium import make_folders
from waiting import wait_until

CHOSEN = ("server and a site killed, training",)


class AnyHeader(BaseModel):
    """Of any of our tensor files; what they hold is checked against their digest."""


def assert_sound(root: Path) -> None:
    files = [each for each in root.rglob("*") if each.is_file()]
    assert not [each for each in files if re.fullmatch(r"\..+\.\d+-[0-9a-f]{8}(\.\w+)?", each.name)]
    tensors = [each for each in files if each.suffix == ".safetensors"]
    assert tensors
    for each in tensors:
        if "latents" not in each.parts:
            read_tensor_file(each, AnyHeader)


def shared_memory() -> set[str]:
    """Segments there are; semaphores come and go with other programs."""
    return {each.name for each in Path("/dev/shm").iterdir() if not each.name.startswith("sem.")}


@pytest.mark.slow
def test_a_study_goes_on_whatever_is_killed(tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    make_folders(made)
    before = shared_memory()
    faults = {each.key: each for each in FAULTS}
    with Stage(tmp_path / "killed", made, rounds=100) as stage:
        stage.start()
        stage.wait(lambda: stage.rounds_done() >= 1, 300)
        for key in CHOSEN:
            outcome = suffer(stage, faults[key])
            assert (outcome.rounds_lost, outcome.updates_lost) == (0, 0), key
        stage.stop()
    store = RunStore(stage.run)
    state = restore(store)
    whole = undisturbed(
        make_consortium(tmp_path / "whole", made), stage.study, rounds=state.rounds_done
    )
    assert bytes_of(state.weights) == whole
    assert [each.round for each in store.rounds()] == list(range(1, state.rounds_done + 1))
    assert_sound(stage.both.root)
    wait_until(lambda: shared_memory() <= before)

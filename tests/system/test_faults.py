"""Processes of the sites are killed at any moment, and the study's bytes do not change."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import re
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest
import yaml
from flwr.supercore.task_identity import TaskIdentity
from pydantic import BaseModel
from torch import Tensor

from aggregating import aggregate
from feat_fed.config import load_site, load_study
from feat_fed.protocol import Assignment
from feat_fed.report import RunStore
from feat_fed.tensor_file import read_tensor_file
from feat_fed.train.run_state import restore
from feat_fed_client.session import SiteSession
from feat_fed_server.strategy import build_strategy
from system.consortium import Consortium, make_folders
from system.study_runs import TINY, Command, nobody_left, wait_until

log = logging.getLogger(__name__)

SITES = ("hospital-1", "hospital-2")
KINDS = ("trainer", "holder", "executor", "SuperNode", "client")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    make_folders(root)
    return root


@pytest.fixture(autouse=True)
def flower_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's strategies make messages, also in this process."""
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


class Sites:
    """The clients of a consortium, each of which can be started again."""

    def __init__(self, consortium: Consortium, stack: contextlib.ExitStack) -> None:
        self._consortium = consortium
        self._stack = stack
        self.seen: set[psutil.Process] = set()
        self.commands = {name: self._start(name) for name in SITES}

    def _start(self, name: str) -> Command:
        return self._stack.enter_context(self._consortium.client(name))

    def kill(self, name: str, kind: str) -> bool:
        """Kill a process of a site with SIGKILL, if there is one of the kind at the moment."""
        client = self.commands[name]
        with contextlib.suppress(psutil.NoSuchProcess):
            family = client.family()
            self.seen.update(family)
            victim = _victim(client, family, kind)
            if victim is None:
                return False
            victim.kill()
            if kind == "client":
                client.process.wait()
                self.commands[name] = self._start(name)  # as systemd would
            return True
        return False


def _victim(client: Command, family: list[psutil.Process], kind: str) -> psutil.Process | None:
    def of(words: str) -> list[psutil.Process]:
        return [each for each in family if words in " ".join(each.cmdline())]

    if kind == "client":
        return psutil.Process(client.process.pid)
    if kind == "SuperNode":
        return next(iter(of("flower_supernode")), None)
    executors = [each for each in of("feat_fed_client") if each.parent() not in family]
    holders = [holder for each in executors for holder in each.children()]
    trainers = [trainer for each in holders for trainer in each.children()]
    return next(iter({"executor": executors, "holder": holders, "trainer": trainers}[kind]), None)


def consortium(root: Path, made: Path) -> Consortium:
    """Make one whose data, split and order of clips are those of any other."""
    both = Consortium(root, made, SITES)
    for name in SITES:
        store = root / name / "store"
        store.mkdir(mode=0o700)
        (store / "patients.key").write_bytes(bytes(32))
        both.write(name, paths=[str(made / "data" / name)], checkpoint_minutes=0.001)
    return both


def study(folder: Path, rounds: int) -> Path:
    tree = yaml.safe_load(TINY.read_text()) | {"rounds": rounds}
    tree["training"] |= {"local_steps": 60, "optimiser_state": "kept"}
    tree["sites"] |= {"round_sec": 300}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def undisturbed(both: Consortium, path: Path) -> dict[str, bytes]:
    """Do the study's rounds in this process; return the final weights' bytes."""
    config = load_study(path)
    sessions = [SiteSession(load_site(both.site(name))) for name in SITES]
    strategy = build_strategy(config.strategy)
    state = restore(RunStore.create(both.root / "reference", config))
    while state.rounds_done < config.rounds:
        number = state.rounds_done + 1
        assignment = Assignment(
            study_id="0" * 32,
            round=number,
            task="train",
            first_step=state.rounds_done * config.training.local_steps,
            study=config,
        )
        answers = [each.run(assignment, state.weights) for each in sessions]
        weights = aggregate(strategy, both.root / "inbox", answers, state.weights, number=number)
        state = state.after_round(weights, ema_decay=config.strategy.ema_decay)
    return bytes_of(state.weights)


def bytes_of(weights: Mapping[str, Tensor]) -> dict[str, bytes]:
    return {name: each.numpy().tobytes() for name, each in weights.items()}


def run(
    both: Consortium, path: Path, kills: list[tuple[str, str]], rng: random.Random
) -> list[tuple[str, str]]:
    """Run the study while killing, one after the other; return what could not be killed.

    A round's kill comes at any moment after the round before it has ended.
    """
    left = list(kills)
    with contextlib.ExitStack() as stack:
        sites = Sites(both, stack)
        server = stack.enter_context(both.server("--study", path))
        server.wait_for("round 1/")
        while server.process.poll() is None:
            time.sleep(rng.uniform(0.1, 5.0))
            done = server.text().count("train loss")
            if left and done >= len(kills) - len(left) and sites.kill(*left[0]):
                log.info("round %d: killed %s", done + 1, left.pop(0))
        assert server.end() == 0, server.text()
        for each in sites.commands.values():
            sites.seen.update(each.family())
        for each in sites.commands.values():
            each.process.terminate()
            each.end(30)
        nobody_left(list(sites.seen))
    return left


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


def check(made: Path, folder: Path, *, rounds: int, kills: list[tuple[str, str]]) -> None:
    rng, path = random.Random(4), study(folder, rounds)
    before = shared_memory()
    killed = consortium(folder / "killed", made)
    left = run(killed, path, kills, rng)
    store = RunStore(killed.root / "runs" / "tiny")
    assert [each.round for each in store.rounds()] == list(range(1, rounds + 1))
    whole = consortium(folder / "whole", made)
    assert bytes_of(restore(store).weights) == undisturbed(whole, path)
    assert_sound(killed.root)
    wait_until(lambda: shared_memory() <= before)
    assert not left


@pytest.mark.slow
def test_kills_of_what_works_at_the_sites(made: Path, tmp_path: Path) -> None:
    first, second = SITES
    kills = [(first, "trainer"), (second, "holder"), (first, "executor"), (second, "SuperNode")]
    check(made, tmp_path, rounds=4, kills=kills)


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.skipif("FEAT_FED_LONG_TESTS" not in os.environ, reason="set FEAT_FED_LONG_TESTS=1")
def test_twenty_rounds_and_twenty_kills(made: Path, tmp_path: Path) -> None:
    rng = random.Random(5)
    kills = [(rng.choice(SITES), kind) for kind in KINDS * 4]
    rng.shuffle(kills)
    check(made, tmp_path, rounds=20, kills=kills)

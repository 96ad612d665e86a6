"""Hospitals of a study with secure aggregation: their own client, without clips and training."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Message

from fake_sites import STUDY, FakeGrid
from feat_fed.config import SiteConfig, SiteDataConfig, StudyConfig
from feat_fed.joining import key_pem, public_text
from feat_fed.protocol import Assignment, Task
from feat_fed.report.run_store import RunStore
from feat_fed.train import RoundJob
from feat_fed.train.jobs import RoundResult
from feat_fed.wire import from_records
from feat_fed_client import session
from feat_fed_client.app import answer, let_out
from feat_fed_client.keys import identity_key
from feat_fed_server.roster import KeyRoster
from feat_fed_server.rounds import RoundLoop

Fault = Callable[[str, Assignment], bool]
"""Whether a site does not answer an assignment."""


def well(name: str, assignment: Assignment) -> bool:
    """Without a fault."""
    return False


def secure_study(*, rounds: int = 1, minimum: int = 3, **parts: Any) -> StudyConfig:
    tree: dict[str, Any] = {
        **STUDY.model_dump(),
        "rounds": rounds,
        "strategy": {"weigh_by": "equal", "ema_decay": 0.5},
        "sites": {"minimum": minimum, "wait_sec": 5, "settle_sec": 0.1, "round_sec": 0.4},
        "privacy": {"secure_aggregation": {"largest_value": 2.0}},
    }
    for part, changes in parts.items():
        tree[part] = {**tree[part], **changes}
    return StudyConfig.model_validate(tree)


class Hospitals:
    """Stores and keys of sites; each site's training adds its own shift to every weight."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, shifts: dict[str, float]):
        self.shifts = shifts
        self.trained: list[tuple[str, int]] = []
        self.sites = {
            name: SiteConfig(
                name=name, data=SiteDataConfig(paths=(root,)), store=root / "sites" / name
            )
            for name in shifts
        }
        for each in self.sites.values():
            each.store.mkdir(parents=True)
        keys = {name: identity_key(each).public_key() for name, each in self.sites.items()}
        self.keys = {name: key_pem(each) for name, each in keys.items()}
        self.public = {name: public_text(each) for name, each in keys.items()}
        clips = SimpleNamespace(digest="c" * 64, train=SimpleNamespace(num_patients=2))
        clips.heldout = None
        monkeypatch.setattr(session.SiteSession, "clips", lambda *_: clips)
        monkeypatch.setattr(session.SiteSession, "_sec_to_deadline", lambda _: math.inf)
        monkeypatch.setattr(session, "train_round", self._train)
        monkeypatch.setattr(session, "evaluate_round", lambda *_, **__: 0.5)
        clips.train.num_clips = 3

    def _train(self, job: RoundJob, **_: Any) -> RoundResult:
        name = job.folder.parent.name
        self.trained.append((name, 1 + job.first_step // job.training.local_steps))
        moved = {key: each + self.shifts[name] for key, each in job.weights.items()}
        fields: dict[str, Any] = dict.fromkeys(
            each.name for each in dataclasses.fields(RoundResult)
        )
        told = {"steps": job.training.local_steps, "skipped_steps": 0, "ended_by": "steps"}
        told |= {"examples": 3, "seconds": 1.0, "train_loss": 1.0}
        return RoundResult(**(fields | told | {"weights": moved}))


class SecureGrid(FakeGrid):
    """A grid of hospitals; one that has a fault does not answer, or answers and nobody hears."""

    def __init__(
        self,
        hospitals: Hospitals,
        *,
        deaf: Fault = well,
        mute: Fault = well,
    ) -> None:
        super().__init__(dict.fromkeys(hospitals.sites, None))  # type: ignore[arg-type]
        self.hospitals = hospitals
        self.deaf, self.mute = deaf, mute
        self.gone: set[str] = set()
        self.seen: list[tuple[str, Task, int | None]] = []
        self._ids = itertools.count()

    def get_nodes(self) -> list[Any]:
        nodes = super().get_nodes()
        for node, name in zip(nodes, self.sites, strict=True):
            node.public_key = self.hospitals.keys[name]
        return [node for node, name in zip(nodes, self.sites, strict=True) if name not in self.gone]

    def push_messages(self, messages: Any) -> list[str]:
        ids = []
        for message in messages:
            ids.append(key := f"message-{next(self._ids)}")
            message.metadata.__dict__["_message_id"] = key
            name = list(self.sites)[message.metadata.dst_node_id - 1]
            assignment, _ = from_records(message.content, Assignment)
            self.seen.append((name, assignment.task, assignment.attempt))
            if not self.deaf(name, assignment):
                reply = self.reply(name, message)
                if not self.mute(name, assignment):
                    self.replies[key] = reply
        return ids

    def reply(self, name: str, message: Message) -> Message:
        site = self.hospitals.sites[name]
        return let_out(lambda: answer(message, site), message, site)[0]

    def tasks_of(self, name: str) -> list[Task]:
        return [task for site, task, _ in self.seen if site == name]


def run_secure(store: RunStore, grid: SecureGrid) -> None:
    keys = grid.hospitals.keys
    roster = KeyRoster({key: name for name, key in keys.items()})
    RoundLoop(grid, roster, store).run()  # type: ignore[arg-type]

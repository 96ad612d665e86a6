"""Sites that live in this process, behind a grid like Flower's."""

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from torch import Tensor

from feat_fed.config import StudyConfig
from feat_fed.federate import decode, digest_of, form_of, pack, whole_form
from feat_fed.model.state import state_schema
from feat_fed.protocol import Assignment, Report
from feat_fed.report.run_store import RunStore
from feat_fed.wire import from_records, to_records
from feat_fed_server.roster import KeyRoster
from feat_fed_server.rounds import RoundLoop

Weights = dict[str, Tensor]
Answer = Callable[[Assignment, Weights], RecordDict | Error | None]

STUDY = StudyConfig.model_validate(
    {
        "name": "tiny",
        "rounds": 2,
        "model": {"in_channels": 6, "hidden_size": 16, "num_trios": 1, "num_heads": 2},
        "clips": {"frames": 2, "size_px": 16},
        "training": {"learning_rate": 1.0},
        "strategy": {"ema_decay": 0.5},
        "sites": {"minimum": 2, "wait_sec": 0.3, "settle_sec": 0.2, "round_sec": 0.5},
    }
)


def report(assignment: Assignment, site: str, **changes: Any) -> Report:
    fields = {
        "study_id": assignment.study_id,
        "round": assignment.round,
        "task": assignment.task,
        "site": site,
        "outcome": "ok",
        "examples": 1,
        "steps": assignment.study.training.local_steps if assignment.task == "train" else 0,
        "train_loss": 1.0,
        "heldout_loss": 0.5,
        "holds": assignment.weights,
    }
    return Report.model_validate(fields | changes)


def honest(site: str, shift: float, examples: int = 1) -> Answer:
    """A site whose training adds ``shift`` to every weight, and a trifle of its own."""
    own = shift + 1e-6 * (ord(site[0]) - ord("a"))

    def answer(assignment: Assignment, weights: Weights) -> RecordDict:
        moved = {name: each + own for name, each in weights.items()}
        told = report(assignment, site, examples=examples)
        return to_records(told, pack(moved) if assignment.task == "train" else ())

    return answer


class FakeGrid:
    """Flower's grid with sites as functions; node ids are positions in the list."""

    def __init__(self, sites: dict[str, Answer]) -> None:
        self.sites = sites
        self.replies: dict[str, Message] = {}
        self.asked: list[Assignment] = []
        self.asked_of: list[str] = []
        self.node_of: dict[str, int] = {}
        self.activated_at = {name: "first" for name in sites}
        self.held: dict[str, tuple[str | None, Weights]] = {}
        self.bytes_to: Counter[str] = Counter()

    def get_nodes(self) -> list[Any]:
        return [
            SimpleNamespace(
                node_id=number, public_key=name.encode(), last_activated_at=self.activated_at[name]
            )
            for number, name in enumerate(self.sites, start=1)
        ]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        for number, message in enumerate(messages):
            key = f"{len(self.asked)}-{number}"
            message.metadata.__dict__["_message_id"] = key
            self.node_of[key] = message.metadata.dst_node_id
            assignment, buckets = from_records(message.content, Assignment)
            name = list(self.sites)[message.metadata.dst_node_id - 1]
            self.bytes_to[name] += sum(map(len, buckets))
            moves = assignment.moves_weights
            weights = self.received(name, assignment, buckets) if moves else {}
            if weights is None:
                lacks = report(assignment, name, outcome="failed", code="base", examples=0)
                answer: Any = to_records(lacks.model_copy(update={"holds": self.holds(name)}))
            else:
                self.asked.append(assignment)
                self.asked_of.append(name)
                answer = self.sites[name](assignment, weights)
            if answer is not None:
                self.replies[key] = Message(answer, reply_to=message)
            ids.append(key)
        return ids

    def holds(self, name: str) -> str | None:
        return self.held.get(name, (None, {}))[0]

    def received(self, name: str, told: Assignment, buckets: list[bytes]) -> Weights | None:
        """Return the weights that came, as a site does; None where it lacks their base."""
        transfer, schema = told.study.transfer, state_schema(told.study.model)
        if told.base is None:
            weights = decode(buckets, whole_form(transfer), schema)
        elif told.base != self.holds(name):
            return None
        elif told.base == told.weights:
            assert not buckets
            weights = self.held[name][1]
        else:
            base = self.held[name][1]
            weights = decode(buckets, form_of(transfer, "down"), schema, base=base)
        assert digest_of(weights) == told.weights
        self.held[name] = (told.weights, weights)
        return weights

    def pull_messages(self, ids: Iterable[str]) -> list[Message]:
        return [self.replies.pop(each) for each in ids if each in self.replies]


def run(store: RunStore, sites: dict[str, Answer], *expected: str) -> FakeGrid:
    grid = FakeGrid(sites)
    roster = KeyRoster({name.encode(): name for name in (expected or sites)})
    RoundLoop(grid, roster, store).run()  # type: ignore[arg-type]
    return grid


def finished_run(root: Path, study: StudyConfig, *sites: str) -> RunStore:
    """Make a run that these sites took part in, also in a process that is no Flower task."""
    store = RunStore.create(root, study)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_run_id", "_node_id", "_task_id"):
            patch.setattr(TaskIdentity, name, 1)
        run(store, {site: honest(site, 1e-3 * place) for place, site in enumerate(sites, start=1)})
    KeyRoster({}).save(store.roster)
    return store


def trained_at(grid: FakeGrid, round_number: int) -> list[str]:
    return sorted(
        site
        for site, each in zip(grid.asked_of, grid.asked, strict=True)
        if (each.task, each.round) == ("train", round_number)
    )

"""Sites that live in this process, behind a grid like Flower's."""

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

from flwr.app import Error, Message, RecordDict
from torch import Tensor

from feat_fed.config import StudyConfig
from feat_fed.federate import pack
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
    }
    return Report.model_validate(fields | changes)


def honest(site: str, shift: float, examples: int = 1) -> Answer:
    """A site whose training adds ``shift`` to every weight."""

    def answer(assignment: Assignment, weights: Weights) -> RecordDict:
        moved = {name: each + shift for name, each in weights.items()}
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
            self.asked.append(assignment)
            name = list(self.sites)[message.metadata.dst_node_id - 1]
            self.asked_of.append(name)
            schema = {n: w for n, w in unpack_any(buckets).items()}
            answer = self.sites[name](assignment, schema)
            if answer is not None:
                self.replies[key] = Message(answer, reply_to=message)
            ids.append(key)
        return ids

    def pull_messages(self, ids: Iterable[str]) -> list[Message]:
        return [self.replies.pop(each) for each in ids if each in self.replies]


def unpack_any(buckets: list[bytes]) -> Weights:
    from safetensors.torch import load

    return {name: tensor for bucket in buckets for name, tensor in load(bucket).items()}


def run(store: RunStore, sites: dict[str, Answer], *expected: str) -> FakeGrid:
    grid = FakeGrid(sites)
    roster = KeyRoster({name.encode(): name for name in (expected or sites)})
    RoundLoop(grid, roster, store).run()  # type: ignore[arg-type]
    return grid


def trained_at(grid: FakeGrid, round_number: int) -> list[str]:
    return sorted(
        site
        for site, each in zip(grid.asked_of, grid.asked, strict=True)
        if (each.task, each.round) == ("train", round_number)
    )

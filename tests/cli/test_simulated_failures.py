"""Rehearsed failures, each at its site and in its round, and nothing of them elsewhere."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.task_identity import TaskIdentity

from feat_fed.cli import simulated_failures
from feat_fed.cli.simulated_failures import RehearsingApp
from feat_fed.config import FailureConfig, SiteConfig, SiteDataConfig, StudyConfig
from feat_fed.federate import pack
from feat_fed.protocol import Assignment, Report
from feat_fed.wire import from_records, to_records
from feat_fed_client.pause import PAUSE_FILE

STUDY = StudyConfig(name="s", model={"in_channels": 6})
WEIGHTS = {"a": torch.tensor([1.0, -2.0]), "n": torch.tensor([3])}
IDS = itertools.count()


@pytest.fixture(autouse=True)
def flower_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Say which run and node this process is, as Flower does before it calls an app."""
    for name in ("task_id", "run_id", "node_id"):
        monkeypatch.setattr(TaskIdentity, f"_{name}", 1)


class Site:
    """A ClientApp that sends the same weights back, and notes whether it was paused."""

    def __init__(self, folder: Path, *failures: FailureConfig) -> None:
        data = SiteDataConfig(paths=(folder,))
        self.config = SiteConfig(name="a", data=data, store=folder / "store")
        self.paused: list[bool] = []
        app = ClientApp()

        @app.train()
        @app.evaluate()
        def answer(message: Message, context: Context) -> Message:
            self.paused.append((self.config.store / PAUSE_FILE).exists())
            told, _ = from_records(message.content, Assignment)
            report = Report(
                study_id=told.study_id,
                round=told.round,
                task=told.task,
                site="a",
                outcome="ok",
                examples=1,
            )
            return Message(to_records(report, pack(WEIGHTS)), reply_to=message)

        self.app = RehearsingApp(app, lambda context: self.config, failures)

    def ask(self, number: int, task: str = "train") -> dict[str, torch.Tensor]:
        told = Assignment(study_id="a" * 32, round=number, task=task, first_step=0, study=STUDY)
        message = Message(to_records(told), dst_node_id=1, message_type=task)
        message.metadata.__dict__["_message_id"] = str(next(IDS))
        context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
        _, buckets = from_records(self.app(message, context).content, Report)
        (loaded,) = [simulated_failures.load(each) for each in buckets]
        return loaded


def failure(does: str, **more: object) -> FailureConfig:
    return FailureConfig.model_validate({"site": "a", "round": 2, "does": does, **more})


def test_numbers_are_scaled_in_the_one_round(tmp_path: Path) -> None:
    site = Site(tmp_path, failure("scale", factor=-10))
    assert site.ask(1)["a"].tolist() == [1, -2]
    assert site.ask(2, "evaluate")["a"].tolist() == [1, -2]
    spoilt = site.ask(2)
    assert (spoilt["a"].tolist(), spoilt["n"].tolist()) == ([-10, 20], [3])
    other = FailureConfig(site="b", round=2, does="scale", factor=3)
    assert Site(tmp_path, other).ask(2)["a"].tolist() == [1, -2]


def test_one_number_is_none(tmp_path: Path) -> None:
    first, second = Site(tmp_path, failure("nan")).ask(2)["a"].tolist()
    assert math.isnan(first)
    assert second == -2


def test_a_decline_is_the_site_s_own_pause(tmp_path: Path) -> None:
    site = Site(tmp_path, failure("decline"))
    for number in (1, 2, 3):
        site.ask(number)
    assert site.paused == [False, True, False]
    assert not (site.config.store / PAUSE_FILE).exists()


def test_silence_lasts_beyond_the_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(simulated_failures.time, "sleep", slept.append)
    Site(tmp_path, failure("silent")).ask(2)
    assert STUDY.sites.round_sec < slept[0] < STUDY.sites.round_sec + 2


def test_a_process_dies_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class DiedError(Exception):
        pass

    def die(status: int) -> None:
        raise DiedError

    monkeypatch.setattr(simulated_failures.os, "_exit", die)
    site = Site(tmp_path, failure("crash"))
    with pytest.raises(DiedError):
        site.ask(2)
    assert site.ask(2)["a"].tolist() == [1, -2]

import os

import pytest
from flwr.supercore.task_identity import TaskIdentity

from feat_fed_server import again, asking


@pytest.fixture(autouse=True)
def flower_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages are made inside a Flower task; give this process the identity of one."""
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the grid more often than is good for a server."""
    monkeypatch.setattr(asking, "POLL_SEC", 0.01)
    monkeypatch.setattr(again, "ASK_AGAIN_SEC", 0.01)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds of these tests last for half a second; each line of the audit log is flushed."""
    monkeypatch.setattr(os, "fsync", lambda _: None)

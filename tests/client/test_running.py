"""A look at a client's lock neither misses it nor keeps a client from starting."""

import fcntl
import threading
from pathlib import Path

import pytest

from feat_fed_client import CLIENT_LOCK, supernode
from feat_fed_client.running import client_is_running


@pytest.fixture
def lock_file(tmp_path: Path) -> Path:
    (tmp_path / CLIENT_LOCK).parent.mkdir()
    return tmp_path / CLIENT_LOCK


def test_a_client_runs_while_its_lock_is_held(lock_file: Path, tmp_path: Path) -> None:
    assert not client_is_running(tmp_path)
    with lock_file.open("w") as lock:
        assert not client_is_running(tmp_path)
        assert supernode._taken(lock)
        assert client_is_running(tmp_path)
    assert not client_is_running(tmp_path)


def test_a_client_that_starts_while_somebody_looks_tries_again(lock_file: Path) -> None:
    look = lock_file.open("w")
    fcntl.flock(look, fcntl.LOCK_SH)
    end_of_look = threading.Timer(0.15, look.close)
    end_of_look.start()
    with lock_file.open("w") as lock:
        assert supernode._taken(lock)
    end_of_look.join()


def test_a_client_that_stays_is_not_waited_for(
    lock_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supernode, "_LOCK_PAUSE_SEC", 0.0)
    with lock_file.open("w") as first, lock_file.open("w") as second:
        assert supernode._taken(first)
        assert not supernode._taken(second)

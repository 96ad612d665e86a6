"""The container's limit counts where it is the smaller one."""

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from feat_fed.train.memory import available_bytes, oom_kills


@pytest.mark.parametrize(
    ("limit", "current", "expected"),
    [("1000", "700", 400), ("max", "700", 5000), ("9000", "700", 5000), ("1000", "2000", 0)],
)
def test_the_smaller_of_machine_and_container(
    limit: str, current: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=5000))
    assert available_bytes(tmp_path) == 5000, "no cgroup"
    (tmp_path / "memory.max").write_text(limit + "\n")
    (tmp_path / "memory.current").write_text(current + "\n")
    (tmp_path / "memory.stat").write_text("anon 600\ninactive_file 100\n")
    assert available_bytes(tmp_path) == expected


def test_this_machine_has_some() -> None:
    assert 0 < available_bytes() <= psutil.virtual_memory().total


def test_kills_are_counted_in_the_container(tmp_path: Path) -> None:
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 4\noom 4\noom_kill 3\n")
    assert oom_kills(tmp_path) == 3

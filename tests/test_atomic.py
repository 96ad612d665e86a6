from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from feat_fed.atomic import atomic_path, write_bytes_atomically


def test_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_bytes_atomically(path, b"a long first version")
    write_bytes_atomically(path, b"short")
    assert path.read_bytes() == b"short"
    assert list(tmp_path.iterdir()) == [path]


def test_an_exception_leaves_the_old_file_and_no_part(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as part:
        part.write_bytes(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(b"old")
    code = (
        "import os, signal, sys, pathlib, feat_fed.atomic as a\n"
        "with a.atomic_path(pathlib.Path(sys.argv[1])) as part:\n"
        "    part.write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    assert path.read_bytes() == b"old"


def test_the_part_keeps_the_suffix(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "film.mp4") as part:
        assert part.suffix == ".mp4"
        part.touch()


def test_a_secret_is_its_owners_from_the_start(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_bytes_atomically(path, b"s", mode=0o600)
    assert path.stat().st_mode & 0o777 == 0o600

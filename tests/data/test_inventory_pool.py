"""Files that hang, crash and eat, scans that are killed: each costs a row, none costs the scan."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import fake_looks
from feat_fed.config import SiteDataConfig
from feat_fed.data import Inventory, Manifest, records, scan
from feat_fed.data.inventory.pool import Limits
from feat_fed.errors import DataError
from waiting import nobody_left, wait_until

LIMITS = Limits(base_sec=4, sec_per_mib=0, memory_bytes=2**30)


def scanned(folder: Path, store: Path, limits: Limits = LIMITS, workers: int = 2) -> Inventory:
    data = SiteDataConfig(paths=(folder,), workers=workers)
    with Manifest(store, alone="refuse") as manifest:
        return scan(data, manifest=manifest, look=fake_looks.look, limits=limits)


def write(folder: Path, **texts: str) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.mp4").write_text(text)


def test_a_bad_file_costs_its_own_row(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = {name: name for name in ("crash", "hang", "eat", "exit", "break")}
    write(tmp_path / "a", **words, **{f"good{n}": f"good {n:064x}" for n in range(0, 800, 100)})
    found = scanned(tmp_path / "a", tmp_path / "store")
    assert len(found.clips) + len(found.excluded) == 13
    assert {each.path.stem: each.reason for each in found.excluded if each.path.stem in words} == {
        "crash": "crashes the decoder",
        "hang": "takes too long to read",
        "eat": "needs more memory than a file may take",
        "exit": "crashes the decoder",
        "break": "cannot be handled",
    }
    again = scanned(tmp_path / "a", tmp_path / "store")  # the machine may have been busy
    assert again.looked == 4 and again.excluded == found.excluded
    assert capfd.readouterr() == ("", "")


def test_all_workers_work(tmp_path: Path) -> None:
    write(tmp_path / "a", **{f"{n:02}": f"pid {n * 31 + 7:064x}" for n in range(30)})
    assert scanned(tmp_path / "a", tmp_path / "store", workers=2).looked == 30
    assert len(list(tmp_path.glob("pid-*"))) == 2


def test_workers_that_cannot_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: object, process: object) -> None:
        raise BrokenPipeError(32, "Broken pipe", str(tmp_path / "Mustermann"))

    monkeypatch.setattr("multiprocessing.popen_spawn_posix.Popen._launch", start)
    write(tmp_path / "a", one="1")
    with pytest.raises(DataError, match="worker processes end as soon as they are started"):
        scanned(tmp_path / "a", tmp_path / "store")


def test_the_limit_of_time_grows_with_the_file() -> None:
    limits = Limits()
    assert limits.seconds(2**30) - limits.seconds(0) == pytest.approx(4 * 1024)


def test_a_thousand_unchanged_files_are_not_looked_at(tmp_path: Path) -> None:
    write(tmp_path / "a", **{f"{n:04}": f"clip {n * 31 + 7:064x}" for n in range(1000)})
    assert scanned(tmp_path / "a", tmp_path / "store").looked == 1000
    started = time.monotonic()
    assert scanned(tmp_path / "a", tmp_path / "store").looked == 0
    assert time.monotonic() - started < 10
    write(tmp_path / "a", late="clip " + "f" * 64)
    assert scanned(tmp_path / "a", tmp_path / "store").looked == 1


_SCAN = """
import sys
from pathlib import Path
import fake_looks
from feat_fed.config import SiteDataConfig
from feat_fed.data import Manifest, scan
if __name__ == "__main__":
    folder, store = map(Path, sys.argv[1:])
    data = SiteDataConfig(paths=(folder,), workers=2)
    with Manifest(store, alone="refuse") as manifest:
        scan(data, manifest=manifest, look=fake_looks.look)
"""


def test_a_killed_scan_goes_on_where_it_was(tmp_path: Path) -> None:
    folder, store = tmp_path / "a", tmp_path / "store"
    verbs = ["slow"] * 30 + ["hold"] * 10  # these wait for a word that is given after the kill
    write(folder, **{f"{n:03}": f"{verb} {n * 31 + 7:064x}" for n, verb in enumerate(verbs)})
    script = tmp_path / "scan_it.py"
    script.write_text(_SCAN)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, script, folder, store], env=environment)

    def something_is_noted() -> bool:
        assert process.poll() is None
        return (store / "manifest.sqlite").exists() and bool(records(store))

    wait_until(something_is_noted)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    nobody_left(family)
    kept = len(records(store))
    assert 0 < kept <= 30
    (tmp_path / "go").touch()
    found = scanned(folder, store)
    assert found.looked == 40 - kept
    assert len(found.clips) + len(found.excluded) == 40

import fcntl
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from client.check_site import (
    changed,
    look_at_clips,
    make_site,
    small_study,
    with_a_store_of_its_own,
)
from feat_fed.config import ServerLinkConfig, SiteConfig
from feat_fed.report.live import SiteLive
from feat_fed_client.check import Subject, compute, storage

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> SiteConfig:
    site = make_site(tmp_path_factory.mktemp("hospital"), patients="ab")
    look_at_clips(site)
    return site


@pytest.fixture
def site(scanned: SiteConfig, tmp_path: Path) -> SiteConfig:
    return with_a_store_of_its_own(scanned, tmp_path)


def with_free(monkeypatch: pytest.MonkeyPatch, free_bytes: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, free_bytes))


def test_a_full_disk_is_red_and_a_small_one_amber(
    site: SiteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = Subject(site, study=small_study(training={"optimiser_state": "kept"}), offline=True)
    plenty = storage.disk(subject)
    assert plenty.status == "green"
    needed = plenty.numbers["needed_bytes"]
    parts = [plenty.numbers[f"{each}_bytes"] for each in ("latents", "checkpoint", "spool")]
    assert isinstance(needed, int) and all(isinstance(each, int) and each > 0 for each in parts)
    assert plenty.numbers["checkpoint_bytes"] == 6 * subject.weights_bytes
    assert plenty.numbers["optimiser_bytes"] == 6 * subject.weights_bytes
    with_free(monkeypatch, needed - 1)
    assert storage.disk(subject).status == "red"
    with_free(monkeypatch, needed + 1)
    assert storage.disk(subject).status == "amber"


def test_a_disk_without_a_study_is_amber(site: SiteConfig) -> None:
    assert storage.disk(Subject(site)).status == "amber"


def test_a_store_that_cannot_be_written_is_red(
    site: SiteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert storage.store(Subject(site)).status == "green"
    absent = site.model_copy(update={"store": tmp_path / "no" / "store"})
    assert storage.store(Subject(absent)).status == "green"
    (tmp_path / "file").write_text("")
    file = site.model_copy(update={"store": tmp_path / "file"})
    assert storage.store(Subject(file)).status == "red"

    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    assert storage.store(Subject(site)).status == "red"


def test_keys_that_others_may_read_are_red_and_an_open_store_amber(
    site: SiteConfig, tmp_path: Path
) -> None:
    assert storage.permissions(Subject(site)).status == "green"
    site.store.chmod(0o755)
    assert storage.permissions(Subject(site)).status == "amber"
    site.store.chmod(0o700)
    key = tmp_path / "site.key"
    key.write_text("secret")
    key.chmod(0o640)
    link = ServerLinkConfig(address="a:1", ca_certificate=tmp_path / "ca", private_key=key)
    told = storage.permissions(Subject(site.model_copy(update={"server": link})))
    assert (told.status, "server.private_key" in told.found) == ("red", True)


def test_a_client_at_work_is_told_and_not_disturbed(site: SiteConfig) -> None:
    subject = Subject(site, study=small_study(), offline=True)
    assert storage.running(subject).status == "green"
    (site.store / "flower").mkdir()
    with (site.store / "flower" / "client.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        SiteLive(phase="training", round=7).write(site.store / "live.json")
        told = storage.running(subject)
        assert (told.status, told.found) == ("amber", "a client is running (training, round 7)")
        for check in (compute.memory, compute.round_time):
            assert "the client is at work" in check(subject).found
    assert storage.running(subject).status == "green"


def test_a_scan_at_work_is_told(site: SiteConfig) -> None:
    with (site.store / "manifest.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "a scan or an encoding" in storage.running(Subject(site)).found


def test_without_checkpoints_none_is_counted(site: SiteConfig) -> None:
    unsafe = site.model_copy(update={"checkpoint_minutes": None})
    found = storage.disk(Subject(unsafe, study=small_study(), offline=True))
    assert found.numbers["checkpoint_bytes"] == 0
    assert changed(unsafe).checkpoint_minutes is None


@pytest.mark.parametrize(
    ("minutes", "state", "times"),
    [(None, "reset", 2), (None, "kept", 6), (15.0, "reset", 10), (15.0, "kept", 12)],
)
def test_several_processes_need_room_for_what_they_exchange(
    site: SiteConfig, minutes: float | None, state: str, times: int
) -> None:
    study = small_study(training={"optimiser_state": state})

    def exchange_bytes(devices: int) -> object:
        compute_ = site.compute.model_copy(update={"devices": devices})
        changes = {"compute": compute_, "checkpoint_minutes": minutes}
        subject = Subject(site.model_copy(update=changes), study=study, offline=True)
        found = storage.disk(subject).numbers
        assert isinstance(total := found["needed_bytes"], int) and total > 10**8
        return found["exchange_bytes"]

    assert exchange_bytes(1) == 0
    assert exchange_bytes(2) == times * Subject(site, study=study).weights_bytes


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a file system without files")
def test_a_store_where_nothing_can_be_made_is_red(site: SiteConfig) -> None:
    nowhere = site.model_copy(update={"store": Path("/proc/no-such/store")})
    assert storage.store(Subject(nowhere)).status == "red"

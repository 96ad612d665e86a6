"""Backups that are damaged, cut off or forged are refused, and leave nothing behind."""

import hashlib
import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest

from feat_fed.archive import new_backup, read_contents, restored_folder, unpack
from feat_fed.errors import BackupError

FILES = {"study.yaml": b"name: x\n", "tls/ca.key": b"private", "a/b/c.bin": bytes(range(256)) * 5}


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    path = tmp_path / "x.tar"
    with new_backup(path) as writer:
        for name, content in FILES.items():
            writer.content(name, content, mode=0o600 if "key" in name else 0o666)
        writer.close("run", "x", round_number=3, private_keys=False)
    return path


def restored(path: Path) -> Path | None:
    """The folder that came of it, or None where it was refused in good order."""
    to = path.with_name("to")
    shutil.rmtree(to, ignore_errors=True)
    try:
        with restored_folder(to) as folder:
            unpack(path, folder)
    except BackupError:
        assert not to.exists()
        return None
    finally:
        assert not list(path.parent.glob(".*"))
    return to


def test_what_comes_back_is_what_went_in_and_others_cannot_write_it(backup: Path) -> None:
    to = restored(backup)
    assert to is not None
    assert {name: (to / name).read_bytes() for name in FILES} == FILES
    assert (to / "tls/ca.key").stat().st_mode & 0o777 == 0o600
    assert (to / "study.yaml").stat().st_mode & 0o022 == 0
    assert backup.stat().st_mode & 0o777 == 0o600
    assert (read_contents(backup).round, set(read_contents(backup).files)) == (3, set(FILES))


def test_any_tool_opens_it(backup: Path) -> None:
    with tarfile.open(backup) as tar:
        listed = tar.extractfile("backup.json")
        assert listed is not None
        digest = json.load(listed)["files"]["study.yaml"]["sha256"]
    assert digest == hashlib.sha256(FILES["study.yaml"]).hexdigest()


def test_a_flipped_byte_changes_nothing_or_is_found(backup: Path) -> None:
    """Nothing: where no reader looks, as in padding and times."""
    content, found = backup.read_bytes(), 0
    places = range(0, content.rindex(b"}"), 37)
    for place in places:
        flipped = bytes([content[place] ^ 0x55])
        backup.write_bytes(content[:place] + flipped + content[place + 1 :])
        to = restored(backup)
        if to is None:
            found += 1
        else:
            assert {name: (to / name).read_bytes() for name in FILES} == FILES
    assert found > len(b"".join(FILES.values())) / 37


def test_one_that_is_cut_off_is_refused(backup: Path) -> None:
    content = backup.read_bytes()
    end = content.rindex(b"}") + 1
    for place in range(0, end, 331):
        backup.write_bytes(content[:place])
        assert restored(backup) is None, place


@pytest.mark.parametrize("name", ["../out", "/out", "a/../../out", ".hidden", "a//b", "link"])
def test_a_forged_one_writes_nothing_outside(backup: Path, name: str) -> None:
    """Even where its list of files goes along with it."""
    forged = backup.with_name("forged.tar")
    with tarfile.open(backup) as old, tarfile.open(forged, "w") as new:
        *members, last = old.getmembers()
        for member in members:
            new.addfile(member, old.extractfile(member))
        evil = tarfile.TarInfo(name)
        if name == "link":
            evil.type, evil.linkname = tarfile.SYMTYPE, str(backup.parent)
        new.addfile(evil, io.BytesIO())
        listed = old.extractfile(last)
        assert listed is not None
        tree = json.loads(listed.read())
        tree["files"][name] = {"sha256": hashlib.sha256().hexdigest(), "size_bytes": 0}
        text = json.dumps(tree).encode()
        last.size = len(text)
        new.addfile(last, io.BytesIO(text))
    assert restored(forged) is None
    assert not (backup.parent / "out").exists()


def test_nothing_is_replaced_and_a_failed_backup_leaves_nothing(backup: Path) -> None:
    before = backup.read_bytes()
    with pytest.raises(BackupError, match="replaces nothing"), new_backup(backup):
        pass
    assert backup.read_bytes() == before
    other = backup.with_name("other.tar")
    with pytest.raises(RuntimeError), new_backup(other) as writer:
        writer.content("a", b"a")
        raise RuntimeError
    assert sorted(each.name for each in backup.parent.iterdir()) == ["x.tar"]
    with pytest.raises(BackupError, match="replaces nothing"), restored_folder(backup.parent):
        pass
    with pytest.raises(BackupError, match="cannot be written"), new_backup(backup / "x"):
        pass

"""The manifest's file: whose it is, what may open it, and what happens when it is damaged."""

from __future__ import annotations

import dataclasses
import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from feat_fed.data import ClipRecord, Manifest, records, site_key
from feat_fed.data.inventory.identity import KEY_FILE, keyed, pseudonym
from feat_fed.data.inventory.manifest import FILE
from feat_fed.data.inventory.records import header_columns
from feat_fed.data.reading.clip import Box, ClipInfo
from feat_fed.errors import DataError

KEY = b"k" * 32
RECORD = ClipRecord(
    clip_id="a" * 64,
    number=7,
    stamp="s",
    looked_by="reader 1",
    patient="p" * 64,
    in_header=True,
    sha256="c" * 64,
    kind="dicom",
    burned_in=False,
    regions=(Box(1, 2, 3, 4), Box(5, 6, 7, 8)),
    num_frames=30,
    height_px=48,
    width_px=64,
    fps=25.0,
    field=Box(0, 1, 60, 40),
    field_from="circle",
    overlays=(Box(9, 9, 12, 12),),
    fingerprint="0f" * 32,
    dark_share=0.25,
    motion=3.5,
    outcome="review",
    reason="because",
    twin="",
    attempts=3,
)


def test_a_row_comes_back_as_it_was(tmp_path: Path) -> None:
    bare = ClipRecord("b" * 64, 3, "s", "reader 1", "q", unreadable="no", reason="no")
    with Manifest(tmp_path, alone="refuse") as manifest:
        manifest.save([RECORD, bare])
    assert records(tmp_path) == (bare, RECORD)
    assert bare.look is None
    assert RECORD.look is not None and RECORD.look.field == Box(0, 1, 60, 40)


def test_files_are_the_sites_own(tmp_path: Path) -> None:
    with Manifest(tmp_path / "store", alone="refuse") as manifest:
        manifest.save([RECORD])
    names = {
        path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "store").iterdir()
    }
    assert set(names) == {FILE, KEY_FILE, "manifest.lock"}
    assert names[FILE] == names[KEY_FILE] == 0o600


def test_several_may_make_it_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: records(tmp_path), range(16))) == {()}


def test_only_one_works_alone(tmp_path: Path) -> None:
    with Manifest(tmp_path, alone="refuse"):
        with pytest.raises(DataError, match="another feat-fed is at work"):
            Manifest(tmp_path, alone="refuse")
        with Manifest(tmp_path, alone=None) as manifest:  # a small change may be made
            manifest.save([RECORD])
    with Manifest(tmp_path, alone="wait") as manifest:
        assert set(manifest.records()) == {RECORD.clip_id}


def test_a_change_that_fails_leaves_all_as_it_was(tmp_path: Path) -> None:
    with Manifest(tmp_path, alone="refuse") as manifest:
        manifest.save([RECORD])
        broken = dataclasses.replace(RECORD, clip_id="b" * 64, patient=None)  # type: ignore[arg-type]
        with pytest.raises(DataError, match="is damaged"):
            manifest.save([dataclasses.replace(RECORD, number=8), broken])
        assert manifest.records() == {RECORD.clip_id: RECORD}


@pytest.mark.parametrize("damage", ["noise", "cut", "pages"])
def test_a_damaged_file_says_how_to_mend_it(tmp_path: Path, damage: str) -> None:
    with Manifest(tmp_path, alone="refuse") as manifest:
        rows = [dataclasses.replace(RECORD, clip_id=f"{n:064}") for n in range(300)]
        manifest.save(rows)
    path = tmp_path / FILE
    whole = path.read_bytes()
    path.write_bytes(
        {
            "noise": b"noise" * 5000,
            "cut": whole[: len(whole) // 2],
            "pages": whole[:8192] + b"\xa5" * (len(whole) - 8192),
        }[damage]
    )
    with pytest.raises(DataError, match=r"is damaged .* builds it anew"):
        records(tmp_path)


@pytest.mark.parametrize(
    ("pragma", "message"),
    [
        ("user_version = 1", "written by another version of feat-fed .its form is 1"),
        ("application_id = 5", "is no manifest of feat-fed"),
    ],
)
def test_a_foreign_file_is_refused(tmp_path: Path, pragma: str, message: str) -> None:
    records(tmp_path)
    with sqlite3.connect(tmp_path / FILE) as database:
        database.execute(f"PRAGMA {pragma}")
    database.close()
    with pytest.raises(DataError, match=message):
        records(tmp_path)


def test_another_key_would_lose_whom_not_to_read(tmp_path: Path) -> None:
    records(tmp_path)
    (tmp_path / KEY_FILE).write_bytes(b"o" * 32)
    with pytest.raises(DataError, match="made under another key"):
        records(tmp_path)


def test_equal_texts_of_different_kinds_differ() -> None:
    kinds = [keyed(each, "x", key=KEY) for each in ("clip", "stamp", "study", "series", "refused")]
    assert len({*kinds, pseudonym("x", key=KEY)}) == 6
    assert pseudonym("\udcff", key=KEY) != pseudonym("\udcfe", key=KEY)  # names that are no UTF-8


def test_texts_of_a_header_are_kept_only_where_they_are_known() -> None:
    told = header_columns(ClipInfo(1, 2, 3, None, modality="Erika", transfer_syntax="1.2.3"))
    assert (told["modality"], told["transfer_syntax"]) == ("unknown", None)
    known = ClipInfo(1, 2, 3, None, modality="US", transfer_syntax="1.2.840.10008.1.2.4.50")
    told = header_columns(known)
    assert (told["modality"], told["transfer_syntax"]) == ("US", "1.2.840.10008.1.2.4.50")


def test_site_key_is_made_once_and_private(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: site_key(store), range(16)))
    assert len(keys) == 1 and len(keys.pop()) == 32
    assert [path.name for path in store.iterdir()] == ["patients.key"]
    assert stat.S_IMODE((store / "patients.key").stat().st_mode) == 0o600
    (store / "patients.key").write_bytes(b"short")
    with pytest.raises(DataError, match="holds 5 bytes, not a key of 32"):
        site_key(store)

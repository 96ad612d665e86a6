"""The inventory: what counts, what is excluded and why, and who the patients are."""

from __future__ import annotations

import hashlib
import hmac
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clip_files import moving_frames, write_dicom, write_video
from feat_fed.config import ClipConfig, SiteDataConfig
from feat_fed.data import scan, site_key, window_frames
from feat_fed.data.inventory.scan import Inventory
from feat_fed.errors import DataError

KEY = b"k" * 32
CLIPS = ClipConfig(frames=8, size_px=32)


def look(*paths: Path, pattern: str | None = None, clips: ClipConfig = CLIPS) -> Inventory:
    return scan(SiteDataConfig(paths=paths, patient_pattern=pattern), key=KEY, clips=clips)


def video(path: Path, frames: int = 12, width: int = 64) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_video(path, moving_frames(frames, 48, width), "mpeg4")


def pseudonym(text: str) -> str:
    return hmac.new(KEY, text.encode(), hashlib.sha256).hexdigest()


def test_good_and_bad_files_side_by_side(tmp_path: Path) -> None:
    good = video(tmp_path / "a" / "good.mp4")
    dicom = write_dicom(tmp_path / "a" / "IM0001", PatientID="P1")
    video(tmp_path / "a" / "short.mp4", frames=7)
    video(tmp_path / "a" / "twin.mp4")
    (tmp_path / "a" / "broken.mp4").write_bytes(b"nothing")
    for name in ("notes.txt", "table.csv", "DICOMDIR", ".hidden.mp4"):
        (tmp_path / "a" / name).write_bytes(dicom.read_bytes() if name == "DICOMDIR" else b"x")
    (tmp_path / "a" / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    seen: list[tuple[int, int]] = []
    found = scan(
        SiteDataConfig(paths=(tmp_path,)),
        key=KEY,
        clips=CLIPS,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert [clip.source[0] for clip in found.clips] == [dicom, good]
    assert {each.path.name: each.reason for each in found.excluded} == {
        "broken.mp4": "not a readable video",
        "gone.mp4": "file cannot be opened",
        "short.mp4": "fewer frames than a clip needs",
        "twin.mp4": "same content as another file",
    }
    assert found.skipped == 4
    assert seen == [(done, 6) for done in range(1, 7)]
    assert found.clips[1].sha256 == hashlib.sha256(good.read_bytes()).hexdigest()
    assert (found.clips[1].num_frames, found.clips[1].height_px, found.clips[1].fps) == (12, 48, 25)


def test_window_counts_the_stride(tmp_path: Path) -> None:
    clips = ClipConfig(frames=4, size_px=32, stride_frames=3)
    assert window_frames(clips) == 10
    video(tmp_path / "ten.mp4", frames=10)
    video(tmp_path / "nine.mp4", frames=9)
    assert [clip.source[0].name for clip in look(tmp_path, clips=clips).clips] == ["ten.mp4"]


def test_who_the_patient_is(tmp_path: Path) -> None:
    video(tmp_path / "anna" / "study" / "1.mp4")
    own = video(tmp_path / "alone.mp4", width=32)
    video(tmp_path / "pat7_x.mp4", width=80)
    write_dicom(tmp_path / "anna" / "c.dcm", PatientID="P1")
    by_name = {clip.source[0].name: clip.patient for clip in look(tmp_path).clips}
    assert by_name["1.mp4"] == pseudonym("anna")
    assert by_name["alone.mp4"] == pseudonym(hashlib.sha256(own.read_bytes()).hexdigest())
    assert by_name["c.dcm"] == pseudonym("P1")
    by_name = {clip.source[0].name: clip.patient for clip in look(tmp_path, pattern=r"(pat\d+)").clips}
    assert by_name["pat7_x.mp4"] == pseudonym("pat7")
    assert by_name["1.mp4"] == pseudonym("anna")


def test_a_file_reached_twice_counts_once(tmp_path: Path) -> None:
    clip = video(tmp_path / "site" / "anna" / "1.mp4")
    (tmp_path / "site" / "link.mp4").symlink_to(clip)
    (tmp_path / "site" / "anna" / "loop").symlink_to(tmp_path / "site")
    found = look(tmp_path / "site", tmp_path / "site" / "anna", clip)
    assert len(found.clips) == 1
    assert not found.excluded
    assert found.clips[0].patient == pseudonym("anna")


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent does not exist; correct data\.paths"):
        look(tmp_path / "absent")
    with pytest.raises(DataError, match="found nothing"):
        look(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "bad.mp4").write_text("x")
    with pytest.raises(DataError, match="1 files that are no video; 1 unusable: not a readable"):
        look(tmp_path)


def test_nothing_of_the_patient_is_in_an_entry(tmp_path: Path) -> None:
    write_dicom(tmp_path / "c.dcm", PatientID="Mustermann", PatientName="Mustermann^Erika")
    clip = look(tmp_path).clips[0]
    assert clip.patient != pseudonym("") and len(clip.patient) == 64
    assert "Mustermann" not in repr(clip)
    other = scan(SiteDataConfig(paths=(tmp_path,)), key=b"o" * 32, clips=CLIPS).clips[0]
    assert other.patient != clip.patient and other.sha256 == clip.sha256


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

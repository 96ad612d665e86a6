"""The inventory: what counts, what is excluded and why, and who the patients are."""

from __future__ import annotations

import hashlib
import hmac
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import generate_uid

from clip_files import moving_frames, write_dicom, write_video
from feat_fed.config import ClipConfig, RulesConfig, SiteDataConfig
from feat_fed.data import Inventory, Manifest, records, scan, sheet_paths, window_frames
from feat_fed.data.inventory.erase import erase_patient, find_patient
from feat_fed.data.inventory.identity import KEY_FILE
from feat_fed.data.inventory.pool import Task
from feat_fed.errors import DataError

KEY = b"k" * 32
CLIPS = ClipConfig(frames=8, size_px=32)
RULES = RulesConfig(min_frames=4, duplicate_bits=None, review="waived")


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("store")
    (store / KEY_FILE).write_bytes(KEY)
    return store


def look(
    store: Path,
    *paths: Path,
    pattern: str | None = None,
    clips: ClipConfig = CLIPS,
    rules: RulesConfig = RULES,
    rescan: bool = False,
) -> Inventory:
    data = SiteDataConfig(paths=paths, patient_pattern=pattern, rules=rules, workers=1)
    with Manifest(store, alone="refuse") as manifest:
        return scan(data, manifest=manifest, clips=clips, rescan=rescan)


def video(path: Path, frames: int = 12, width: int = 64) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_video(path, moving_frames(frames, 48, width), "mpeg4")


def in_this_process(
    tasks: list[Task[object]], work: Callable[..., object], **_: object
) -> Iterator[tuple[Task[object], object]]:
    for task in tasks:
        yield task, work(*task.arguments)


def pseudonym(text: str) -> str:
    return hmac.new(KEY, text.encode(), hashlib.sha256).hexdigest()


def write_series(folder: Path, frames: np.ndarray, **attributes: object) -> list[Path]:
    """Write a frame an instance, named so that the names' order is not the frames'."""
    folder.mkdir(parents=True, exist_ok=True)
    series, paths = generate_uid(), []
    for number, frame in enumerate(frames):
        path = folder / f"IM{(number * 7) % len(frames):03}"
        write_dicom(path, frame[None])
        dataset = pydicom.dcmread(path)
        dataset.SeriesInstanceUID, dataset.InstanceNumber = series, number + 1
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
        dataset.save_as(path)
        paths.append(path)
    return paths


def test_good_and_bad_files_side_by_side(tmp_path: Path, store: Path) -> None:
    good = video(tmp_path / "a" / "good.mp4")
    dicom = write_dicom(tmp_path / "a" / "IM0001", PatientID="P1")
    video(tmp_path / "a" / "short.mp4", frames=7)
    video(tmp_path / "a" / "twin.mp4")
    (tmp_path / "a" / "broken.mp4").write_bytes(b"nothing")
    for name in ("notes.txt", "table.csv", "DICOMDIR", ".hidden.mp4"):
        (tmp_path / "a" / name).write_bytes(dicom.read_bytes() if name == "DICOMDIR" else b"x")
    (tmp_path / "a" / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    seen: list[tuple[int, int]] = []
    with Manifest(store, alone="refuse") as manifest:
        found = scan(
            SiteDataConfig(paths=(tmp_path,), rules=RULES),
            manifest=manifest,
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


def test_the_stricter_of_study_and_site_decides_the_frames(tmp_path: Path, store: Path) -> None:
    clips = ClipConfig(frames=4, size_px=32, stride_frames=3)
    assert window_frames(clips) == 10
    video(tmp_path / "ten.mp4", frames=10)
    video(tmp_path / "nine.mp4", frames=9)
    found = look(store, tmp_path, clips=clips)
    assert [clip.source[0].name for clip in found.clips] == ["ten.mp4"]
    found = look(store, tmp_path, clips=clips, rules=RULES.model_copy(update={"min_frames": 11}))
    assert not found.clips and found.looked == 0  # judged anew, not read anew
    assert {each.reason for each in found.excluded} == {"fewer frames than rules.min_frames"}


def test_who_the_patient_is(tmp_path: Path, store: Path) -> None:
    video(tmp_path / "anna" / "study" / "1.mp4")
    own = video(tmp_path / "alone.mp4", width=32)
    video(tmp_path / "pat7_x.mp4", width=80)
    write_dicom(tmp_path / "anna" / "c.dcm", PatientID="P1")
    by_name = {clip.source[0].name: clip.patient for clip in look(store, tmp_path).clips}
    assert by_name["1.mp4"] == pseudonym("anna")
    assert by_name["alone.mp4"] == pseudonym(hashlib.sha256(own.read_bytes()).hexdigest())
    assert by_name["c.dcm"] == pseudonym("P1")
    found = look(store, tmp_path, pattern=r"(pat\d+)")
    by_name = {clip.source[0].name: clip.patient for clip in found.clips}
    assert by_name["pat7_x.mp4"] == pseudonym("pat7")
    assert by_name["1.mp4"] == pseudonym("anna")
    assert by_name["c.dcm"] == pseudonym("P1")
    assert found.looked == 0  # another pattern reads no file


def test_a_file_reached_twice_counts_once(tmp_path: Path, store: Path) -> None:
    clip = video(tmp_path / "site" / "anna" / "1.mp4")
    (tmp_path / "site" / "link.mp4").symlink_to(clip)
    (tmp_path / "site" / "anna" / "loop").symlink_to(tmp_path / "site")
    found = look(store, tmp_path / "site", tmp_path / "site" / "anna", clip)
    assert len(found.clips) == 1
    assert not found.excluded
    assert found.clips[0].patient == pseudonym("anna")


def test_folders_that_cannot_be_used(tmp_path: Path, store: Path) -> None:
    with pytest.raises(DataError, match=r"absent does not exist; correct the path \(data\.paths"):
        look(store, tmp_path / "absent")
    with pytest.raises(DataError, match="found nothing"):
        look(store, tmp_path).require_clips()
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "bad.mp4").write_text("x")
    with pytest.raises(DataError, match="1 unusable: not a readable video; 1 files that are no"):
        look(store, tmp_path).require_clips()


def test_a_folder_that_cannot_be_searched_is_not_named(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    denied = PermissionError(13, "Permission denied", str(tmp_path / "Mustermann"))

    def scandir(folder: object) -> object:
        raise denied

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"a folder below .* cannot be searched") as caught:
        look(store, tmp_path)
    assert "Mustermann" not in str(caught.value)


def test_nothing_of_the_patient_is_in_an_entry(tmp_path: Path, store: Path) -> None:
    write_dicom(tmp_path / "Erika.dcm", PatientID="Mustermann", PatientName="Mustermann^Erika")
    found = look(store, tmp_path)
    assert found.clips[0].patient == pseudonym("Mustermann")
    assert "Mustermann" not in repr(found) and "Erika" not in repr(found)


def test_only_what_changed_is_read_again(tmp_path: Path, store: Path) -> None:
    for name in ("a", "b", "c"):
        video(tmp_path / name / "1.mp4", width=64 if name == "a" else 80 if name == "b" else 96)
    assert look(store, tmp_path).looked == 3
    first = look(store, tmp_path)
    assert (first.looked, len(first.clips)) == (0, 3)
    video(tmp_path / "a" / "1.mp4", frames=14)
    (tmp_path / "b" / "1.mp4").unlink()
    video(tmp_path / "d" / "1.mp4", width=112)
    second = look(store, tmp_path)
    assert second.looked == 2
    assert [clip.source[0].parent.name for clip in second.clips] == ["a", "c", "d"]
    assert second.clips[0].num_frames == 14
    assert len(records(store)) == 3
    sheets = {path.name.split(".")[0] for path in (store / "sheets").iterdir()}
    assert sheets == {clip.clip_id for clip in second.clips}
    assert all(path.exists() for path in sheet_paths(store, second.clips[0].clip_id))
    assert look(store, tmp_path, rescan=True).looked == 3
    assert look(store, tmp_path, rules=RULES.model_copy(update={"crop": False})).looked == 3


def test_instances_of_a_series_are_one_clip_in_their_own_order(tmp_path: Path, store: Path) -> None:
    paths = write_series(tmp_path / "p" / "s", moving_frames(10), PatientID="P1")
    found = look(store, tmp_path)
    assert [clip.source for clip in found.clips] == [tuple(paths)]
    assert (found.clips[0].num_frames, found.clips[0].patient) == (10, pseudonym("P1"))
    assert found.looked == 11
    again = look(store, tmp_path)
    assert again.clips == found.clips and again.looked == 0
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "IM").write_bytes(paths[3].read_bytes())  # a copy is no frame more
    third = look(store, tmp_path)
    assert third.clips[0].num_frames == 10 and third.looked == 2
    paths[9].unlink()
    (tmp_path / "copy" / "IM").unlink()
    assert look(store, tmp_path).clips[0].source == tuple(paths[:9])
    for path in paths[2:9]:
        path.unlink()
    few = look(store, tmp_path)
    assert [each.reason for each in few.excluded] == ["fewer frames than rules.min_frames"]
    assert len(records(store)) == 1


def test_numbered_pictures_are_one_clip(tmp_path: Path, store: Path) -> None:
    folder = tmp_path / "anna" / "sequence"
    folder.mkdir(parents=True)
    for number, frame in enumerate(moving_frames(10)):
        Image.fromarray(frame).save(folder / f"frame_{number}.png")
    Image.fromarray(moving_frames(1)[0]).save(folder / "portrait.png")
    found = look(store, tmp_path)
    assert [path.name for path in found.clips[0].source] == [f"frame_{n}.png" for n in range(10)]
    assert (found.clips[0].patient, found.skipped) == (pseudonym("anna"), 1)
    assert look(store, tmp_path).looked == 0
    (folder / "frame_0.png").unlink()
    assert look(store, tmp_path).clips[0].num_frames == 9


def test_objects_that_are_no_video_are_told_as_such(tmp_path: Path, store: Path) -> None:
    path = write_dicom(tmp_path / "report.dcm")
    dataset = pydicom.dcmread(path)
    del dataset.PixelData
    dataset.Modality, dataset.SOPClassUID = "SR", "1.2.840.10008.5.1.4.1.1.88.11"
    dataset.save_as(path)
    (excluded,) = look(store, tmp_path).excluded
    assert excluded.reason == "DICOM object without pixel data"


@pytest.mark.parametrize("damage", ["cut", "no pixels"])
def test_a_damaged_file_is_still_its_patients(tmp_path: Path, store: Path, damage: str) -> None:
    (tmp_path / "anna").mkdir()
    path = write_dicom(tmp_path / "anna" / "c.dcm", PatientID="P1", StudyInstanceUID="1.2.3")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-5000])
    else:
        dataset = pydicom.dcmread(path)
        del dataset.PixelData
        dataset.save_as(path)
    assert len(look(store, tmp_path).excluded) == 1
    (row,) = records(store)
    assert row.patient == pseudonym("P1") and row.in_header and row.study
    with Manifest(store, alone="refuse") as manifest:
        assert find_patient(manifest, "P1").clip_ids == (row.clip_id,)
        erase_patient(manifest, "P1")
    assert look(store, tmp_path).refused == 1 and not records(store)


def test_one_uid_in_the_files_of_two_patients(tmp_path: Path, store: Path) -> None:
    """Anonymisers write constants; a clip's frames are of one patient and study all the same."""
    for name, patient, study in (("a", "P1", "1.2"), ("b", "P2", "1.2"), ("c", "P2", "1.3")):
        flipped = np.flip(moving_frames(8), axis=1 if name == "a" else 2)
        frames = moving_frames(8) if name == "c" else flipped
        uids = {"SeriesInstanceUID": "1.2.3", "StudyInstanceUID": study}
        write_series(tmp_path / name, frames, PatientID=patient, **uids)
    found = look(store, tmp_path)
    assert [len(clip.source) for clip in found.clips] == [8, 8, 8]
    assert all(len({path.parent for path in clip.source}) == 1 for clip in found.clips)
    patients = [clip.patient for clip in found.clips]
    assert patients == [pseudonym("P1"), pseudonym("P2"), pseudonym("P2")]


def test_files_that_nobody_may_ask_about_cost_a_row_each(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that may be listed, but not entered."""
    good = video(tmp_path / "a" / "good.mp4")
    for name in ("Mustermann.mp4", "IM0001"):
        video(tmp_path / "b" / "x.mp4", width=80).rename(tmp_path / "b" / name)
    locked = str(tmp_path / "b") + os.sep

    def denied(call: Callable[..., object]) -> Callable[..., object]:
        def ask(path: object, *rest: object, **options: object) -> object:
            if isinstance(path, str | Path) and str(path).startswith(locked):
                raise PermissionError(13, "Permission denied", str(path))
            return call(path, *rest, **options)

        return ask

    with monkeypatch.context() as patch:
        for module, name in ((os, "stat"), (os, "lstat"), (io, "open")):
            patch.setattr(module, name, denied(getattr(module, name)))
        patch.setattr("feat_fed.data.inventory.refresh.work_on", in_this_process)
        for _ in range(2):
            found = look(store, tmp_path)
            assert [clip.source[0] for clip in found.clips] == [good]
            reasons = {each.path.name: each.reason for each in found.excluded}
            assert reasons == dict.fromkeys(("Mustermann.mp4", "IM0001"), "file cannot be opened")
    found = look(store, tmp_path)
    assert (found.looked, found.skipped, len(found.clips)) == (1, 1, 2)  # IM0001 is no DICOM


def test_what_the_disk_says_names_no_file(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path) -> Path:
        raise OSError(5, "Input/output error", str(tmp_path / "Mustermann"))

    monkeypatch.setattr(Path, "resolve", broken)
    with pytest.raises(DataError, match="cannot be used: Input/output error") as caught:
        look(store, tmp_path)
    assert "Mustermann" not in str(caught.value)


def test_a_right_that_is_given_later_counts(tmp_path: Path, store: Path) -> None:
    path = video(tmp_path / "a.mp4")
    path.chmod(0)
    look(store, tmp_path)
    path.chmod(0o644)
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # neither size nor time differs
    assert look(store, tmp_path).looked == 1
    assert look(store, tmp_path).looked == 0

"""``feat-fed data`` with real files: what it does, and what it never says."""

from __future__ import annotations

import json
import logging
import os
import re
from pathlib import Path

import av
import numpy as np
import pydicom
import pytest
import yaml
from PIL import Image
from pydicom.datadict import DicomDictionary, keyword_for_tag
from pydicom.dataelem import DataElement

from clip_files import moving_frames, write_dicom, write_video
from feat_fed.cli.main import run_app
from feat_fed.data import records

WORD, DIGITS, DATE = "Zebra7Qx", "735190264", "19370213"
UID_ROOT = f"1.2.840.{DIGITS}"
NEEDLES = (WORD, DIGITS, DATE)
KEPT = {  # without these the file is no cine
    *("SpecificCharacterSet", "NumberOfFrames", "PhotometricInterpretation", "FrameTime"),
    *("SOPClassUID", "ImplementationClassUID"),
}
TEXTS: dict[str, str] = {
    **dict.fromkeys(("AE", "CS", "LO", "LT", "SH", "ST", "UC", "UR", "UT"), WORD),
    **{"AS": "077Y", "DA": DATE, "DT": f"{DATE}101112", "TM": "101112", "PN": f"{WORD}^{WORD}"},
    **{"DS": DIGITS, "IS": DIGITS, "UI": f"{UID_ROOT}.1"},
}


def plant(path: Path, *, patient: str, burned_in: str = WORD, pixels: bool = True) -> Path:
    """Give every text element that DICOM's dictionary knows a value to look for."""
    dataset = pydicom.dcmread(path)
    for tag, (vr, _, _, retired, _) in DicomDictionary.items():
        keyword = keyword_for_tag(tag)
        if not keyword or retired or keyword in KEPT or tag >> 16 in (0, 2, 4) or vr not in TEXTS:
            continue
        dataset[tag] = DataElement(tag, vr, TEXTS[vr], validation_mode=pydicom.config.IGNORE)
    dataset.PatientID, dataset.BurnedInAnnotation = patient, burned_in
    dataset.file_meta.SourceApplicationEntityTitle = WORD
    dataset.file_meta.PrivateInformationCreatorUID = UID_ROOT
    block = dataset.private_block(0x0011, WORD, create=True)
    block.add_new(1, "UT", WORD * 40)
    if not pixels:
        del dataset.PixelData
    dataset.save_as(path)
    return path


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Return a site's file; every name, folder and text below its data has a word to look for."""
    data = tmp_path / "data"
    folder = data / f"{WORD}^Erika" / f"{DATE}_{DIGITS}"
    folder.mkdir(parents=True)
    for number in range(2):
        frames = np.flip(moving_frames(20), axis=2) if number else moving_frames(20)
        path = write_dicom(folder / f"{WORD}-{number}.dcm", frames)
        plant(path, patient=f"{WORD}-P{number}", burned_in=("NO", "YES")[number])
    plant(write_dicom(folder / f"{WORD}-sr.dcm"), patient=f"{WORD}-P1", pixels=False)
    whole = (folder / f"{WORD}-0.dcm").read_bytes()
    (folder / f"{WORD}-cut.dcm").write_bytes(whole[: len(whole) // 2])
    (folder / f"{WORD}-noise.mp4").write_bytes(WORD.encode() * 999)
    video = write_video(folder / f"{WORD}-m.mp4", np.flip(moving_frames(20), axis=1), "libx264")
    titled = folder / f"{WORD}-t.mkv"
    with av.open(video) as source, av.open(titled, "w", options={}) as target:
        target.metadata["title"] = f"{WORD} {DATE}"
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    for number, frame in enumerate(moving_frames(18)[:, ::-1]):
        Image.fromarray(frame).save(folder / f"{WORD}_{number}.png")
    tree = {
        "name": "hospital-a",
        "data": {"paths": ["data"], "rules": {"min_frames": 4, "modalities": None}, "workers": 1},
        "store": "store",
        "compute": {"device": "cpu"},
    }
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(tree))
    study = {
        "name": "tiny",
        "model": {"in_channels": 6, "hidden_size": 16, "num_trios": 1, "num_heads": 2},
        "clips": {"frames": 4, "size_px": 16},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    return tmp_path / "site.yaml"


def assert_silent(data: bytes, where: str) -> None:
    for needle in NEEDLES:
        for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
            assert needle.lower().encode(encoding) not in data.lower(), f"{needle} in {where}"


def test_no_name_date_path_or_text_gets_out(
    site: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    study, store = str(site.with_name("study.yaml")), site.with_name("store")
    planted = b"".join(path.read_bytes() for path in site.parent.rglob(f"{WORD}*.*"))
    assert all(needle.encode() in planted for needle in NEEDLES)
    said = ""

    def feat_fed(*arguments: str) -> tuple[int, str]:
        nonlocal said
        status = run_app(["data", *arguments])
        out, err = capfd.readouterr()
        said += out + err
        return status, out

    status, out = feat_fed("scan", str(site), "--json")
    assert status == 0
    rows = json.loads(out)["clips"]
    assert {row["modality"] for row in rows} == {None, "unknown"}
    assert {"dicom", "video", "images"} <= {row["kind"] for row in rows}
    assert {row["outcome"] for row in rows} == {"usable", "review", "excluded"}
    waiting = [row["clip_id"] for row in rows if row["outcome"] == "review"]
    assert feat_fed("scan", str(site), "--rescan")[0] == 0
    assert feat_fed("approve", str(site), waiting[0])[0] == 0
    assert feat_fed("reject", str(site), waiting[0])[0] == 0
    assert feat_fed("approve", str(site), waiting[0])[0] == 0
    assert feat_fed("prepare", str(site), "--study", study)[0] == 0
    assert list((store / "latents").glob("*.safetensors"))
    assert feat_fed("report", str(site), "--study", study)[0] == 0
    assert feat_fed("report", str(site), "--out", str(site / "page.html"))[0] == 1
    assert "name another --out" in said
    assert feat_fed("approve", str(site), "nothing")[0] == 1
    assert feat_fed("approve", str(site))[0] == 1
    assert feat_fed("erase", str(site), "--patient", f"{WORD}-P0")[0] == 0
    assert feat_fed("erase", str(site), "--patient", f"{WORD}-P9")[0] == 0
    assert "nothing here was of this patient" in said
    assert feat_fed("scan", str(site))[0] == 0
    assert "of patients who were erased are not read" in said
    assert feat_fed("erase", str(site), "--patient", f"{WORD}-P0", "--allow-again")[0] == 0
    tree = yaml.safe_load(site.read_text())
    tree["data"]["rules"]["min_frames"] = 999
    site.write_text(yaml.safe_dump(tree))
    assert feat_fed("prepare", str(site), "--study", study)[0] == 1
    assert "no usable clip" in said
    (store / "manifest.sqlite").write_bytes(b"noise" * 999)
    assert feat_fed("scan", str(site))[0] == 1
    assert_silent(said.encode(), "what was printed")
    assert_silent(caplog.text.encode(), "the log")


def test_no_file_of_the_store_tells_who_it_is_of(site: Path) -> None:
    study, store = str(site.with_name("study.yaml")), site.with_name("store")
    assert run_app(["data", "scan", str(site)]) == 0
    assert run_app(["data", "approve", str(site), "--all"]) == 1  # nobody has seen a page
    assert run_app(["data", "report", str(site)]) == 0
    assert run_app(["data", "approve", str(site), "--all"]) == 0
    assert run_app(["data", "prepare", str(site), "--study", study]) == 0
    assert run_app(["data", "report", str(site), "--study", study]) == 0
    page = store / "data.html"
    assert page.read_text().count("data:image/jpeg") >= 4
    assert json.loads(page.with_suffix(".json").read_text())["clips"]["usable"] >= 2
    files = [path for path in store.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} >= {"store", "sheets", "latents"}
    for path in files:
        assert_silent(str(path.relative_to(store)).encode() + path.read_bytes(), path.name)
        assert not path.stat().st_mode & 0o077, path.name
    before = len(records(store))
    latents = {path.name for path in (store / "latents").glob("*.safetensors")}
    learnt = [store / kind / ("a" * 32) for kind in ("rounds", "spool", "optimiser")]
    for folder in learnt:
        folder.mkdir(parents=True)
        (folder / "from-clips.safetensors").touch()
    assert run_app(["data", "erase", str(site), "--patient", f"{WORD}-P0"]) == 0
    assert not [folder for folder in learnt if folder.exists()]
    assert len(records(store)) < before
    assert not page.exists() and not page.with_suffix(".json").exists()
    assert {path.name for path in (store / "latents").glob("*.safetensors")} < latents


def test_paths_are_shown_to_who_asks(site: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_app(["data", "scan", str(site), "--show-paths"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert any(line.endswith(f"{WORD}-noise.mp4") for line in lines)
    assert run_app(["data", "scan", str(site), "--show-paths", "--json"]) == 1
    assert "--json never holds paths" in capfd.readouterr().err


def test_the_page_names_files_for_who_asks(site: Path) -> None:
    page = site.with_name("page.html")
    assert run_app(["data", "report", str(site), "--show-paths", "--out", str(page)]) == 0
    assert f"{WORD}-noise.mp4" in page.read_text()
    assert_silent(page.with_suffix(".json").read_bytes(), "the counts")


def test_another_pattern_takes_the_latents_of_the_erased(site: Path) -> None:
    store = site.with_name("store")
    assert run_app(["data", "scan", str(site)]) == 0
    contents = {row.sha256 for row in records(store) if row.kind == "video" and not row.unreadable}
    (store / "latents").mkdir()
    for each in contents:
        (store / "latents" / f"{each}-0.safetensors").touch()
    assert run_app(["data", "erase", str(site), "--patient", "m"]) == 0
    assert len(list((store / "latents").glob("*.safetensors"))) == len(contents) > 1
    tree = yaml.safe_load(site.read_text())
    tree["data"]["patient_pattern"] = r"-(m)\.mp4$"
    site.write_text(yaml.safe_dump(tree))
    assert run_app(["data", "scan", str(site)]) == 0
    assert len(list((store / "latents").glob("*.safetensors"))) == len(contents) - 1


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Return the file of a site with a video of each of four patients; one's name is no UTF-8."""
    for number, name in enumerate((b"anna", b"ben", b"carl", b"d\xe9sir\xe9e")):
        folder = tmp_path / "data" / os.fsdecode(name)
        folder.mkdir(parents=True)
        frames = np.roll(moving_frames(20, width=64 + 16 * number), 5 * number, axis=1)
        write_video(tmp_path / "x.mp4", frames, "libx264").rename(folder / "1.mp4")
    rules = {"min_frames": 4, "duplicate_bits": None, "review": "waived"}
    tree = {"name": "a", "data": {"paths": ["data"], "rules": rules, "workers": 1}, "store": "s"}
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(tree))
    return tmp_path / "site.yaml"


def test_a_name_that_is_no_utf_8_has_its_place_on_the_page(videos: Path) -> None:
    page = videos.with_name("page.html")
    assert run_app(["data", "report", str(videos), "--show-paths", "--out", str(page)]) == 0
    assert "d\ufffdsir\ufffde/1.mp4" in page.read_text(encoding="utf-8")


def test_the_page_says_who_is_held_out_in_a_study(videos: Path) -> None:
    clips = {"frames": 4, "heldout_fraction": 0.5}
    tree = {"name": "tiny", "model": {"in_channels": 6}, "clips": clips}
    videos.with_name("study.yaml").write_text(yaml.safe_dump(tree))
    page = videos.with_name("page.html")
    assert run_app(["data", "report", str(videos), "--out", str(page)]) == 0
    assert "no study has split them yet" in page.read_text()
    arguments = ["--study", str(videos.with_name("study.yaml")), "--out", str(page)]
    assert run_app(["data", "report", str(videos), *arguments]) == 0
    told = re.search(r"(\d) to train on, (\d) held out", page.read_text())
    assert told is not None
    train, heldout = int(told[1]), int(told[2])
    assert train + heldout == 4
    assert min(train, heldout) > 0
    captions = re.findall(r"px, (training|held out)</figcaption>", page.read_text())
    assert (captions.count("training"), captions.count("held out")) == (train, heldout)


def test_a_pattern_that_finds_nobody_is_told(
    videos: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tree = yaml.safe_load(videos.read_text())
    tree["data"]["patient_pattern"] = r"(ann|ben)"
    videos.write_text(yaml.safe_dump(tree))
    assert run_app(["data", "scan", str(videos)]) == 0
    told = " ".join(capfd.readouterr().err.split())
    assert "data.patient_pattern does not match 2 clips" in told


def test_a_store_without_its_key_is_not_gone_on_with(
    videos: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_app(["data", "scan", str(videos)]) == 0
    (videos.with_name("s") / "patients.key").unlink()
    assert run_app(["data", "scan", str(videos)]) == 1
    told = " ".join(capfd.readouterr().err.split())
    assert "patients.key is missing" in told
    assert "restore" in told

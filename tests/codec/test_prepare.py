"""The store: encoded once, never stale, never torn, whatever is killed or damaged."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from clip_files import moving_frames, write_dicom
from feat_fed.codec import LatentClips, build_codec, prepare
from feat_fed.codec.base import VideoCodec
from feat_fed.codec.store import LatentStore
from feat_fed.config import ClipConfig, CodecConfig
from feat_fed.data import ClipEntry
from feat_fed.data.frames import square_video
from feat_fed.errors import DataError

CLIPS = ClipConfig(frames=8, size_px=32)
CODEC = build_codec(CodecConfig())


def entry(path: Path, patient: str = "p") -> ClipEntry:
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return ClipEntry((path,), sha256, patient, 40, 48, 64, 25.0)


def run(
    store: Path, *entries: ClipEntry, clips: ClipConfig = CLIPS, codec: VideoCodec = CODEC
) -> LatentClips:
    return prepare(entries, store=store, codec=codec, clips=clips)


@pytest.fixture
def clip(tmp_path: Path) -> ClipEntry:
    return entry(write_dicom(tmp_path / "a.dcm", moving_frames(40), PatientName="Mustermann"))


def test_stored_latent_is_the_clips(tmp_path: Path, clip: ClipEntry) -> None:
    latent = run(tmp_path / "store", clip).clips[0].latent
    video = square_video(moving_frames(40), size_px=32)[None]  # more than one chunk
    expected = CODEC.encode(video).mean[0].half().float()
    mean, logvar = latent.read(0, 40)
    torch.testing.assert_close(mean, expected, atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(latent.read(5, 9)[0], mean[5:9])
    assert logvar is None and latent.num_frames == 40


def test_second_run_decodes_nothing(tmp_path: Path, clip: ClipEntry) -> None:
    first = run(tmp_path / "store", clip)
    clip.source[0].unlink()
    assert run(tmp_path / "store", clip) == first


def test_other_recipes_get_other_files(tmp_path: Path, clip: ClipEntry) -> None:
    store = tmp_path / "store"
    latents = [
        run(store, clip),
        run(store, clip, clips=ClipConfig(frames=8, size_px=16)),
        run(store, clip, codec=build_codec(CodecConfig(detail_channels=0))),
        run(store, dataclasses.replace(clip, sha256="0" * 64)),
    ]
    assert len({each.clips[0].latent.path for each in latents}) == 4
    assert run(store, clip, clips=ClipConfig(frames=4, size_px=32)).clips == latents[0].clips


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "foreign"])
def test_damaged_latent_is_encoded_again(tmp_path: Path, clip: ClipEntry, damage: str) -> None:
    store = tmp_path / "store"
    path = run(store, clip).clips[0].latent.path
    whole = path.read_bytes()
    other = run(store, clip, codec=build_codec(CodecConfig(levels=3))).clips[0].latent.path
    path.write_bytes(
        {
            "cut": whole[: len(whole) // 2],
            "flip": whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:],
            "empty": b"",
            "foreign": other.read_bytes(),
        }[damage]
    )
    assert run(store, clip).clips[0].latent.path == path
    assert path.read_bytes() == whole


def test_bad_clips_cost_an_exclusion_each(tmp_path: Path, clip: ClipEntry) -> None:
    broken = write_dicom(tmp_path / "broken.dcm", moving_frames(20), NumberOfFrames=21)
    short = write_dicom(tmp_path / "short.dcm", moving_frames(7))
    seen: list[tuple[int, int]] = []
    made = prepare(
        [entry(broken), clip, entry(short)],
        store=tmp_path / "store",
        codec=CODEC,
        clips=CLIPS,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert [each.num_frames for each in made.clips] == [40]
    assert [(each.path, each.reason) for each in made.excluded] == [
        (broken, "pixel data cannot be decoded"),
        (short, "fewer frames than a clip needs"),
    ]
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_store_that_cannot_be_written(tmp_path: Path, clip: ClipEntry) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"file/store cannot be used: Not a directory"):
        run(tmp_path / "file" / "store", clip)


def test_nothing_of_the_patient_is_in_the_store(tmp_path: Path, clip: ClipEntry) -> None:
    path = run(tmp_path / "store", clip).clips[0].latent.path
    assert b"Mustermann" not in path.read_bytes()
    assert not {"Mustermann", "a.dcm"} & set(path.parts[-2:])


def test_old_parts_of_killed_processes_are_removed(tmp_path: Path) -> None:
    old, new = tmp_path / ".old.1-a.safetensors", tmp_path / ".new.1-b.safetensors"
    for part in (old, new):
        part.write_bytes(b"x")
    os.utime(old, (0, time.time() - 48 * 3600))
    LatentStore(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [new.name]


_WRITER = """
import sys
from pathlib import Path
import torch
from feat_fed.codec.store import LatentStore
store = LatentStore(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    for number in range(4):
        mean = torch.full((64, 6, 16, 16), float(number))
        store.put((f"clip {number}",), mean, None)
"""


def test_killed_and_competing_writers_leave_whole_files(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, tmp_path], stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    store, found = LatentStore(tmp_path), 0
    for writer in writers:
        assert writer.stdout and writer.stdout.readline() == b"ready\n"
    for delay_sec in (0.2, 0.13):
        time.sleep(delay_sec)
        writer = writers.pop()
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        for number in range(4):
            path = store._path((f"clip {number}",))
            latent = store.find((f"clip {number}",))
            assert latent is not None or not path.exists()
            found += latent is not None
            assert latent is None or (latent.read(0, 64)[0] == number).all()
    assert found >= 4

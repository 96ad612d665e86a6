"""The store: encoded once, never stale, never torn, whatever is killed or damaged."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor

from clip_files import moving_frames, write_dicom
from feat_fed.codec import (
    Latent,
    LatentClips,
    LatentStore,
    LatentWindows,
    VideoCodec,
    WaveletCodec,
    build_codec,
    prepare,
)
from feat_fed.codec.prepare import latent_bytes
from feat_fed.config import ClipConfig, CodecConfig, LatentsConfig
from feat_fed.data import ClipEntry
from feat_fed.data.frames import square_video
from feat_fed.data.reading.clip import Box
from feat_fed.errors import ConfigError, DataError
from waiting import nobody_left, wait_until

CLIPS = ClipConfig(frames=8, size_px=32)
CODEC = build_codec(CodecConfig())


def entry(path: Path, patient: str = "p") -> ClipEntry:
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return ClipEntry((path,), sha256, patient, 40, 48, 64, 25.0)


def run(
    store: Path,
    *entries: ClipEntry,
    clips: ClipConfig = CLIPS,
    codec: VideoCodec = CODEC,
    latents: LatentsConfig | None = None,
    workers: int = 0,
) -> LatentClips:
    kept = LatentStore(store, latents)
    return prepare(entries, store=kept, codec=codec, clips=clips, workers=workers)


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


def test_only_what_may_be_seen_is_encoded(tmp_path: Path, clip: ClipEntry) -> None:
    field, overlay = Box(8, 4, 40, 36), Box(10, 6, 20, 16)
    seen = dataclasses.replace(clip, field=field, overlays=(overlay,))
    frames = moving_frames(40).copy()
    frames[:, 6:16, 10:20] = 0
    expected = CODEC.encode(square_video(frames[:, 4:36, 8:40], size_px=32)[None]).mean[0]
    mean, _ = run(tmp_path / "store", seen).clips[0].latent.read(0, 40)
    assert (mean - expected).abs().mean() < 0.05  # JPEG in between would be more at the edges
    torch.testing.assert_close(mean, expected, atol=2e-3, rtol=1e-3)


def test_what_rounding_loses_is_measured(tmp_path: Path, clip: ClipEntry) -> None:
    losses = []
    for dtype, bits in (("float16", 11), ("bfloat16", 8)):
        made = run(tmp_path / "store", clip, latents=LatentsConfig(dtype=dtype))
        exact = CODEC.encode(square_video(moving_frames(40), size_px=32)[None]).mean[0]
        stored, _ = made.clips[0].latent.read(0, 40)
        stats = made.stats
        assert stats is not None and made.num_bytes == made.clips[0].latent.path.stat().st_size
        spread = exact.var((0, 2, 3), correction=0).mean().sqrt()
        assert stats.rms_loss == pytest.approx(float((stored - exact).std() / spread), rel=0.02)
        assert stats.max_loss == pytest.approx(float((stored - exact).abs().max() / spread))
        assert 0 < stats.max_loss < float(exact.abs().max() / spread) * 2**-bits
        torch.testing.assert_close(torch.tensor(stats.mean), exact.mean((0, 2, 3)))
        losses.append(stats.rms_loss)
    assert 6 < losses[1] / losses[0] < 10  # three bits


def test_workers_give_the_same_latents(
    tmp_path: Path, clip: ClipEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feat_fed.codec.encoders._WORTH_SEC", 0.0)
    short = entry(write_dicom(tmp_path / "short.dcm", moving_frames(7)), "q")
    alone = run(tmp_path / "one", clip, short)
    together = run(tmp_path / "two", clip, short, workers=2)
    assert together.excluded == alone.excluded
    files = [[path.read_bytes() for path in (tmp_path / n).glob("*.safe*")] for n in ("one", "two")]
    assert sorted(files[0]) == sorted(files[1]) and together.clips[0].patient == "p"


def test_patients_are_taken_apart(tmp_path: Path, clip: ClipEntry) -> None:
    other = entry(write_dicom(tmp_path / "b.dcm", moving_frames(20)), "q")
    made = run(tmp_path / "store", clip, other)
    assert [each.num_frames for each in made.of_patients(["q"]).clips] == [20]


def test_a_bound_that_cannot_hold_the_clips_is_told_before(tmp_path: Path, clip: ClipEntry) -> None:
    wanted = latent_bytes(clip, CODEC, CLIPS)
    made = run(tmp_path / "probe", clip)
    assert wanted == pytest.approx(made.num_bytes, abs=4096)
    tight = LatentsConfig(max_gb=wanted / 1e9 / 2)
    with pytest.raises(
        DataError, match=r"about [\d.e-]+ GB and latents\.max_gb is [\d.e-]+; raise"
    ):
        run(tmp_path / "store", clip, latents=tight)
    assert not list((tmp_path / "store").glob("*.safetensors"))


def test_what_is_unused_for_longest_makes_room(tmp_path: Path) -> None:
    clips = [
        entry(write_dicom(tmp_path / f"{n}.dcm", moving_frames(40), PatientID=f"{n}"))
        for n in range(3)
    ]
    bound = LatentsConfig(max_gb=2.5 * latent_bytes(clips[0], CODEC, CLIPS) / 1e9)
    store = tmp_path / "store"
    paths = [run(store, each, latents=bound).clips[0].latent.path for each in clips[:2]]
    for path, age_sec in zip(paths, (100, 200), strict=True):
        os.utime(path, (0, time.time() - age_sec))
    run(store, clips[1], latents=bound)  # used again
    run(store, clips[2], latents=bound)
    assert [path.exists() for path in paths] == [False, True]


def test_what_another_session_trains_on_does_not_make_room(tmp_path: Path) -> None:
    one, other = (
        entry(write_dicom(tmp_path / f"{n}.dcm", moving_frames(40), PatientID=n)) for n in "ab"
    )
    bound = LatentsConfig(max_gb=1.5 * latent_bytes(one, CODEC, CLIPS) / 1e9)
    store = tmp_path / "store"
    windows = LatentWindows(run(store, one, latents=bound), codec=CODEC, clips=CLIPS)
    with pytest.raises(DataError, match=r"or take fewer clips \([\d.e-]+ GB are in use elsewhere"):
        run(store, other, latents=bound)
    assert windows.sample(0).shape[0] == 8
    del windows
    assert len(run(store, other, latents=bound).clips) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_is_another_s_by_now_is_left_out(
    tmp_path: Path, clip: ClipEntry, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feat_fed.codec.encoders._WORTH_SEC", 0.0)
    good = entry(write_dicom(tmp_path / "good.dcm", moving_frames(20)))
    write_dicom(clip.source[0], moving_frames(30), PatientName="Berta")
    made = run(tmp_path / "store", clip, good, workers=workers)
    assert [each.reason for each in made.excluded] == ["file changed while it was read"]
    assert [each.num_frames for each in made.clips] == [20]
    assert not list((tmp_path / "store").glob(f"*{clip.sha256}*"))


def test_others_have_their_turn_and_who_is_erased_in_between_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        importlib.import_module("feat_fed.codec.prepare"), "TURN_SEC", 1e-3
    )  # one clip a turn
    clips = [
        entry(write_dicom(tmp_path / f"{n}.dcm", moving_frames(10 + n)), f"{n}") for n in range(4)
    ]
    store, turns = LatentStore(tmp_path / "store"), 0

    @contextlib.contextmanager
    def turn() -> Iterator[set[str]]:
        nonlocal turns
        turns += 1
        yield {"0", "2"} if turns > 2 else set()
        LatentStore(tmp_path / "store").erase([clips[3].sha256], wait_sec=0)  # nobody writes now

    made = prepare(clips, store=store, codec=CODEC, clips=CLIPS, turn=turn)
    assert turns > 2
    assert [each.patient for each in made.clips] == ["1", "3"]
    assert {each.reason for each in made.excluded} == {"its patient was erased"}


@pytest.mark.parametrize(
    ("factor", "error", "reason"),
    [
        (1e6, ConfigError, r"more than latents\.dtype float16 can hold \(65504\)"),
        (np.nan, None, ""),
    ],
)
def test_numbers_that_cannot_be_stored(
    tmp_path: Path, clip: ClipEntry, factor: float, error: type[Exception] | None, reason: str
) -> None:
    class Loud(WaveletCodec):
        def encode(self, video_BFCHW: Tensor) -> Latent:
            return Latent(super().encode(video_BFCHW).mean * factor)

    codec = Loud(CodecConfig())
    if error:
        with pytest.raises(error, match=reason):
            run(tmp_path, clip, codec=codec)
        kept = run(tmp_path, clip, codec=codec, latents=LatentsConfig(dtype="bfloat16"))
        assert len(kept.clips) == 1
    else:
        excluded = run(tmp_path, clip, codec=codec).excluded
        assert [each.reason for each in excluded] == ["the codec cannot encode it"]


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
        run(store, entry(write_dicom(tmp_path / "b.dcm", moving_frames(40), PatientID="b"))),
        run(store, dataclasses.replace(clip, field=Box(0, 0, 48, 48))),
        run(store, dataclasses.replace(clip, overlays=(Box(0, 0, 8, 8),))),
        run(store, clip, latents=LatentsConfig(dtype="bfloat16")),
        run(store, clip, clips=ClipConfig(frames=8, size_px=32, fit="pad")),
    ]
    assert len({each.clips[0].latent.path for each in latents}) == 8
    assert run(store, clip, clips=ClipConfig(frames=4, size_px=32)).clips == latents[0].clips


_LONG = """
import resource, sys
from pathlib import Path
import psutil, torch
from feat_fed.codec import Latent
from feat_fed.codec.encoded import EncodedClip
from feat_fed.codec.latent_file import Recipe, write_latent
torch.set_num_threads(1)
folder, chunk = Path(sys.argv[1]), torch.ones(1, 4, 32, 64, 64)
limit = psutil.Process().memory_info().data + 48 * 2**20
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
with EncodedClip("float16", folder) as clip:
    for _ in range(96):
        clip.add(Latent(chunk))
    write_latent(folder / "a.safetensors", Recipe("a" * 64, ()), clip)
"""


def test_a_latent_may_be_larger_than_the_memory(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _LONG, str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert told.returncode == 0, told.stderr[-500:]
    assert (tmp_path / "a.safetensors").stat().st_size > 96 * 2**20


@pytest.mark.parametrize("damage", ["cut", "header", "empty", "foreign"])
def test_damaged_latent_is_encoded_again(tmp_path: Path, clip: ClipEntry, damage: str) -> None:
    store = tmp_path / "store"
    path = run(store, clip).clips[0].latent.path
    whole = path.read_bytes()
    other = run(store, clip, codec=build_codec(CodecConfig(levels=3))).clips[0].latent.path
    path.write_bytes(
        {
            "cut": whole[: len(whole) // 2],
            "header": whole[:60] + bytes([whole[60] ^ 1]) + whole[61:],
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
        store=LatentStore(tmp_path / "store"),
        codec=CODEC,
        clips=CLIPS,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert [each.num_frames for each in made.clips] == [40]
    assert [(each.path, each.reason) for each in made.excluded] == [
        (broken, "fewer frames than the header says"),
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


_PREPARE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
if __name__ == "__main__":
    from test_prepare import CLIPS, CODEC, entry
    from feat_fed.codec import LatentStore, encoders, prepare
    encoders._WORTH_SEC = 0.0
    store = LatentStore(Path(sys.argv[2]))
    entries = [entry(Path(each)) for each in sys.argv[3:]]
    prepare(entries, store=store, codec=CODEC, clips=CLIPS, workers=2)
"""


def test_killed_with_its_workers_it_goes_on_where_it_was(tmp_path: Path) -> None:
    files = [
        write_dicom(tmp_path / f"{n}.dcm", moving_frames(40 + n), PatientName=f"{n}")
        for n in range(30)
    ]
    script, store = tmp_path / "main.py", tmp_path / "store"
    script.write_text(_PREPARE)
    folders = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    process = subprocess.Popen(
        [sys.executable, script, Path(__file__).parent, store, *files],
        env={**os.environ, "PYTHONPATH": folders},
    )

    def two_are_there() -> bool:  # the first is made before they start
        assert process.poll() is None
        return len(list(store.glob("[!.]*.safetensors"))) >= 2

    wait_until(two_are_there, poll_sec=0.01)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert family
    nobody_left(family)
    before = {path: path.stat().st_ino for path in store.glob("[!.]*.safetensors")}
    made = run(store, *(entry(path) for path in files))
    assert [each.num_frames for each in made.clips] == [40 + n for n in range(30)]
    after = {each.latent.path: each.latent.path.stat().st_ino for each in made.clips}
    assert 0 < len(before) < 30 and before.items() <= after.items()
    assert not list(store.glob(".*.safetensors"))

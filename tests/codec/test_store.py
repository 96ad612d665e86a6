"""The store: whole files, verified by the frame, whatever is killed, damaged or erased."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from feat_fed.codec import Latent, LatentStore
from feat_fed.codec.encoded import EncodedClip
from feat_fed.codec.latent_file import Recipe, StoredLatent, find_latent
from feat_fed.config import LatentsConfig
from feat_fed.errors import DataError

A, B = "a" * 64, "b" * 64
FRAMES = 5
TINY = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def encoded(folder: Path, dtype: str = "float16", frames: int = FRAMES) -> EncodedClip:
    clip = EncodedClip(dtype, folder)
    for frame in range(frames):
        clip.add(
            *(
                Latent(noise(1, 1, 2, 3, 4, seed=frame + 50 * n), noise(1, 1, 2, 3, 4, seed=n))
                for n in range(2)
            )
        )
    return clip


def put(folder: Path, sha256: str = A, step: str = "x") -> StoredLatent:
    store = LatentStore(folder)
    with encoded(folder) as clip:
        return store.put(Recipe(sha256, (step,)), clip)


@TINY
@given(
    frames=st.integers(1, 12),
    dtype=st.sampled_from(["float16", "bfloat16"]),
    mirrored=st.booleans(),
    data=st.data(),
)
def test_any_window_is_what_was_encoded(
    tmp_path: Path, frames: int, dtype: str, mirrored: bool, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, frames))
    stop = data.draw(st.integers(start, frames))
    store = LatentStore(tmp_path, LatentsConfig(dtype=dtype))
    with encoded(tmp_path, dtype, frames) as clip:
        latent = store.put(Recipe(A, (f"{frames} {dtype}",)), clip)
    mean, logvar = latent.read(start, stop, mirrored=mirrored)
    exact = torch.cat(
        [noise(1, 2, 3, 4, seed=n + 50 * mirrored) for n in range(start, stop)]
        or [noise(0, 2, 3, 4)]
    )
    bits = {"float16": 11, "bfloat16": 8}[dtype]
    torch.testing.assert_close(mean, exact, rtol=2.0**-bits, atol=2.0**-24)
    assert logvar is not None and logvar.shape == mean.shape and mean.dtype == torch.float32


@TINY
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found_or_harmless(tmp_path: Path, place: float, bit: int) -> None:
    latent = put(tmp_path)
    whole = latent.path.read_bytes()
    right = latent.read(0, FRAMES)
    at = int(place * len(whole))
    latent.path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
    recipe = Recipe(A, ("x",))
    for handle in (latent, find_latent(latent.path, recipe)):
        if handle is None:
            continue
        try:
            read = handle.read(0, FRAMES)
        except DataError:
            continue
        assert all(torch.equal(a, b) for a, b in zip(read, right, strict=True))


@TINY
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_off_is_found(tmp_path: Path, share: float) -> None:
    latent = put(tmp_path)
    whole = latent.path.read_bytes()
    latent.path.write_bytes(whole[: int(share * len(whole))])
    assert find_latent(latent.path, Recipe(A, ("x",))) is None
    with pytest.raises(DataError, match="can no longer be read"):
        latent.read(0, FRAMES)


def test_a_damaged_frame_is_told_when_it_is_read_and_then_encoded_anew(tmp_path: Path) -> None:
    latent = put(tmp_path)
    data = bytearray(latent.path.read_bytes())
    frame = latent.read(3, 4)[0].half().numpy().tobytes()
    data[data.index(frame)] ^= 1
    latent.path.write_bytes(data)
    store, recipe = LatentStore(tmp_path), Recipe(A, ("x",))
    assert store.find(recipe) is not None  # costs no reading of all frames
    latent.read(0, 3)
    with pytest.raises(DataError, match="was damaged on disk and is removed; start again"):
        latent.read(2, 5)
    assert store.find(recipe) is None


def test_frames_of_one_file_are_not_taken_for_another_s(tmp_path: Path) -> None:
    one, other = put(tmp_path), put(tmp_path, step="y")
    one.path.write_bytes(other.path.read_bytes())
    assert LatentStore(tmp_path).find(Recipe(A, ("x",))) is None
    with pytest.raises(DataError, match="damaged"):
        one.read(0, 1)


def test_erase_takes_all_of_a_source_and_nothing_else(tmp_path: Path) -> None:
    kept = put(tmp_path, B)
    gone = [put(tmp_path, A, step).path for step in "xyz"]
    part = tmp_path / f".{A}-0.1-b.safetensors"
    part.write_bytes(b"part of a killed writer")
    assert LatentStore(tmp_path).erase(["*", "", "c" * 64]) == 0
    put(tmp_path, A)
    part.write_bytes(b"part of a killed writer")
    store = LatentStore(tmp_path)
    part.write_bytes(b"part of a writer killed since")
    assert store.erase([A]) == 4
    assert not any(path.exists() for path in [*gone, part]) and kept.path.exists()
    assert not any(A in path.name for path in tmp_path.iterdir())


def test_erase_waits_for_no_writer_for_ever(tmp_path: Path) -> None:
    latent, store = put(tmp_path), LatentStore(tmp_path)
    with store.writing(), pytest.raises(DataError, match="another process is encoding"):
        LatentStore(tmp_path).erase([A], wait_sec=0.2)
    assert latent.path.exists()
    assert store.erase([A], wait_sec=0.2) == 1


def test_what_nobody_uses_is_not_kept_for_ever(tmp_path: Path) -> None:
    old, used = put(tmp_path, step="old"), put(tmp_path, step="used")
    for latent in (old, used):
        os.utime(latent.path, (0, time.time() - 3 * 24 * 3600))
    LatentStore(tmp_path).find(Recipe(A, ("used",)))
    LatentStore(tmp_path, LatentsConfig(keep_days=2))
    assert not old.path.exists() and used.path.exists()


_USER = """
import sys
from pathlib import Path
from feat_fed.codec import LatentStore
from feat_fed.codec.latent_file import Recipe
store = LatentStore(Path(sys.argv[1]))
latent = store.find(Recipe("a" * 64, ("used",)))
print("ready", flush=True)
for _ in sys.stdin:
    print(latent.read(0, 1)[0].isfinite().all().item(), flush=True)
"""


def test_what_another_process_uses_stays_until_that_ends(tmp_path: Path) -> None:
    latent, tight = put(tmp_path, step="used"), LatentsConfig(max_gb=1e-9)
    with subprocess.Popen(
        [sys.executable, "-c", _USER, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as user:
        assert user.stdin and user.stdout and user.stdout.readline() == "ready\n"
        os.utime(latent.path, (0, 0))
        LatentStore(tmp_path, LatentsConfig(keep_days=1))
        LatentStore(tmp_path, tight).keep_to_bound()
        print("read", file=user.stdin, flush=True)
        assert user.stdout.readline() == "True\n"
        user.kill()
    LatentStore(tmp_path, tight).keep_to_bound()
    assert not latent.path.exists() and not list(tmp_path.glob(".in-use-*"))


def test_erase_takes_what_is_in_use_and_the_reader_is_told(tmp_path: Path) -> None:
    store, latent = LatentStore(tmp_path), put(tmp_path)
    assert store.find(Recipe(A, ("x",))) == latent
    assert LatentStore(tmp_path).erase([A]) == 1
    with pytest.raises(DataError, match="it has gone, perhaps as its patient was erased"):
        latent.read(0, 1)
    assert not any(A.encode() in path.read_bytes() for path in tmp_path.iterdir())


def test_files_are_the_owner_s_alone(tmp_path: Path) -> None:
    latent = put(tmp_path / "store")
    assert latent.path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "store").stat().st_mode & 0o777 == 0o700


def test_parts_of_killed_writers_go_and_those_of_live_ones_stay(tmp_path: Path) -> None:
    part = tmp_path / f".{A}-0.1-b.safetensors"
    part.write_bytes(b"x")
    store = LatentStore(tmp_path)
    assert not part.exists()
    with store.writing():
        part.write_bytes(b"x")
        LatentStore(tmp_path)
        assert part.exists()


_WRITER = """
import sys
from pathlib import Path
import torch
from feat_fed.codec import Latent, LatentStore
from feat_fed.codec.encoded import EncodedClip
from feat_fed.codec.latent_file import Recipe
store = LatentStore(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    for number in range(4):
        with EncodedClip("float16", store.folder) as clip:
            clip.add(Latent(torch.full((1, 64, 6, 16, 16), float(number))))
            store.put(Recipe(f"{number}" * 64, ()), clip)
"""


def test_killed_and_competing_writers_leave_whole_files(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, tmp_path], stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    for writer in writers:
        assert writer.stdout and writer.stdout.readline() == b"ready\n"
    store, found = LatentStore(tmp_path), 0
    for delay_sec in (0.4, 0.23):
        time.sleep(delay_sec)
        writer = writers.pop()
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        for number in range(4):
            recipe = Recipe(f"{number}" * 64, ())
            latent = store.find(recipe)
            assert latent is not None or not (tmp_path / recipe.file_name).exists()
            found += latent is not None
            assert latent is None or (latent.read(0, 64)[0] == number).all()
    assert found >= 4
    LatentStore(tmp_path)
    assert not list(tmp_path.glob(".*.safetensors"))

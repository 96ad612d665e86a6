"""Windows: right frames, right mirror, equal on every replay."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from feat_fed.codec import (
    Latent,
    LatentClip,
    LatentClips,
    LatentStore,
    LatentWindows,
    WaveletCodec,
    flip_latent,
)
from feat_fed.codec.encoded import EncodedClip
from feat_fed.codec.latent_file import Recipe, StoredLatent
from feat_fed.config import ClipConfig, CodecConfig
from feat_fed.errors import DataError

CODEC = WaveletCodec(CodecConfig())
CLIPS = ClipConfig(frames=4, size_px=32, stride_frames=3, flip=False)
LENGTHS = (10, 25, 40)


def ramp(clip: int, frames: int) -> Tensor:
    """Return latents whose every number tells the clip and the frame."""
    return (100.0 * clip + torch.arange(frames))[:, None, None, None].expand(-1, 6, 8, 8)


def put(store: LatentStore, name: str, *views: Latent) -> StoredLatent:
    with EncodedClip(store.config.dtype, store.folder) as encoded:
        encoded.add(
            *(Latent(*(m if m is None else m[None] for m in (v.mean, v.logvar))) for v in views)
        )
        return store.put(Recipe(name, ("test",)), encoded)


@pytest.fixture
def prepared(tmp_path: Path) -> LatentClips:
    store = LatentStore(tmp_path)
    clips = [
        LatentClip(put(store, f"{n}", Latent(ramp(n, frames))), patient=f"{n % 2}")
        for n, frames in enumerate(LENGTHS)
    ]
    return LatentClips(tuple(clips), ())


def test_windows_are_strided_and_inside_their_clip(prepared: LatentClips) -> None:
    windows = LatentWindows(prepared, codec=CODEC, clips=CLIPS)
    assert (len(windows), windows.num_clips, windows.num_patients) == (3, 3, 2)
    starts: dict[int, set[int]] = {0: set(), 1: set(), 2: set()}
    for seed in range(1000):
        z = windows.sample(seed)
        assert z.shape == (4, 6, 8, 8) and z.dtype == torch.float32
        numbers = z[:, 0, 0, 0].int().tolist()
        clip, start = divmod(numbers[0], 100)
        assert numbers == [100 * clip + start + 3 * step for step in range(4)]
        starts[clip].add(start)
    assert starts == {n: set(range(frames - 9)) for n, frames in enumerate(LENGTHS)}


def test_batches_replay_and_differ(prepared: LatentClips) -> None:
    windows = LatentWindows(prepared, codec=CODEC, clips=CLIPS)
    again = LatentWindows(prepared, codec=CODEC, clips=CLIPS)
    batch = windows.batch(7, 3, 16)
    assert batch.shape == (16, 4, 6, 8, 8)
    torch.testing.assert_close(batch, again.batch(7, 3, 16), rtol=0, atol=0)
    torch.testing.assert_close(batch[:5], again.batch(7, 3, 5), rtol=0, atol=0)
    for seed, step in ((7, 4), (8, 3)):
        assert not torch.equal(batch, again.batch(seed, step, 16))


def test_half_of_the_windows_are_mirrored(prepared: LatentClips) -> None:
    plain = LatentWindows(prepared, codec=CODEC, clips=CLIPS)
    flips = LatentWindows(prepared, codec=CODEC, clips=CLIPS.model_copy(update={"flip": True}))
    mirrored = 0
    for seed in range(200):
        z, straight = flips.sample(seed), plain.sample(seed)
        mirrored += torch.equal(z, flip_latent(straight, CODEC.flip_signs))
        assert torch.equal(z, straight) or torch.equal(z, flip_latent(straight, CODEC.flip_signs))
    assert 70 < mirrored < 130


@pytest.mark.parametrize("num_clips", [1, 2, 3, 7, 16])
def test_fixed_windows_cover_the_clips(prepared: LatentClips, num_clips: int) -> None:
    windows = LatentWindows(prepared, codec=CODEC, clips=CLIPS.model_copy(update={"flip": True}))
    z = windows.fixed(num_clips)
    assert z.shape == (num_clips, 4, 6, 8, 8)
    assert torch.equal(z, windows.fixed(num_clips))
    first = z[:, 0, 0, 0, 0].int().tolist()
    assert len({number // 100 for number in first}) == min(3, num_clips)
    assert len({number for number in first if number >= 100}) >= min(2, num_clips - 1)


def test_an_item_is_the_clips_middle(prepared: LatentClips) -> None:
    windows = LatentWindows(prepared, codec=CODEC, clips=CLIPS)
    assert windows[1][:, 0, 0, 0].tolist() == [108, 111, 114, 117]


def test_moments_are_sampled(tmp_path: Path) -> None:
    moments = Latent(torch.zeros(64, 6, 8, 8), torch.full((64, 6, 8, 8), 2.0))
    stored = put(LatentStore(tmp_path), "vae", moments)
    windows = LatentWindows(LatentClips((LatentClip(stored, "p"),), ()), codec=CODEC, clips=CLIPS)
    batch = windows.batch(0, 0, 8)
    assert abs(float(batch.std()) - 2.718) < 0.1
    torch.testing.assert_close(batch, windows.batch(0, 0, 8), rtol=0, atol=0)


class Asymmetric(WaveletCodec):
    """Stands for a learned codec: only encoding tells a mirrored clip's latent."""

    flip_signs = None


def test_mirrored_windows_of_a_learned_codec_were_encoded(tmp_path: Path) -> None:
    views = Latent(ramp(0, 40)), Latent(ramp(5, 40))
    prepared = LatentClips((LatentClip(put(LatentStore(tmp_path), "a", *views), "p"),), ())
    codec, flips = Asymmetric(CodecConfig()), CLIPS.model_copy(update={"flip": True})
    windows = LatentWindows(prepared, codec=codec, clips=flips)
    straight = LatentWindows(prepared, codec=codec, clips=CLIPS)
    moved = {int((windows.sample(n) - straight.sample(n)).unique().item()) for n in range(50)}
    assert moved == {0, 500}


class Draws(Dataset[Tensor]):
    """The batches of a seed, for a DataLoader."""

    def __init__(self, windows: LatentWindows) -> None:
        self.windows = windows

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Tensor:
        return self.windows.sample(3, index)


def test_workers_of_a_data_loader_draw_the_same(prepared: LatentClips) -> None:
    windows = LatentWindows(prepared, codec=CODEC, clips=CLIPS)
    loader = DataLoader(Draws(windows), batch_size=4, num_workers=2, multiprocessing_context="fork")
    expected = torch.stack([windows.sample(3, index) for index in range(12)])
    assert torch.equal(torch.cat(list(loader)), expected)


def test_no_clip_and_a_lost_file(prepared: LatentClips) -> None:
    with pytest.raises(DataError, match="no clip"):
        LatentWindows(LatentClips((), ()), codec=CODEC, clips=CLIPS)
    windows = LatentWindows(prepared, codec=CODEC, clips=CLIPS)
    prepared.clips[1].latent.path.unlink()
    with pytest.raises(DataError, match="can no longer be read"):
        windows[1]


def test_windows_of_a_patient_depend_on_nobody_else(prepared: LatentClips) -> None:
    windows = LatentWindows(prepared, codec=CODEC, clips=CLIPS)
    assert windows.patients == ("0", "1")
    own = LatentClips(tuple(each for each in prepared.clips if each.patient == "0"), ())
    alone = LatentWindows(own, codec=CODEC, clips=CLIPS)
    z_NFCHW = windows.windows_of("0", 40, 7)
    assert z_NFCHW.shape == (40, 4, 6, 8, 8)
    assert torch.equal(alone.windows_of("0", 40, 7), z_NFCHW)
    assert torch.equal(windows.windows_of("0", 2, 7), z_NFCHW[:2])
    assert not torch.equal(windows.windows_of("0", 40, 8), z_NFCHW)
    assert set((z_NFCHW[:, 0, 0, 0, 0] // 100).tolist()) == {0, 2}, "clips of this patient, and all"

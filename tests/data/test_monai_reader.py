"""The reader inside MONAI's own transforms and loaders."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader as TorchLoader

from clip_files import moving_frames, write_dicom, write_video

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MONAI's, while it is imported
    from monai.data import DataLoader
    from monai.data import Dataset as MonaiDataset
    from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

    from feat_fed.data.reading.monai_reader import CineReader

FRAMES = moving_frames()


def pipeline(reader: CineReader) -> Compose:
    return Compose(
        [LoadImaged("video", reader=reader, dtype=np.uint8), EnsureChannelFirstd("video")]
    )


def series(folder: Path, frames: np.ndarray = FRAMES) -> list[Path]:
    return [
        write_dicom(folder / f"{number}.dcm", frame[None], SeriesInstanceUID="1.2")
        for number, frame in enumerate(frames)
    ]


@pytest.mark.filterwarnings("ignore")  # LoadImaged builds all of MONAI's readers beside ours
def test_load_imaged_gives_channel_first_frames(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "clip.dcm")
    video = pipeline(CineReader())({"video": path})["video"]
    np.testing.assert_array_equal(video.numpy(), FRAMES.transpose(3, 0, 1, 2))
    assert video.meta["fps"] == 25.0


@pytest.mark.filterwarnings("ignore")
def test_a_series_is_given_as_its_files(tmp_path: Path) -> None:
    paths = series(tmp_path, FRAMES[:9])
    reader = CineReader(start_frame=1, stride_frames=2, num_frames=3)
    video = pipeline(reader)({"video": paths})["video"]
    np.testing.assert_array_equal(video.numpy(), FRAMES[1:6:2].transpose(3, 0, 1, 2))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's and MONAI's about each other, in the collate
@pytest.mark.parametrize(
    ("loader", "start"), [(DataLoader, "fork"), (TorchLoader, "fork"), (DataLoader, "spawn")]
)
def test_windows_of_all_kinds_are_batched_by_two_workers(
    tmp_path: Path, loader: type, start: str
) -> None:
    videos: list[Path | list[Path]] = [
        write_dicom(tmp_path / "clip.dcm"),
        write_video(tmp_path / "clip.mp4", FRAMES, "libx264"),
        series(tmp_path, FRAMES[:8]),
        write_video(tmp_path / "clip.mpg", FRAMES, "mpeg2video"),
    ]
    data = MonaiDataset([{"video": each} for each in videos], pipeline(CineReader(num_frames=8)))
    batches = list(loader(data, batch_size=2, num_workers=2, multiprocessing_context=start))
    assert [tuple(batch["video"].shape) for batch in batches] == [(2, 3, 8, 48, 64)] * 2
    for batch in batches:
        np.testing.assert_array_equal(batch["video"][0], FRAMES[:8].transpose(3, 0, 1, 2))


def test_suffixes() -> None:
    assert CineReader().verify_suffix("a.dcm")
    assert CineReader().verify_suffix(["a.MP4", Path("b.gif"), "c_001.png"])
    assert not CineReader().verify_suffix("a.nii.gz")


def test_it_travels_to_workers(tmp_path: Path) -> None:
    reader = pickle.loads(pickle.dumps(CineReader(start_frame=2, num_frames=3)))
    clip = reader.read(str(write_dicom(tmp_path / "clip.dcm")))
    np.testing.assert_array_equal(clip.frames_THWC, FRAMES[2:5])

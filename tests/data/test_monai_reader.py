"""The reader inside MONAI's own transforms and loader."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

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


@pytest.mark.filterwarnings("ignore")  # LoadImaged builds all of MONAI's readers beside ours
def test_load_imaged_gives_channel_first_frames(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "clip.dcm")
    video = pipeline(CineReader())({"video": path})["video"]
    np.testing.assert_array_equal(video.numpy(), FRAMES.transpose(3, 0, 1, 2))
    assert video.meta["fps"] == 25.0


@pytest.mark.filterwarnings("ignore")  # torch's and MONAI's about each other, in the collate
def test_windows_of_different_files_are_batched(tmp_path: Path) -> None:
    paths = [
        write_dicom(tmp_path / "clip.dcm"),
        write_video(tmp_path / "clip.mp4", FRAMES, "libx264"),
    ]
    data = MonaiDataset([{"video": path} for path in paths], pipeline(CineReader(num_frames=8)))
    batch = next(iter(DataLoader(data, batch_size=2)))["video"]
    assert batch.shape == (2, 3, 8, 48, 64)
    np.testing.assert_array_equal(batch[0].numpy(), FRAMES[:8].transpose(3, 0, 1, 2))


def test_suffixes_and_several_files() -> None:
    assert CineReader().verify_suffix("a.dcm")
    assert CineReader().verify_suffix(["a.MP4", Path("b.gif")])
    assert not CineReader().verify_suffix("a.nii.gz")
    with pytest.raises(ValueError, match="2 files for one clip"):
        CineReader().read(["a.mp4", "b.mp4"])

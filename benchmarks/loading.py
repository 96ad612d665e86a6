"""Time how fast clips reach the trainer: ``python benchmarks/loading.py``.

Windows of 16 frames at random times and of random files, through torch's DataLoader with 1 to
4 workers:

- ``whole file``: the published FEAT code's way. Every clip decodes its whole video, and then
  takes a window of it;
- ``window``: :func:`feat_fed.data.read_clip`, which decodes what the window needs;
- ``latents``: windows of the site's latent store, decoded and encoded once before.

The first two end with pixels in [-1, 1] that a codec has still to encode, for every clip in
every step; the third ends with latents. Files are drawn, not recorded: echo phantoms as JPEG
baseline in DICOM and as H.264 in mp4. What a clip costs is counted in seconds by the clock,
since workers' processor time is not the loop's, so a quiet machine is needed.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import av
import numpy as np
import pydicom
from timing import header, parse, parser, write_report
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from feat_fed.codec import LatentStore, LatentWindows, build_codec, prepare
from feat_fed.config import ClipConfig, CodecConfig
from feat_fed.data import ClipEntry, read_clip
from feat_fed.data.frames import square_video
from feat_fed.data.phantoms import Shape, echo_clip
from feat_fed.data.synthetic import write_dicom_jpeg, write_mp4

Reader = Callable[[Path, int, int], np.ndarray]
"""A file, the first frame and how many, to (T, H, W, C)."""

WORKERS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Size:
    """The files and what is asked of them."""

    files: int
    source_frames: int
    source_px: int
    clips: ClipConfig
    wanted: int


FULL = Size(6, 160, 320, ClipConfig(frames=16, size_px=128), wanted=48)
QUICK = Size(2, 24, 64, ClipConfig(frames=4, size_px=32), wanted=8)


class Windows(Dataset[Tensor]):
    """Windows at times and of files that their number decides."""

    def __init__(self, files: Sequence[Path], size: Size, read: Reader) -> None:
        self._files, self._size, self._read = files, size, read

    def __len__(self) -> int:
        return self._size.wanted

    def __getitem__(self, index: int) -> Tensor:
        file, start = drawn(index, len(self._files), self._size)
        frames = self._read(self._files[file], start, self._size.clips.frames)
        return square_video(frames, size_px=self._size.clips.size_px)


class StoredWindows(Dataset[Tensor]):
    """As many windows of stored latents, drawn as the trainer draws them."""

    def __init__(self, windows: LatentWindows, size: Size) -> None:
        self._windows, self._size = windows, size

    def __len__(self) -> int:
        return self._size.wanted

    def __getitem__(self, index: int) -> Tensor:
        return self._windows.sample(0, index)


def drawn(index: int, files: int, size: Size) -> tuple[int, int]:
    """Return which file and which first frame clip number ``index`` is."""
    rng = np.random.default_rng(index)
    return int(rng.integers(files)), int(rng.integers(size.source_frames - size.clips.frames + 1))


def whole_mp4(path: Path, start: int, frames: int) -> np.ndarray:
    """Decode every frame, and take some."""
    with av.open(str(path)) as container:
        video = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(video)[start : start + frames]


def whole_dicom(path: Path, start: int, frames: int) -> np.ndarray:
    """Decode every frame, and take some."""
    video: np.ndarray = pydicom.dcmread(path).pixel_array
    return video[start : start + frames]


def window(path: Path, start: int, frames: int) -> np.ndarray:
    """Decode what is wanted."""
    return read_clip(path, start_frame=start, num_frames=frames).frames_THWC


def write_files(folder: Path, size: Size) -> dict[str, list[Path]]:
    """Draw the same clips in both formats."""
    found: dict[str, list[Path]] = {"DICOM, JPEG": [], "mp4, H.264": []}
    for index in range(size.files):
        shape = Shape(frames=size.source_frames, size_px=size.source_px, fps=30.0)
        video = echo_clip(shape, gain=1.0, rng=np.random.default_rng(index))
        for (_, files), write, suffix in zip(
            found.items(), (write_dicom_jpeg, write_mp4), (".dcm", ".mp4"), strict=True
        ):
            files.append(folder / f"{index}{suffix}")
            write(files[-1], video, 30.0, f"P{index}")
    return found


def stored(files: Sequence[Path], folder: Path, size: Size) -> tuple[LatentWindows, float]:
    """Fill a latent store, and return its windows and how long that took in seconds."""
    edge = size.source_px
    entries = [
        ClipEntry(
            source=(path,),
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            patient=f"{index:064x}",
            num_frames=size.source_frames,
            height_px=edge,
            width_px=edge,
            fps=30.0,
        )
        for index, path in enumerate(files)
    ]
    codec = build_codec(CodecConfig())
    started = time.perf_counter()
    made = prepare(entries, store=LatentStore(folder), codec=codec, clips=size.clips)
    return LatentWindows(made, codec=codec, clips=size.clips), time.perf_counter() - started


def clips_a_sec(dataset: Dataset[Tensor], size: Size, workers: int) -> float:
    """Read all windows once, the workers' start not counted, and return the rate."""
    loader = DataLoader(
        dataset, batch_size=4, num_workers=workers, persistent_workers=True, shuffle=False
    )
    next(iter(loader))  # starts the workers, which live on
    started = time.perf_counter()
    clips = sum(len(batch) for batch in loader)
    return clips / (time.perf_counter() - started)


def main() -> None:
    """Measure, print, and write what was found."""
    options = parser(__doc__, runs=3)
    options.add_argument("--quick", action="store_true", help="small files; shows that it runs")
    chosen = parse(options)
    size = QUICK if chosen.quick else FULL
    warnings.filterwarnings("ignore", "This DataLoader will create")  # more than cores: on purpose
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for source, files in write_files(folder, size).items():
            latents, prepare_sec = stored(files, folder / "store" / source, size)
            whole = whole_dicom if "DICOM" in source else whole_mp4
            ways: dict[str, Dataset[Tensor]] = {
                "whole file": Windows(files, size, whole),
                "window": Windows(files, size, window),
                "latents": StoredWindows(latents, size),
            }
            results += [
                {"source": source, "prepare_sec": prepare_sec, **each}
                for each in measure(source, ways, size, chosen.runs)
            ]
    write_report(chosen.out, {**header("cpu"), "quick": chosen.quick, "results": results})


def measure(
    source: str, ways: dict[str, Dataset[Tensor]], size: Size, runs: int
) -> list[dict[str, object]]:
    """Let the ways take turns for each number of workers; print and return clips a second."""
    print(f"\n{source}: {size.files} files of {size.source_frames} frames, {size.source_px} px")
    found: list[dict[str, object]] = []
    for workers in WORKERS:
        turns = [
            {way: clips_a_sec(each, size, workers) for way, each in ways.items()}
            for _ in range(runs)
        ]
        for way in ways:
            rate = median(turn[way] for turn in turns)
            gain = median(turn[way] / turn["whole file"] for turn in turns)
            print(f"  {workers} workers  {way:12} {rate:10.1f} clips/s {gain:8.1f} x whole file")
            found.append(
                {"workers": workers, "way": way, "clips_a_sec": rate, "over_whole_file": gain}
            )
    return found


if __name__ == "__main__":
    main()

"""Generated clips as files that people look at: a film, a moving image, a contact sheet.

Shapes: N clips, T frames, H height, W width, C the three colours.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from feat_fed.atomic import atomic_path
from feat_fed.report.run_store import SampleFiles

UInt8Array = NDArray[np.uint8]

_MAX_CLIPS = 16
_SHEET_FRAMES = 8
_SMALLEST_PX, _GIF_PX = 128, 160
_GAP_PX = 4
_PAPER = 255
_GIF_TICK_MS = 10
_GIF_FASTEST_MS = 20
"""Browsers slow a shorter frame down to 100 ms."""


def write_samples(folder: Path, clips_NTHWC: UInt8Array, *, fps: float) -> SampleFiles:
    """Write the first 16 clips side by side as MP4 and GIF, and as a sheet of stills.

    Parameters
    ----------
    folder
        Where the three files of :class:`SampleFiles` go; they replace older ones.
    clips_NTHWC
        RGB frames, uint8, at least one of each dimension.
    fps
        Frames a second of playing; the GIF keeps its whole length to 10 ms, up to 50 fps.

    Raises
    ------
    ValueError
        The array is no such batch of clips, or ``fps`` is not above 0.
    """
    _check(clips_NTHWC, fps)
    clips_NTHWC = clips_NTHWC[:_MAX_CLIPS]
    folder.mkdir(parents=True, exist_ok=True)
    files = SampleFiles.under(folder)
    longest_px = max(clips_NTHWC.shape[2:4])
    viewed_px = max(longest_px, _SMALLEST_PX)
    film = _tile(_resize(clips_NTHWC, viewed_px / longest_px))
    preview = _tile(_resize(clips_NTHWC, min(viewed_px, _GIF_PX) / longest_px))
    with atomic_path(files.mp4) as part:
        _write_mp4(part, film, fps)
    with atomic_path(files.gif) as part:
        _write_gif(part, preview, fps)
    with atomic_path(files.contact_sheet) as part:
        Image.fromarray(_contact_sheet(clips_NTHWC)).save(part, optimize=True)
    return files


def write_clips(folder: Path, clips_NTHWC: UInt8Array, *, fps: float) -> None:
    """Write each clip into an MP4 of its own, ``clip-0000.mp4`` and on; older ones are removed.

    A side that is odd gets a white line more.

    Raises
    ------
    ValueError
        As :func:`write_samples` does.
    """
    _check(clips_NTHWC, fps)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("clip-[0-9][0-9][0-9][0-9].mp4"):
        old.unlink()
    for index in range(len(clips_NTHWC)):
        with atomic_path(folder / f"clip-{index:04d}.mp4", durable=False) as part:
            _write_mp4(part, _tile(clips_NTHWC[index : index + 1]), fps)


def _check(clips_NTHWC: UInt8Array, fps: float) -> None:
    shape = clips_NTHWC.shape
    if len(shape) != 5 or shape[-1] != 3 or 0 in shape or clips_NTHWC.dtype != np.uint8:
        raise ValueError(
            f"clips are {clips_NTHWC.dtype} of shape {shape}; give uint8 of shape (N, T, H, W, 3)"
        )
    if not fps > 0:
        raise ValueError(f"fps is {fps}; give a number above 0")


def _resize(clips_NTHWC: UInt8Array, scale: float) -> UInt8Array:
    if scale == 1:
        return clips_NTHWC
    clips, frames, height, width, _ = clips_NTHWC.shape
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    flat = clips_NTHWC.reshape(-1, height, width, 3)
    resized = [np.asarray(Image.fromarray(f).resize(size, Image.Resampling.BICUBIC)) for f in flat]
    return np.stack(resized).reshape(clips, frames, size[1], size[0], 3)


def _tile(clips_NTHWC: UInt8Array) -> UInt8Array:
    """Lay N clips on white in a grid a little wider than high, as frames (T, H', W', 3)."""
    clips, frames, height, width, _ = clips_NTHWC.shape
    columns = min(clips, int(np.ceil(np.sqrt(2 * clips * height / width))))
    rows = -(-clips // columns)
    cell_height, cell_width = height + _GAP_PX, width + _GAP_PX
    sides = rows * cell_height - _GAP_PX, columns * cell_width - _GAP_PX
    # H.264 with 4:2:0 colours asks for even sides.
    even_height, even_width = (side + side % 2 for side in sides)
    canvas = np.full((frames, even_height, even_width, 3), _PAPER, dtype=np.uint8)
    for index, clip_THWC in enumerate(clips_NTHWC):
        top, left = index // columns * cell_height, index % columns * cell_width
        canvas[:, top : top + height, left : left + width] = clip_THWC
    return canvas


def _contact_sheet(clips_NTHWC: UInt8Array) -> UInt8Array:
    """Put a clip in a row and its evenly spaced frames, first and last among them, in columns."""
    frames = clips_NTHWC.shape[1]
    chosen = np.linspace(0, frames - 1, min(frames, _SHEET_FRAMES)).round().astype(int)
    rows = _resize(clips_NTHWC[:, chosen], max(1, _SMALLEST_PX / max(clips_NTHWC.shape[2:4])))
    gap = ((0, 0), (0, 0), (0, _GAP_PX), (0, _GAP_PX), (0, 0))
    padded = np.pad(rows, gap, constant_values=_PAPER)
    clips, columns, height, width, _ = padded.shape
    sheet = padded.transpose(0, 2, 1, 3, 4).reshape(clips * height, columns * width, 3)
    return sheet[:-_GAP_PX, :-_GAP_PX]


def _write_mp4(path: Path, frames_THWC: UInt8Array, fps: float) -> None:
    rate = Fraction(fps).limit_denominator(1001)
    with av.open(path, "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("h264", rate=rate, options={"crf": "18"})
        stream.height, stream.width = frames_THWC.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for image in frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def _write_gif(path: Path, frames_THWC: UInt8Array, fps: float) -> None:
    # One palette for all frames, and no dithering: still parts of the picture stay still.
    every_frame = Image.fromarray(frames_THWC.reshape(-1, *frames_THWC.shape[2:]))
    palette = every_frame.quantize(256, Image.Quantize.MEDIANCUT)
    first, *rest = (
        Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
        for frame in frames_THWC
    )
    ends_ms = np.arange(1, len(frames_THWC) + 1) * 1000 / fps
    ticks = np.diff(np.round(ends_ms / _GIF_TICK_MS), prepend=0)
    duration = [max(int(each) * _GIF_TICK_MS, _GIF_FASTEST_MS) for each in ticks]
    first.save(path, save_all=True, append_images=rest, duration=duration, loop=0, disposal=1)

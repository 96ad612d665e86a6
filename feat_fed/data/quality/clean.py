"""What of a frame may be seen: the crop and the mask.

Legend: F frames, H and W height and width of the source, h and w those of the field.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from feat_fed.data.reading.clip import Box


def cleaned(
    frames_FHWC: npt.NDArray[np.uint8], *, field: Box | None, overlays: Sequence[Box]
) -> npt.NDArray[np.uint8]:
    """Blacken the overlays and crop to the field; the input is left as it is.

    Parameters
    ----------
    field
        In pixels of the source; all of the frame where ``None``.
    overlays
        In pixels of the source too, not of the field.

    Returns
    -------
    NDArray
        ``frames_FhwC``.

    Raises
    ------
    ValueError
        When nothing of the field lies on the frame.
    """
    height, width = frames_FHWC.shape[1:3]
    field = (field or Box(0, 0, width, height)).clamped(height, width)
    if not field.area_px:
        raise ValueError(f"field {field} lies outside of frames of {width} x {height} px")
    frames_FhwC = frames_FHWC[:, field.top : field.bottom, field.left : field.right].copy()
    for overlay in overlays:
        box = Box(
            overlay.left - field.left,
            overlay.top - field.top,
            overlay.right - field.left,
            overlay.bottom - field.top,
        ).clamped(*frames_FhwC.shape[1:3])
        if box.area_px:
            frames_FhwC[:, box.top : box.bottom, box.left : box.right] = 0
    return frames_FhwC

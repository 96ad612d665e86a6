"""A training clip's whole latent, read in parts, as it is and mirrored.

Legend: F frames, C channels, h and w of the latent.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from feat_fed.codec.base import flip_latent
from feat_fed.codec.prepare import LatentClip


@dataclass(frozen=True)
class WholeClip:
    """One clip.

    Parameters
    ----------
    flip_signs
        As of :class:`~feat_fed.codec.base.VideoCodec`.
    flips
        Whether the clip's mirror image is trained on, too.
    """

    clip: LatentClip
    flip_signs: tuple[int, ...] | None
    flips: bool

    @property
    def num_frames(self) -> int:
        """Of the latent."""
        return self.clip.num_frames

    @property
    def mirrors(self) -> tuple[bool, ...]:
        """Which images there are: not mirrored, mirrored."""
        return (False, True) if self.flips else (False,)

    @property
    def source_sha256(self) -> str:
        """Of the file that was encoded."""
        return self.clip.latent.path.name.split("-")[0]

    def read(self, start_frame: int, stop_frame: int, *, mirrored: bool) -> Tensor:
        """Return the means of some frames, ``z_FChw``.

        Raises
        ------
        DataError
            When the file has gone or is damaged.
        """
        encoded = mirrored and self.flip_signs is None
        z_FChw, _ = self.clip.latent.read(start_frame, stop_frame, mirrored=encoded)
        return flip_latent(z_FChw, self.flip_signs) if mirrored and self.flip_signs else z_FChw

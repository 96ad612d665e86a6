"""How the clips in a run's ``samples`` were drawn, for the report to say."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from feat_fed.atomic import write_bytes_atomically
from feat_fed.config import SamplerConfig
from feat_fed.config.base import StrictModel
from feat_fed.report.run_store import SampleFiles
from feat_fed.report.samples import write_samples

_NAME = "drawn.json"


class DrawnClips(StrictModel):
    """Of which weights, and by which sampler."""

    round: int = Field(ge=0, description="whose averaged weights drew them; 0 is untrained")
    sampler: SamplerConfig

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Return what is known of the clips in ``folder``; None where nothing can be read."""
        try:
            return cls.model_validate_json((folder / _NAME).read_bytes())
        except (OSError, ValidationError):
            return None


def write_drawn(
    folder: Path,
    clips_NTHWC: NDArray[np.uint8],
    round_number: int | None,
    sampler: SamplerConfig,
    *,
    fps: float,
) -> SampleFiles:
    """Write clips as :func:`write_samples` does, and beside them how they were drawn.

    ``round_number`` is the round whose averaged weights drew them.
    """
    # Removed first: a kill in between leaves clips of which nothing is said, and nothing wrong.
    (folder / _NAME).unlink(missing_ok=True)
    files = write_samples(folder, clips_NTHWC, fps=fps)
    drawn = DrawnClips(round=round_number or 0, sampler=sampler)
    write_bytes_atomically(folder / _NAME, drawn.model_dump_json(indent=1).encode())
    return files

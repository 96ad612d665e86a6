"""The clips of a release: drawn once, kept as latents, shown where they are let through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from feat_fed.cli.console import console
from feat_fed.report.run_store import RunStore

if TYPE_CHECKING:
    from torch import Tensor

    from feat_fed.pipeline import FEATPipeline
    from feat_fed_server.release_folder import ClipsHeader, ReleaseFolder


@dataclass(frozen=True)
class Drawn:
    """What the sites are asked about, and what draws and decodes it."""

    pipeline: FEATPipeline
    z_NFChw: Tensor
    header: ClipsHeader

    @property
    def seeds(self) -> range:
        """One a clip."""
        sampler = self.header.sampler
        return range(sampler.seed, sampler.seed + sampler.num_clips)

    @classmethod
    def of(
        cls,
        store: RunStore,
        folder: ReleaseFolder,
        header: ClipsHeader,
        codec_weights: Path | None,
    ) -> Drawn:
        """Draw the clips' latents, or find those that were drawn before.

        Raises
        ------
        RunError
            If the run has no weights of the round.
        ConfigError, CheckpointError
            If the codec's weights, or the round's, are absent or damaged.
        """
        import torch

        from feat_fed.generate import run_pipeline

        sampler, number = header.sampler, header.round
        pipeline = run_pipeline(store, sampler, round_number=number, codec_weights=codec_weights)
        found = folder.latents_of(header)
        if found is None:
            pipeline.to("cuda" if torch.cuda.is_available() else "cpu")
            with console.status(f"drawing {sampler.num_clips} clips from round {number}"):
                z_NFChw = pipeline(
                    seeds=range(sampler.seed, sampler.seed + sampler.num_clips),
                    num_inference_steps=sampler.steps,
                    output_type="latent",
                    **sampler.model_dump(exclude={"kind", "steps", "num_clips", "seed"}),
                ).frames
            found = torch.as_tensor(z_NFChw)
            folder.write_latents(found, header)
        return cls(pipeline, found, header)

    def write_samples(self, folder: Path, places: Sequence[int]) -> None:
        """Write a folder a clip, by the number that release.json names."""
        import numpy as np

        from feat_fed.generate import DISPLAY_FPS
        from feat_fed.report import write_samples

        video_NTHWC = self.pipeline.decode(self.z_NFChw[list(places)]).movedim(2, -1)
        frames = np.round(video_NTHWC.cpu().numpy() * 255).astype(np.uint8)
        for place, clip_THWC in zip(places, frames, strict=True):
            write_samples(folder / f"clip-{place + 1:04d}", clip_THWC[None], fps=DISPLAY_FPS)

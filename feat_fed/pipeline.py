"""A network, a scheduler and a codec that make clips together, used as diffusers' pipelines are.

Shapes: N clips, F frames, C channels, H and W of pixels or latent pixels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from feat_fed.codec import build_codec
from feat_fed.config import CodecConfig, SamplerConfig, validate
from feat_fed.diffusion import sample_latents, scheduler_diffusion
from feat_fed.errors import CheckpointError, ConfigError
from feat_fed.model import FEAT
from feat_fed.pipeline_folder import ClipSize, PipelineParts, read_pipeline, write_pipeline

OutputType = Literal["np", "pt", "latent"]
Generators = torch.Generator | Sequence[torch.Generator]


@dataclass(frozen=True)
class FEATPipelineOutput:
    """What one call gives.

    Attributes
    ----------
    frames
        ``np``: (N, F, H, W, 3) in [0, 1], float32; ``pt``: the same as a tensor
        (N, F, 3, H, W); ``latent``: the latents (N, F, C, H, W). Tensors are on the CPU.
    """

    frames: NDArray[np.float32] | Tensor


class FEATPipeline:
    """Draw clips from a network.

    Parameters
    ----------
    model
        The network.
    scheduler
        One of diffusers: DDPM (with learned variance), DDIM, DPM-Solver++ or UniPC.
    codec
        The configuration of the codec whose latents the network makes; None if it is none of
        feat-fed's: only latents can be drawn then.
    size
        Of a clip about which a call says nothing else.
    codec_name
        What to call the codec where ``codec`` is None.
    codec_weights
        File or folder of a learned codec, in place of ``codec.weights``.

    Raises
    ------
    ConfigError
        If the parts do not fit each other.
    """

    def __init__(
        self,
        model: FEAT,
        scheduler: Any,  # noqa: ANN401
        codec: CodecConfig | None = None,
        *,
        size: ClipSize,
        codec_name: str | None = None,
        codec_weights: Path | None = None,
    ) -> None:
        scheduler_diffusion(scheduler)
        if codec is not None and codec_weights is not None:
            codec = codec.model_copy(update={"weights": codec_weights})
        self._decoder = None if codec is None else build_codec(codec)
        channels = model.config.in_channels
        if self._decoder is not None and self._decoder.latent_channels != channels:
            raise ConfigError(
                f"the codec's latents have {self._decoder.latent_channels} channels and the "
                f"model's have {channels}; they were not made for each other"
            )
        self.model, self.scheduler, self.codec = model, scheduler, codec
        self.size, self.codec_name = size, codec_name
        self.set_progress_bar_config()

    @property
    def components(self) -> dict[str, Any]:
        """The parts, by the names under which ``__init__`` takes them."""
        return {"model": self.model, "scheduler": self.scheduler, "codec": self.codec}

    @property
    def device(self) -> torch.device:
        """Where the network is, and a learned codec."""
        return next(self.model.parameters()).device

    def to(self, device: torch.device | str) -> FEATPipeline:
        """Move the network and a learned codec; return the pipeline itself."""
        self.model.to(device)
        if self._decoder is not None:
            self._decoder.to(device)
        return self

    def set_progress_bar_config(
        self, *, disable: bool | None = None, desc: str = "sampling"
    ) -> None:
        """Say whether calls show their progress, and as what; None: on a terminal only."""
        self._bar = _Bar(disable, desc)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the parts into a folder (:mod:`feat_fed.pipeline_folder`).

        Raises
        ------
        CheckpointError
            If it cannot be written.
        """
        parts = PipelineParts(self.model, self.scheduler, self.codec, self.size, self.codec_name)
        write_pipeline(Path(folder), parts)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> FEATPipeline:
        """Return the pipeline of a folder; only folders of this machine are read.

        Raises
        ------
        CheckpointError
            If the folder is absent, damaged, or of something else.
        """
        it = read_pipeline(Path(folder))
        try:
            return cls(it.model, it.scheduler, it.codec, size=it.size, codec_name=it.codec_name)
        except ConfigError as error:
            raise CheckpointError(f"{folder} is no pipeline: {error}") from None

    @torch.no_grad()
    def __call__(
        self,
        *,
        num_videos: int | None = None,
        num_inference_steps: int = 50,
        seeds: Sequence[int] | None = None,
        generator: Generators | None = None,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        label: int | None = None,
        guidance_scale: float = 1.0,
        perturbed_scale: float = 0.0,
        perturbed_trios: Sequence[int] = (),
        precision: Literal["fp32", "bf16"] = "fp32",
        batch_size: int = 8,
        output_type: OutputType = "np",
    ) -> FEATPipelineOutput:
        """Draw clips.

        Parameters
        ----------
        num_videos
            As many as there are seeds or generators if None; one without them.
        seeds
            One a clip. A seed gives the same clip, to rounding, whatever the batch and the
            device.
        generator
            Of torch, one for all clips or one for each, from which the seeds are drawn;
            torch's own without either.
        num_frames, height, width
            In place of those of ``size``.
        label, guidance_scale, perturbed_scale, perturbed_trios, precision
            As in :class:`~feat_fed.config.SamplerConfig`.
        batch_size
            Clips that go through the network together.
        output_type
            See :class:`FEATPipelineOutput`.

        Raises
        ------
        ConfigError
            If an argument does not fit the others, the model or the codec.
        """
        self._refuse_output(output_type)
        options = {
            "steps": num_inference_steps,
            "label": label,
            "guidance_scale": guidance_scale,
            "perturbed_scale": perturbed_scale,
            "perturbed_trios": tuple(perturbed_trios),
            "precision": precision,
        }
        with self._bar.shown() as progress:
            z_NFCHW = sample_latents(
                self.model,
                shape_FCHW=self._latent_shape(num_frames, height, width),
                sampler=validate(SamplerConfig, options, "this call"),
                diffusion=scheduler_diffusion(self.scheduler),
                scheduler=self.scheduler,
                seeds=_seeds(num_videos, seeds, generator),
                device=self.device,
                batch_size=batch_size,
                progress=progress,
            )
        if output_type == "latent" or self._decoder is None:
            return FEATPipelineOutput(z_NFCHW)
        video_NFCHW = self.decode(z_NFCHW, batch_size=batch_size)
        if output_type == "pt":
            return FEATPipelineOutput(video_NFCHW)
        return FEATPipelineOutput(video_NFCHW.movedim(2, -1).contiguous().numpy())

    @torch.no_grad()
    def decode(self, z_NFCHW: Tensor, *, batch_size: int = 8) -> Tensor:
        """Return the clips of latents, (N, F, 3, H, W) in [0, 1].

        Raises
        ------
        ConfigError
            If the pipeline has no codec.
        """
        self._refuse_output("pt")
        assert self._decoder is not None
        decoded = [self._decoder.decode(z) for z in torch.split(z_NFCHW, batch_size)]
        return (torch.cat(decoded).clamp(-1, 1) + 1) / 2

    def _refuse_output(self, output_type: str) -> None:
        if output_type not in ("np", "pt", "latent"):
            raise ConfigError(f"output_type is {output_type!r}; take 'np', 'pt' or 'latent'")
        if output_type != "latent" and self._decoder is None:
            raise ConfigError(
                f"output_type is {output_type!r}, but this pipeline has no codec: its latents are "
                f"of {self.codec_name or 'one that it does not name'}; take "
                "output_type='latent' and decode them with that"
            )

    def _latent_shape(
        self, num_frames: int | None, height: int | None, width: int | None
    ) -> tuple[int, int, int, int]:
        asked = {"num_frames": num_frames, "height": height, "width": width}
        fields = self.size.model_dump() | {k: v for k, v in asked.items() if v is not None}
        size = validate(ClipSize, fields, "this call")
        channels, patch = self.model.config.in_channels, self.model.config.patch_size
        shape = (size.num_frames, channels, size.height, size.width)
        if self._decoder is not None:
            shape = self._decoder.latent_shape(size.num_frames, size.height, size.width)
        if any(side % patch for side in shape[2:]):
            raise ConfigError(
                f"latents of {shape[2]} x {shape[3]} do not divide into the model's patches of "
                f"{patch} x {patch}; choose another height and width"
            )
        return shape


@dataclass(frozen=True)
class _Bar:
    """How a call shows its progress."""

    disable: bool | None
    desc: str

    @contextmanager
    def shown(self) -> Iterator[Callable[[int, int], None]]:
        console = Console(stderr=True)
        disable = not console.is_terminal if self.disable is None else self.disable
        with Progress(console=console, disable=disable) as bars:
            task = bars.add_task(self.desc)
            yield lambda done, total: bars.update(task, completed=done, total=total)


def _seeds(
    num_videos: int | None, seeds: Sequence[int] | None, generator: Generators | None
) -> Sequence[int]:
    """Return one seed a clip."""
    if seeds is not None and generator is not None:
        raise ConfigError("seeds and generator are both given; leave one out")
    several = seeds if seeds is not None else generator
    given = len(several) if isinstance(several, Sequence) else None
    wanted = (1 if given is None else given) if num_videos is None else num_videos
    if wanted < 1 or given not in (None, wanted):
        raise ConfigError(
            f"num_videos is {num_videos} and there are {given} seeds or generators; "
            "take at least one clip, and one of them a clip"
        )
    if seeds is not None:
        return seeds
    if isinstance(generator, Sequence):
        return [seed for each in generator for seed in _draw_seeds(1, each)]
    return _draw_seeds(wanted, generator)


def _draw_seeds(number: int, generator: torch.Generator | None) -> list[int]:
    device = "cpu" if generator is None else generator.device
    drawn: list[int] = torch.randint(
        2**63 - 1, (number,), generator=generator, device=device
    ).tolist()
    return drawn

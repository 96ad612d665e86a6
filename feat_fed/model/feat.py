"""FEAT: a video diffusion network that attends over space, time and channels in turn.

Chen et al., *FEAT: Full-Dimensional Efficient Attention Transformer for Medical Video
Generation* (arXiv 2506.04956). No positional embedding: any resolution, any length.

Shapes: B batch, F frames, C latent channels, H and W latent pixels; tokens inside are
(B, F, H/p, W/p, hidden) with p the patch size.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from feat_fed.config import FEATConfig
from feat_fed.model.blocks import FinalLayer, Trio
from feat_fed.model.layers import LabelEmbedder, TimestepEmbedder, xavier_linear


class FEAT(nn.Module):
    """Predict noise and variance of a noisy latent clip.

    Parameters
    ----------
    config
        The network's shape; also kept as ``config``.

    Attributes
    ----------
    gradient_checkpointing : bool
        Recompute each trio in the backward pass instead of keeping its activations.
    """

    def __init__(self, config: FEATConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        channels, p = config.in_channels, config.patch_size
        self.patch = xavier_linear(channels * p * p, config.hidden_size)
        self.time = TimestepEmbedder(config.hidden_size)
        classes = config.num_classes
        self.label = LabelEmbedder(classes, config.hidden_size) if classes else None
        self.trios = nn.ModuleList(Trio(config) for _ in range(config.num_trios))
        self.final = FinalLayer(config.hidden_size, 2 * channels * p * p)
        self.skip = nn.Linear(channels, 2 * channels)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write ``config.json`` and ``diffusion_pytorch_model.safetensors`` into a folder.

        Raises
        ------
        CheckpointError
            If they cannot be written.
        """
        # That module knows this one.
        from feat_fed.model.pretrained import save_model

        save_model(self, Path(folder))

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> FEAT:
        """Return the network of :meth:`save_pretrained`, or of a pipeline's folder.

        It is in evaluation mode. Only folders of this machine are read.

        Raises
        ------
        CheckpointError
            If the folder is absent, damaged, or of something else.
        """
        from feat_fed.model.pretrained import load_model

        return load_model(Path(folder))

    def forward(
        self,
        z_BFCHW: Tensor,
        t_B: Tensor,
        labels: Tensor | None = None,
        num_image_frames: int = 0,
        *,
        identity_trios: Collection[int] = (),
    ) -> Tensor:
        """Return (B, F, 2C, H, W): the prediction, epsilon or v, then the variance logits.

        Parameters
        ----------
        z_BFCHW
            Noisy latents at timestep ``t_B`` (B,), counted from 0.
        labels
            A class a clip (B,), int64, from 0; ``num_classes`` is the null class, which None
            stands for. A network without classes takes None only. Their range is checked on
            the CPU alone, because looking at a value would stall another device, and not in
            compiled code, which it would break in two.
        num_image_frames
            Number of last frames that are single images: nothing moves between them and
            the video.
        identity_trios
            Trios, from 0, in which no WKV mixes tokens: each value stays where it is.

        Raises
        ------
        ValueError
            If an argument does not fit the network.
        """
        self._check(z_BFCHW, t_B, num_image_frames, identity_trios)
        p = self.config.patch_size
        patches = rearrange(z_BFCHW, "b f c (h p) (w q) -> b f h w (c p q)", p=p, q=p)
        # The residual stream keeps the input's precision, also under autocast.
        guide = self.patch(patches).to(z_BFCHW.dtype)
        time_BC = self._condition(t_B, labels, z_BFCHW.dtype)
        x = guide
        for index, trio in enumerate(self.trios):
            arguments = (x, time_BC, guide, num_image_frames, index in identity_trios)
            if self.gradient_checkpointing and self.training:
                x = checkpoint(trio, *arguments, use_reentrant=False)
            else:
                x = trio(*arguments)
        patches = self.final(x, time_BC).to(z_BFCHW.dtype)
        out: Tensor = rearrange(patches, "b f h w (p q c) -> b f c (h p) (w q)", p=p, q=p)
        skipped: Tensor = self.skip(z_BFCHW.movedim(2, -1))
        return out + skipped.movedim(-1, 2)

    def _condition(self, t_B: Tensor, labels_B: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Return the embedding (B, C) of the timesteps, with that of the labels added."""
        time_BC: Tensor = self.time(t_B, dtype)
        if self.label is None:
            if labels_B is not None:
                raise ValueError("this model was built without class labels; pass labels=None")
            return time_BC
        if labels_B is None:
            labels_B = torch.full_like(t_B, self.label.null, dtype=torch.long)
        _check_labels(labels_B, t_B.shape, self.label.null)
        conditioned: Tensor = time_BC + self.label(labels_B)
        return conditioned

    def _check(
        self,
        z_BFCHW: Tensor,
        t_B: Tensor,
        num_image_frames: int,
        identity_trios: Collection[int],
    ) -> None:
        channels, p = self.config.in_channels, self.config.patch_size
        if z_BFCHW.ndim != 5 or 0 in z_BFCHW.shape:
            raise ValueError(f"latents are (B, F, C, H, W); these are {tuple(z_BFCHW.shape)}")
        B, F, C, H, W = z_BFCHW.shape
        if channels != C:
            raise ValueError(f"latents have {C} channels; this model takes {channels}")
        if H % p or W % p:
            raise ValueError(f"latents of {H}x{W} do not divide into patches of {p}x{p}")
        if t_B.shape != (B,):
            raise ValueError(
                f"t has shape {tuple(t_B.shape)}; it needs one timestep a clip, ({B},)"
            )
        if not 0 <= num_image_frames < F:
            raise ValueError(
                f"num_image_frames is {num_image_frames}; it must leave at least one of the "
                f"{F} frames to the video"
            )
        beyond = [each for each in identity_trios if not 0 <= each < len(self.trios)]
        if beyond:
            raise ValueError(
                f"identity_trios holds {beyond[0]}; this model's trios are 0 to "
                f"{len(self.trios) - 1}"
            )


def _check_labels(labels_B: Tensor, shape: torch.Size, null: int) -> None:
    if labels_B.shape != shape or labels_B.dtype != torch.long:
        raise ValueError(
            f"labels are {labels_B.dtype} {tuple(labels_B.shape)}; they need one int64 class a "
            f"clip, {tuple(shape)}"
        )
    if labels_B.device.type != "cpu" or torch.compiler.is_compiling():
        return
    if not bool(((labels_B >= 0) & (labels_B <= null)).all()):
        raise ValueError(
            f"labels reach from {int(labels_B.min())} to {int(labels_B.max())}; this model's "
            f"classes are 0 to {null - 1}, and {null} is the null class"
        )

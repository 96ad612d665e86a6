"""FEAT: a video diffusion network that attends over space, time and channels in turn.

Chen et al., *FEAT: Full-Dimensional Efficient Attention Transformer for Medical Video
Generation* (arXiv 2506.04956). No positional embedding: any resolution, any length.

Shapes: B batch, F frames, C latent channels, H and W latent pixels; tokens inside are
(B, F, H/p, W/p, hidden) with p the patch size.
"""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from feat_fed.config import FEATConfig
from feat_fed.model.blocks import FinalLayer, Trio
from feat_fed.model.layers import TimestepEmbedder, xavier_linear


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
        self.trios = nn.ModuleList(Trio(config) for _ in range(config.num_trios))
        self.final = FinalLayer(config.hidden_size, 2 * channels * p * p)
        self.skip = nn.Linear(channels, 2 * channels)

    def forward(
        self, z_BFCHW: Tensor, t_B: Tensor, labels: None = None, num_image_frames: int = 0
    ) -> Tensor:
        """Return (B, F, 2C, H, W): epsilon in the first C channels, variance logits in the rest.

        Parameters
        ----------
        z_BFCHW
            Noisy latents at timestep ``t_B`` (B,), counted from 0.
        labels
            Must be None: the network has no class embedding.
        num_image_frames
            Number of last frames that are single images: nothing moves between them and
            the video.

        Raises
        ------
        ValueError
            If an argument does not fit the network.
        """
        self._check(z_BFCHW, t_B, labels, num_image_frames)
        p = self.config.patch_size
        patches = rearrange(z_BFCHW, "b f c (h p) (w q) -> b f h w (c p q)", p=p, q=p)
        # The residual stream keeps the input's precision, also under autocast.
        guide = self.patch(patches).to(z_BFCHW.dtype)
        time_BC = self.time(t_B, z_BFCHW.dtype)
        x = guide
        for trio in self.trios:
            arguments = (x, time_BC, guide, num_image_frames)
            if self.gradient_checkpointing and self.training:
                x = checkpoint(trio, *arguments, use_reentrant=False)
            else:
                x = trio(*arguments)
        patches = self.final(x, time_BC).to(z_BFCHW.dtype)
        out: Tensor = rearrange(patches, "b f h w (p q c) -> b f c (h p) (w q)", p=p, q=p)
        skipped: Tensor = self.skip(z_BFCHW.movedim(2, -1))
        return out + skipped.movedim(-1, 2)

    def _check(self, z_BFCHW: Tensor, t_B: Tensor, labels: object, num_image_frames: int) -> None:
        channels, p = self.config.in_channels, self.config.patch_size
        if labels is not None:
            raise ValueError("this model was built without class labels; pass labels=None")
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

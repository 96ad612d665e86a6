"""What FEAT and its diffusion are made of (arXiv 2506.04956)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from feat_fed.config.base import StrictModel

WKVMode = Literal["paper", "published"]
Prediction = Literal["epsilon", "v"]
CodecKind = Literal["wavelet", "autoencoder-kl", "tiny", "monai-kl"]


class FEATConfig(StrictModel):
    """The network's shape; resolution and number of frames are free (no positional embedding).

    The defaults are FEAT-S on SD-VAE latents: 158,100,624 parameters as published.
    """

    in_channels: int = Field(4, ge=1, le=4096, description="latent channels")
    hidden_size: int = Field(512, ge=8, le=65_536, description="C, the width of a token")
    num_trios: int = Field(
        9,
        ge=1,
        le=1024,
        description="trios of spatial, temporal and channel block, one after the other",
    )
    num_heads: int = Field(8, ge=1, le=4096, description="heads of the channel attention")
    patch_size: int = Field(2, ge=1, le=64, description="latent pixels a side that make one token")
    mlp_ratio: float = Field(4.0, gt=0, le=64, description="width of the feed-forward over C")
    wkv: WKVMode = Field(
        "paper",
        description="`paper`: the published equation; `published`: what the released CUDA kernel "
        "computes, for released checkpoints",
    )
    num_classes: int = Field(
        0,
        ge=0,
        le=100_000,
        description="kinds of clip, numbered from 0, that a label can name; 0: unconditional",
    )

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}; "
                "choose heads that divide the width"
            )
        return self


class DiffusionConfig(StrictModel):
    """The forward process and what the network predicts of it."""

    num_timesteps: int = Field(
        1000, ge=2, le=100_000, description="T, steps of the forward process"
    )
    beta_start: float = Field(1e-4, gt=0, lt=1, description="variance of the first step's noise")
    beta_end: float = Field(0.02, gt=0, lt=1, description="betas rise linearly up to this")
    prediction: Prediction = Field(
        "epsilon",
        description="`epsilon`: the noise; `v`: sqrt(alpha_bar) epsilon - sqrt(1 - alpha_bar) z_0",
    )
    loss_weighting: Literal["uniform", "min_snr"] = Field(
        "uniform",
        description="of the squared error over timesteps; `min_snr` caps the weight, counted on "
        "z_0, at min_snr_gamma",
    )
    min_snr_gamma: float = Field(5.0, gt=0, description="cap of the signal-to-noise ratio")

    @model_validator(mode="after")
    def _betas_rise(self) -> Self:
        if self.beta_end < self.beta_start:
            raise ValueError(f"beta_end {self.beta_end} is below beta_start {self.beta_start}")
        return self


class MonaiKLConfig(StrictModel):
    """How MONAI's ``AutoencoderKL`` was built, in two dimensions, by MONAI's names and defaults.

    ``unit_range`` is the one field that MONAI leaves to whoever trains: what its numbers mean.
    """

    in_channels: Literal[1, 3] = Field(3, description="1: it sees and makes grey frames")
    channels: tuple[int, ...] = Field((32, 64, 64, 64), min_length=1, description="of each level")
    latent_channels: int = Field(3, ge=1, description="C of the latent")
    num_res_blocks: int | tuple[int, ...] = Field(2, description="of each level, or of all")
    attention_levels: tuple[bool, ...] = Field(
        (False, False, True, True), description="which levels have attention"
    )
    norm_num_groups: int = Field(32, ge=1, description="of group normalisation")
    with_encoder_nonlocal_attn: bool = Field(True, description="attention in the encoder's middle")
    with_decoder_nonlocal_attn: bool = Field(True, description="attention in the decoder's middle")
    use_convtranspose: bool = Field(
        False, description="the decoder grows by transposed convolution"
    )
    include_fc: bool = Field(True, description="attention has a layer after it")
    unit_range: bool = Field(
        False, description="whether frames go in and come out as [0, 1], and not as [-1, 1]"
    )


class CodecConfig(StrictModel):
    """The video autoencoder; the default needs no weights.

    A kind takes its own fields, of those that are not for all:

    ================== =========================================================
    ``wavelet``        ``levels``, ``detail_channels``
    ``autoencoder-kl`` ``latent_channels``, ``downscale`` and the weights' fields
    ``tiny``           the same
    ``monai-kl``       ``monai`` and the weights' fields
    ================== =========================================================

    The weights' fields are ``weights``, ``weights_sha256``, ``shift`` and ``scale``.
    """

    kind: CodecKind = Field(
        "wavelet", description="of autoencoder; the wavelet needs no weights, the others a file"
    )
    levels: int = Field(2, ge=1, le=5, description="each halves height and width")
    detail_channels: int = Field(
        3,
        ge=0,
        description="detail sub-bands of the coarsest level that are kept beside the 3 averages",
    )
    weights: Path | None = Field(
        None,
        description="file or folder on the coordinator's machine; it never travels, and a site "
        "names its own (codec_weights)",
    )
    weights_sha256: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="of the file; of a folder: `sha256sum FILES | sha256sum` inside it, FILES "
        "being those that are read, by name",
    )
    latent_channels: int | None = Field(
        None, ge=1, description="autoencoder-kl: 4 if unset; tiny: 32 if unset"
    )
    downscale: int | None = Field(
        None, ge=1, le=64, description="pixels a side of one latent pixel; 8 if unset"
    )
    monai: MonaiKLConfig | None = None
    shift: tuple[float, ...] | None = Field(
        None,
        description="what is subtracted from raw latents, for all channels or each; unset: what "
        "the weights' own configuration says, or 0",
    )
    scale: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(
        None, description="by which they are divided then; unset: likewise, or 1"
    )

    @property
    def channels(self) -> int:
        """C of the latent."""
        if self.kind == "wavelet":
            return 3 + self.detail_channels
        if self.monai:
            return self.monai.latent_channels
        return self.latent_channels or (32 if self.kind == "tiny" else 4)

    @property
    def step_px(self) -> int:
        """Pixels a side of one latent pixel."""
        if self.kind == "wavelet":
            return 1 << self.levels
        return 1 << (len(self.monai.channels) - 1) if self.monai else self.downscale or 8

    @model_validator(mode="after")
    def _fields_are_the_kinds(self) -> Self:
        for name, field in type(self).model_fields.items():
            if name not in {"kind", *_CODEC_FIELDS[self.kind]} and (
                getattr(self, name) != field.default
            ):
                raise ValueError(
                    f"{name} is no field of kind {self.kind} (which has "
                    f"{', '.join(_CODEC_FIELDS[self.kind])}); leave it out"
                )
        needed = {"wavelet": (), "monai-kl": ("weights_sha256", "monai")}
        for name in needed.get(self.kind, ("weights_sha256",)):
            if getattr(self, name) is None:
                raise ValueError(f"{name} is unset, and kind {self.kind} needs it")
        return self

    @model_validator(mode="after")
    def _scales_fit(self) -> Self:
        for name in ("shift", "scale"):
            values = getattr(self, name)
            if values is not None and len(values) not in (1, self.channels):
                raise ValueError(
                    f"{name} has {len(values)} numbers, and the latent {self.channels} "
                    f"channels; give one for all or {self.channels}"
                )
        return self


_WEIGHTS_FIELDS = ("weights", "weights_sha256", "shift", "scale")
_CODEC_FIELDS: dict[CodecKind, tuple[str, ...]] = {
    "wavelet": ("levels", "detail_channels"),
    "autoencoder-kl": ("latent_channels", "downscale", *_WEIGHTS_FIELDS),
    "tiny": ("latent_channels", "downscale", *_WEIGHTS_FIELDS),
    "monai-kl": ("monai", *_WEIGHTS_FIELDS),
}


class SamplerConfig(StrictModel):
    """How clips are drawn from the model."""

    kind: Literal["ddpm", "ddim", "dpm-solver++", "unipc"] = Field(
        "ddim", description="the sampler; ddpm is the paper's"
    )
    steps: int = Field(50, ge=2, le=1000, description="passes through the network for a clip")
    num_clips: int = Field(8, ge=1, le=4096, description="that a run's end draws")
    seed: int = Field(0, ge=0, lt=2**63, description="of the clips' noise")
    label: int | None = Field(None, ge=0, description="class of the clips; null: of no class")
    guidance_scale: float = Field(
        1.0, ge=0, description="classifier-free guidance towards the label; 1 is off"
    )
    perturbed_scale: float = Field(
        0.0, ge=0, description="guidance away from a pass without token mixing; 0 is off"
    )
    perturbed_trios: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (), description="trios, from 0, that do not mix tokens in that pass; none: the middle one"
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="of the network; the sampler itself stays in float32"
    )

    @model_validator(mode="after")
    def _guidance_has_a_label(self) -> Self:
        if self.guidance_scale != 1 and self.label is None:
            raise ValueError(
                f"guidance_scale is {self.guidance_scale:g} without a label to guide to; "
                "set label, or leave guidance_scale at 1"
            )
        return self

    def misfit(self, model: FEATConfig) -> str | None:
        """Return why clips cannot be drawn so from ``model``, and the mend; None if they can."""
        if self.label is not None and self.label >= model.num_classes:
            classes = f"are 0 to {model.num_classes - 1}" if model.num_classes else "are none"
            return (
                f"sampler.label is {self.label}, but the model's classes {classes} "
                f"(model.num_classes is {model.num_classes}); choose one of them or null"
            )
        beyond = [each for each in self.perturbed_trios if each >= model.num_trios]
        if beyond:
            return (
                f"sampler.perturbed_trios holds {beyond[0]}, but the model's trios are 0 to "
                f"{model.num_trios - 1}; choose among them"
            )
        return None

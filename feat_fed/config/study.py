"""The study: what the coordinator decides and what travels with the rounds."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)

from feat_fed.config.base import StrictModel
from feat_fed.config.evaluation import EvaluationConfig
from feat_fed.config.model import CodecConfig, DiffusionConfig, FEATConfig, SamplerConfig
from feat_fed.config.privacy import PrivacyConfig
from feat_fed.config.sites import ScreeningConfig, SitesConfig
from feat_fed.config.strategy import CheckpointsConfig, StrategyConfig
from feat_fed.config.transfer import TransferConfig

NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,62}$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
"""A study's or a site's name: it becomes a folder and a label, so letters are few."""


class ClipConfig(StrictModel):
    """What a training clip looks like, at every site alike."""

    frames: int = Field(16, ge=1, le=1024, description="F, frames a clip")
    size_px: int = Field(64, ge=16, le=2048, description="height and width of a frame")
    fit: Literal["crop", "pad"] = Field(
        "crop",
        description="how what the site's crop left becomes square: its centre, as in the published "
        "data sets, or all of it with black bars, which keeps the sides of a wide sector",
    )
    stride_frames: int = Field(1, ge=1, description="source frames from one clip frame to the next")
    flip: bool = Field(True, description="mirror a clip left-right with probability one half")
    heldout_fraction: float = Field(
        0.2, ge=0, lt=1, description="share of the patients kept from training"
    )


class TrainingConfig(StrictModel):
    """One site's training between two messages of the server."""

    engine: Literal["deepspeed", "torch"] = Field(
        "deepspeed", description="that steps the optimiser; equal bit for bit on one process"
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="of the network's forward and backward pass; weights, gradients, optimiser "
        "and loss are float32 in both, and held-out clips are scored in float32",
    )
    local_steps: int = Field(100, ge=1, le=10**9, description="optimiser steps a round, at most")
    local_epochs: float | None = Field(
        None, gt=0, description="limit beside local_steps: draws per clip of the site in a round"
    )
    local_minutes: float | None = Field(
        None,
        gt=0,
        description="limit beside local_steps: of training in a round; such a round does not "
        "replay to the same bytes",
    )
    batch_size: int = Field(
        4, ge=1, description="clips an optimiser step; a site may take them in several passes"
    )
    learning_rate: float = Field(1e-4, gt=0, description="of AdamW, at its highest")
    learning_rate_schedule: Literal["constant", "cosine"] = Field(
        "constant",
        description="after the warm-up; `cosine` falls over rounds * local_steps, as if no round "
        "ended early",
    )
    learning_rate_floor: float = Field(
        0.0, ge=0, le=1, description="share of learning_rate at which the cosine ends"
    )
    weight_decay: float = Field(0.0, ge=0, description="of AdamW, decoupled")
    proximal_mu: float = Field(
        0.0,
        ge=0,
        description="FedProx: mu/2 times the squared distance from the round's received weights "
        "is added to the loss",
    )
    optimiser_state: Literal["reset", "kept"] = Field(
        "reset",
        description="AdamW's moments at the start of a round: new ones, or those that the site's "
        "round before left in its store",
    )
    gradient_clip: float | None = Field(1.0, gt=0, description="global norm; null turns it off")
    warmup_steps: int = Field(0, ge=0, description="of the study's first optimiser steps")
    label_dropout: float = Field(
        0.1, ge=0, lt=1, description="share of clips that train without their class, if any"
    )
    heldout_clips: int = Field(
        16, ge=1, description="clips of held-out patients that score the global model"
    )


class StudyConfig(StrictModel):
    """A federated study, resolved."""

    name: Name = Field(description="of the study; its run's folder is called so, unless --run says")
    rounds: int = Field(
        3, ge=1, le=100_000, description="of training at the sites and averaging at the server"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="of all that is drawn")
    model: FEATConfig = FEATConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    codec: CodecConfig = CodecConfig()
    clips: ClipConfig = ClipConfig()
    training: TrainingConfig = TrainingConfig()
    strategy: StrategyConfig = StrategyConfig()
    sites: SitesConfig = SitesConfig()
    screening: ScreeningConfig = ScreeningConfig()
    checkpoints: CheckpointsConfig = CheckpointsConfig()
    transfer: TransferConfig = TransferConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    sampler: SamplerConfig = SamplerConfig()
    evaluation: EvaluationConfig | None = Field(
        None, description="of the rounds, on held-out benchmarks; no site hears of it"
    )

    @model_serializer(mode="wrap")
    def _without_what_is_off(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave evaluation out where there is none: sites of before it know no such key."""
        tree: dict[str, Any] = serialise(self)
        if self.evaluation is None:
            tree.pop("evaluation", None)
        return tree

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        channels, step_px = self.codec.channels, self.codec.step_px
        wavelet = self.codec.kind == "wavelet"
        if self.model.in_channels != channels:
            made_of = " (3 + codec.detail_channels)" if wavelet else ""
            raise ValueError(
                f"model.in_channels is {self.model.in_channels}, but the {self.codec.kind} codec "
                f"makes {channels}{made_of}; set model.in_channels: {channels}"
            )
        grid = step_px * self.model.patch_size
        if self.clips.size_px % grid:
            made_of = "2^codec.levels" if wavelet else f"the codec's {step_px} px"
            raise ValueError(
                f"clips.size_px {self.clips.size_px} is not a multiple of {grid} "
                f"({made_of} * model.patch_size)"
            )
        misfit = self.sampler.misfit(self.model) or self.strategy.misfit(self.sites.minimum)
        if misfit:
            raise ValueError(misfit)
        return self

    @model_validator(mode="after")
    def _privacy_fits(self) -> Self:
        """Refuse what would make a claim of privacy wrong, or a mechanism meaningless."""
        for protection in sorted(self.privacy.protections):
            mechanism = protection.replace("-", "_")
            self._require(mechanism, "strategy.weigh_by", self.strategy.weigh_by, "equal")
        if self.privacy.patient:
            # An epoch is as long as the site has clips: its steps would tell their number.
            self._require("patient", "training.local_epochs", self.training.local_epochs, None)
        if self.privacy.central or self.privacy.secure_aggregation:
            name = "central" if self.privacy.central else "secure_aggregation"
            self._require(name, "sites.late_replies", self.sites.late_replies, "drop")
            if self.strategy.kind not in ("fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad"):
                raise ValueError(
                    f"privacy.{name} is of the mean of updates, but strategy.kind is "
                    f"{self.strategy.kind}; set strategy.kind: fedavg, or an optimiser over it"
                )
        if self.privacy.secure_aggregation:
            self._require("secure_aggregation", "transfer.up", self.transfer.up, "fp32")
            if (
                self.privacy.secure_aggregation.largest_value is None
                and self.privacy.central is None
                and self.screening.max_move is None
            ):
                raise ValueError(
                    "privacy.secure_aggregation.largest_value and screening.max_move are both "
                    "null; say how far a weight may move in a round, such as largest_value: 0.1"
                )
            if self.sites.minimum < 3:
                raise ValueError(
                    f"privacy.secure_aggregation needs three sites, of two each could subtract its "
                    f"own update; sites.minimum is {self.sites.minimum}: raise it"
                )
            if misfit := self.privacy.secure_aggregation.misfit(self.sites.minimum):
                raise ValueError(misfit)
        return self

    def _require(self, mechanism: str, field: str, value: object, wanted: object) -> None:
        if value != wanted:
            shown = "null" if wanted is None else wanted
            raise ValueError(
                f"{field} is {value}, which does not go with privacy.{mechanism}; set "
                f"{field}: {shown}"
            )

    def without_paths(self) -> StudyConfig:
        """Return the study as it may leave the coordinator's machine."""
        evaluation = self.evaluation and self.evaluation.without_paths()
        codec = self.codec.model_copy(update={"weights": None})
        return self.model_copy(update={"codec": codec, "evaluation": evaluation})

    def for_sites(self) -> StudyConfig:
        """Return the study as sites get it: no path, and nothing of what concerns no site."""
        return self.without_paths().model_copy(update={"evaluation": None})

"""The site: what the hospital decides. It never travels."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from feat_fed.config.base import StrictModel
from feat_fed.config.study import Name

Address = Annotated[
    str, StringConstraints(pattern=r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):\d{1,5}$")
]
"""HOST:PORT; an IPv6 host in brackets."""


class RulesConfig(StrictModel):
    """Which clips are good enough to train on, and what of them may be seen."""

    min_frames: int = Field(16, ge=1, description="frames that a clip must decode to")
    modalities: tuple[str, ...] | None = Field(
        ("US", "IVUS", "ES", "XA", "RF", "XC", "GM", "OT"),
        description="DICOM modalities to take, by default those whose frames follow each other in "
        "time (PS3.3 C.7.3.1.1.1): ultrasound, endoscopy, fluoroscopy, cameras and, with OT, what "
        "was captured from elsewhere; null: all. Files that are no DICOM are taken in any case",
    )
    max_dark_share: float = Field(
        0.98, gt=0, le=1, description="a clip with more nearly black pixels than this is left out"
    )
    min_motion: float = Field(
        0.2,
        ge=0,
        description="mean change of a pixel from frame to frame, in grey levels of 255, below "
        "which a clip is static and left out",
    )
    duplicate_bits: int | None = Field(
        20,
        ge=0,
        le=64,
        description="fingerprints that differ in at most so many of 256 bits show the same clip, "
        "re-encoded (re-encoding changed up to 14, another view 30 or more); null compares "
        "contents only",
    )
    crop: bool = Field(
        True, description="to the ultrasound region or the endoscope's field, as found"
    )
    overlays: Literal["mask", "exclude", "keep"] = Field(
        "mask",
        description="what is done with text and marks that stand still on the pictures, inside "
        "what the crop leaves: blackened, or the clip is left out, or kept as it is: with `review: "
        "waived` such clips are trained on with their text",
    )
    review: Literal["required", "waived"] = Field(
        "required",
        description="whether a person must approve a clip in which text was found or that says it "
        "has some (BurnedInAnnotation), by `feat-fed data approve`, before it is trained on; "
        "where it is waived, nobody is asked, and such clips are trained on with the masks that "
        "were found, or none",
    )


class LatentsConfig(StrictModel):
    """How encoded clips are kept at the site."""

    dtype: Literal["float16", "bfloat16"] = "float16"
    max_gb: float | None = Field(
        None, gt=0, description="of disk; clips unused for longest go first; null: no limit"
    )
    keep_days: float | None = Field(
        None, gt=0, description="since a latent was last used; null: for ever"
    )


class SiteDataConfig(StrictModel):
    """Where the clips lie and who is on them."""

    paths: tuple[Path, ...] = Field(min_length=1, description="folders (searched deep) or files")
    patient_pattern: str | None = Field(
        None,
        description="regular expression with one group, searched in a video file's path below its "
        "folder, that gives the patient; without it the sub-folder is the patient, and a file "
        "right in the folder is a patient of its own. DICOM files carry their own",
    )

    label: int | None = Field(
        None,
        ge=0,
        description="class of this site's clips, such as its modality, where the study's model "
        "has classes (model.num_classes)",
    )
    rules: RulesConfig = RulesConfig()
    workers: int = Field(
        0, ge=0, le=256, description="processes that look at files; 0: one a CPU core"
    )

    @field_validator("patient_pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        if pattern is None:
            return None
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
        if groups != 1:
            raise ValueError(f"{pattern!r} has {groups} groups; it needs exactly one, the patient")
        return pattern


class ServerLinkConfig(StrictModel):
    """How the site reaches the study's server."""

    address: Address
    ca_certificate: Path = Field(description="of the coordinator, PEM; received from a person")
    private_key: Path = Field(description="the site's own, made by `feat-fed keygen`")


class SiteConfig(StrictModel):
    """A hospital's side of a study; relative paths count from the file's folder."""

    name: Name
    server: ServerLinkConfig | None = Field(
        None, description="unset for a virtual site of a simulation, which has no network"
    )
    data: SiteDataConfig
    store: Path = Field(description="folder for latents, checkpoints and logs; stays at the site")
    latents: LatentsConfig = LatentsConfig()
    codec_weights: Path | None = Field(
        None,
        description="file or folder of the study's autoencoder, where the study has one; must have "
        "the SHA-256 that the study names",
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(0, ge=0, le=1024, description="CPU threads for training; 0: all")
    micro_batch: int | None = Field(
        None,
        ge=1,
        description="clips that pass through the network at once, at most; unset: the study's "
        "batch_size. Fewer need less memory and change the result by rounding only",
    )
    gradient_checkpointing: bool = Field(
        False,
        description="compute activations again in the backward pass: less memory, more time, the "
        "same result",
    )
    trusted_bundles: tuple[str, ...] = Field(
        (),
        description="SHA-256 of application bundles that may run; empty: only the one that this "
        "installation of feat-fed would build itself",
    )

    @model_validator(mode="after")
    def _hashes(self) -> Self:
        for digest in self.trusted_bundles:
            if not re.fullmatch(r"[0-9a-f]{64}", digest):
                raise ValueError(f"trusted_bundles: {digest!r} is not a SHA-256 in hexadecimal")
        return self

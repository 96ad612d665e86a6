"""The site: what the hospital decides. It never travels."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from feat_fed.config.base import StrictModel
from feat_fed.config.privacy import ReleaseConfig, SitePrivacyConfig
from feat_fed.config.study import Name

ADDRESS_PATTERN = r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):\d{1,5}$"
Address = Annotated[str, StringConstraints(pattern=ADDRESS_PATTERN)]
"""HOST:PORT; an IPv6 host in brackets."""

MAX_DEVICES = 8
"""That train together at a site."""


def _compiled(pattern: str) -> str:
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
    if groups != 1:
        raise ValueError(f"{pattern!r} has {groups} groups; it needs exactly one, the patient")
    return pattern


PatientPattern = Annotated[str, AfterValidator(_compiled)]
"""A regular expression with one group, the patient."""

PATIENT_IN_NAME = r"((?i:pat(?:ient)?)[-_ ]?\d+)"
"""What looks like a patient in a file's name: pat1, Patient_07, PAT-3."""


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

    dtype: Literal["float16", "bfloat16"] = Field("float16", description="of latents on disk")
    max_gb: float | None = Field(
        None, gt=0, description="of disk; clips unused for longest go first; null: no limit"
    )
    keep_days: float | None = Field(
        None, gt=0, description="since a latent was last used; null: for ever"
    )


class SiteDataConfig(StrictModel):
    """Where the clips lie and who is on them."""

    paths: tuple[Path, ...] = Field(min_length=1, description="folders (searched deep) or files")
    patient_pattern: PatientPattern | None = Field(
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
        0, ge=0, le=256, description="processes that look at files, at most; 0: one a CPU core"
    )


class ServerLinkConfig(StrictModel):
    """How the site reaches the study's server."""

    address: Address = Field(description="HOST:PORT of the study's server")
    ca_certificate: Path = Field(description="of the coordinator, PEM; received from a person")
    private_key: Path = Field(description="the site's own, made by `feat-fed join` or `keygen`")


class ComputeConfig(StrictModel):
    """What of the machine training may use, and how; it wins over the study."""

    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="that trains; auto: a GPU where there is one"
    )
    devices: int | tuple[int, ...] = Field(
        1,
        description="GPUs that train together, one process each: how many, or which ones ([0, 2]); "
        "on a CPU the number of processes",
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(
        1,
        description="what several processes share out among them (DeepSpeed ZeRO): nothing, the "
        "optimiser's state, gradients too, weights too",
    )
    precision: Literal["fp32", "bf16"] | None = Field(
        None, description="in place of the study's; for a GPU without bf16, say"
    )
    threads: int = Field(0, ge=0, le=1024, description="CPU threads a process; 0: all, shared out")
    niceness: int = Field(0, ge=0, le=19, description="19 leaves the CPU to everything else")
    memory_share: float = Field(
        0.9, gt=0, le=1, description="of the free memory of the device that training may take"
    )
    micro_batch: int | None = Field(
        None,
        ge=1,
        description="clips that pass through the network at once in a process, at most; unset: the "
        "study's batch_size. Fewer need less memory and change the result by rounding only",
    )
    gradient_checkpointing: bool = Field(
        False,
        description="compute activations again in the backward pass: less memory, more time, the "
        "same result",
    )

    @field_validator("devices", "zero_stage", mode="before")
    @classmethod
    def _are_numbers(cls, value: object, info: ValidationInfo) -> object:
        """YAML reads yes and no as truth, which Python counts as 1 and 0."""
        listed = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(each, bool) or not isinstance(each, int) for each in listed):
            lists = ", or a list of GPUs ([0, 2])" if info.field_name == "devices" else ""
            raise ValueError(f"{value!r} is no number; write one, such as 2{lists}")
        return value

    @field_validator("devices")
    @classmethod
    def _are_few(cls, devices: int | tuple[int, ...]) -> int | tuple[int, ...]:
        number = devices if isinstance(devices, int) else len(devices)
        if not 1 <= number <= MAX_DEVICES:
            raise ValueError(f"{number} devices; 1 to {MAX_DEVICES} can train together")
        if not isinstance(devices, int) and (len(set(devices)) < number or min(devices) < 0):
            raise ValueError(f"{list(devices)} are no different GPUs; name each once, from 0")
        return devices

    @property
    def num_devices(self) -> int:
        """How many processes train together."""
        return self.devices if isinstance(self.devices, int) else len(self.devices)


class HoursConfig(StrictModel):
    """A part of the day, by the machine's clock; it may pass midnight."""

    begin: dt.time
    end: dt.time

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        """Take ``22:00-06:00``."""
        if isinstance(value, str):
            match = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)", value)
            if match is None:
                raise ValueError(f"{value!r} is no part of a day; write 22:00-06:00")
            return {"begin": f"{match[1]}:{match[2]}", "end": f"{match[3]}:{match[4]}"}
        return value

    @model_validator(mode="after")
    def _is_some_time(self) -> Self:
        if self.begin == self.end:
            raise ValueError(f"{self} is no time at all; leave limits.hours out for always")
        return self

    @model_serializer
    def _as_text(self) -> str:
        return str(self)

    def __str__(self) -> str:
        return f"{self.begin:%H:%M}-{self.end:%H:%M}"


class LimitsConfig(StrictModel):
    """When training may run and how much a round may take; the study cannot lift it."""

    hours: tuple[HoursConfig, ...] = Field(
        (),
        description="parts of the day in which training may run, such as 22:00-06:00 by this "
        "machine's clock; empty: always. A round that comes outside of them is declined, and one "
        "that runs into their end is sent with the steps that it has",
    )
    minutes_per_round: float | None = Field(
        None, gt=0, description="of training; a longer round is sent with the steps that it has"
    )
    gb_per_round: float | None = Field(
        None,
        gt=0,
        description="of weights, in and out together, each time that they are sent; a round that "
        "would exceed it is declined",
    )

    @field_validator("hours", mode="before")
    @classmethod
    def _are_listed(cls, value: object) -> object:
        if not isinstance(value, list | tuple):
            raise ValueError(f'{value!r} is no list; write ["22:00-06:00"], with the quotes')
        return value


class SiteConfig(StrictModel):
    """A hospital's side of a study; relative paths count from the file's folder."""

    name: Name = Field(description="as the coordinator knows this hospital")
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
    compute: ComputeConfig = ComputeConfig()
    limits: LimitsConfig = LimitsConfig()
    privacy: SitePrivacyConfig = SitePrivacyConfig()
    release: ReleaseConfig = ReleaseConfig()
    checkpoint_minutes: float | None = Field(
        10,
        gt=0,
        description="between two checkpoints inside a round, from which it goes on after a crash; "
        "null: none",
    )
    trusted_bundles: tuple[str, ...] = Field(
        (),
        description="SHA-256 of application bundles that may run; empty: only the one that this "
        "installation of feat-fed would build itself",
    )

    metrics_port: int | None = Field(
        None,
        ge=1,
        le=65_535,
        description="where `feat-fed client` shows Prometheus what the site does, on 127.0.0.1 "
        "alone; null: nowhere",
    )

    @model_validator(mode="after")
    def _hashes(self) -> Self:
        for digest in self.trusted_bundles:
            if not re.fullmatch(r"[0-9a-f]{64}", digest):
                raise ValueError(f"trusted_bundles: {digest!r} is not a SHA-256 in hexadecimal")
        return self

"""A simulation: which virtual hospitals there are, what each has, and what goes wrong there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from feat_fed.config.base import StrictModel
from feat_fed.config.site import PatientPattern
from feat_fed.config.study import Name, StudyConfig
from feat_fed.errors import ConfigError

PartitionKind = Literal["folder", "uniform", "dirichlet", "power-law"]
FailureKind = Literal["crash", "decline", "nan", "scale", "silent"]

FOR_ALL = "default"
"""The key below ``sites`` that speaks of every hospital."""

_DECIDED = ("name", "server", "store", "codec_weights", "data.paths", "data.patient_pattern")
"""Of a virtual hospital's configuration, what the simulation itself decides."""


class PartitionConfig(StrictModel):
    """How the patients of a data set become those of hospitals; no patient is in two.

    Equal settings and seeds give equal hospitals.
    """

    kind: PartitionKind = Field(
        "folder",
        description="`folder`: each sub-folder of data is a hospital (a flat folder's patients are "
        "dealt out in turn); `uniform`: equally many patients, drawn at random; `dirichlet`: "
        "equally many, mixed differently (Hsu et al., arXiv 1909.06335); `power-law`: the "
        "hospital of rank r has a number of patients in proportion to r ** -exponent",
    )
    alpha: float = Field(
        0.5,
        gt=0,
        description="of dirichlet: near 0, a hospital has patients of one label; 100: of all alike",
    )
    by: Literal["label", "modality"] = Field(
        "label",
        description="of dirichlet, what is mixed: a patient's label (of the manifest; without one "
        "the top folder's name) or modality (DICOM's, or `video`)",
    )
    exponent: float = Field(1.5, gt=0, description="of power-law; 0.5 is mild, 2 steep")
    seed: int | None = Field(None, ge=0, lt=2**31, description="null: the study's")
    min_patients: int = Field(
        2, ge=1, description="of a hospital: one to train on and one to hold out; not of `folder`"
    )

    _only_of: ClassVar[dict[str, PartitionKind]] = {
        "alpha": "dirichlet",
        "by": "dirichlet",
        "exponent": "power-law",
    }

    @model_validator(mode="after")
    def _has_a_use_for_what_is_set(self) -> Self:
        for key, kind in self._only_of.items():
            default = type(self).model_fields[key].default  # which a file that was dumped has
            if self.kind != kind and getattr(self, key) != default:
                raise ValueError(
                    f"{key} is of `{kind}` and kind is `{self.kind}`: set kind: {kind}, or leave "
                    f"{key} out"
                )
        return self

    def told(self) -> str:
        """Return what it is in a few words, for a report."""
        details = {
            "folder": "a folder a hospital",
            "uniform": "patients at random, equally many",
            "dirichlet": f"patients at random, mixed by {self.by}, Dirichlet with alpha "
            f"{self.alpha:g}",
            "power-law": f"patients at random, sizes by rank to the power of -{self.exponent:g}",
        }
        return details[self.kind]


class ResourcesConfig(StrictModel):
    """What a virtual hospital takes while it works; as many work at once as there is room for."""

    cpus: int = Field(1, ge=1, le=1024, description="cores, and threads that it trains with")
    gpus: float = Field(
        0.0,
        ge=0,
        le=8,
        description="0.25: four hospitals share a GPU, each with a quarter of its memory; above 1 "
        "a whole number",
    )

    @field_validator("gpus")
    @classmethod
    def _can_be_had(cls, gpus: float) -> float:
        if gpus > 1 and gpus != int(gpus):
            raise ValueError(f"{gpus} GPUs; a share is below 1, more are a whole number")
        return gpus


class FailureConfig(StrictModel):
    """What goes wrong at a virtual hospital in a round, when it is asked to train."""

    site: Name
    round: int = Field(ge=1, le=100_000)
    does: FailureKind = Field(
        description="`crash`: its process dies, once; `decline`: it says that it is paused; `nan`: "
        "a number of its update is none; `scale`: the numbers of its update come times factor; "
        "`silent`: it answers when its time is up, and keeps its resources until then"
    )
    factor: float | None = Field(None, description="of scale")

    @model_validator(mode="after")
    def _factor_is_of_scale(self) -> Self:
        if (self.factor is not None) != (self.does == "scale"):
            raise ValueError(
                f"does is `{self.does}` and factor {self.factor}: `scale` needs a factor, such as "
                "100, and nothing else has one"
            )
        return self


class SimulationConfig(StrictModel):
    """Virtual hospitals out of one data set, on one machine or a Ray cluster."""

    hospitals: int | None = Field(
        None,
        ge=2,
        le=1024,
        description="null: four; with partition.kind `folder`, the sub-folders of data",
    )
    data: Path | None = Field(
        None, description="folder of clips; null: clips are generated, five patients a hospital"
    )
    manifest: Path | None = Field(
        None,
        description="CSV with a header, `path,patient,label`: paths count from data, only what it "
        "lists is used, and patient or label may be left out. DICOM files carry their own patient",
    )
    patient_pattern: PatientPattern | None = Field(
        None,
        description="regular expression with one group, searched in a file's path below data, that "
        "gives the patient of a file that is no DICOM and is in no manifest. Without one: the "
        "folder below the top folder, or what looks like a patient in the path (pat1, "
        "Patient_07), or the file alone",
    )
    partition: PartitionConfig = PartitionConfig()
    resources: ResourcesConfig = ResourcesConfig()
    sites: dict[str, dict[str, Any]] = Field(
        {},
        description="of `default` (all) or of a hospital by its name: keys as in a site's file, "
        "such as limits, privacy, compute, put over what the simulation sets",
    )
    failures: tuple[FailureConfig, ...] = Field((), description="to rehearse")

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.manifest is not None and self.data is None:
            raise ValueError("manifest lists files of data, which is not set; set data")
        if self.manifest is not None and self.partition.kind == "folder":
            raise ValueError(
                "manifest has no say where partition.kind is `folder`; set partition.kind: "
                "uniform, dirichlet or power-law"
            )
        for site, tree in self.sites.items():
            for key in _DECIDED:
                section, _, field = key.rpartition(".")
                part = tree.get(section) if section else tree
                if isinstance(part, dict) and field in part:
                    raise ValueError(f"sites.{site}.{key} is set by the simulation; leave it out")
        twice = Counter((each.site, each.round) for each in self.failures)
        for (site, number), count in twice.items():
            if count > 1:
                raise ValueError(f"failures has {count} entries for {site} in round {number}")
        return self

    def require_names(self, names: Collection[str], study: StudyConfig) -> None:
        """Raise :class:`ConfigError` where sites or failures speak of what there is not."""
        listed = ", ".join(names)
        for name in self.sites:
            if name != FOR_ALL and name not in names:
                raise ConfigError(f"sites.{name}: no hospital has this name; there are {listed}")
        for index, failure in enumerate(self.failures):
            where = f"failures.{index}"
            if failure.site not in names:
                raise ConfigError(
                    f"{where}.site: no hospital is named {failure.site}; there are {listed}"
                )
            if failure.round > study.rounds:
                raise ConfigError(
                    f"{where}.round is {failure.round} and the study has {study.rounds} rounds"
                )
            if study.privacy.secure_aggregation and failure.does in ("nan", "scale"):
                raise ConfigError(
                    f"{where}.does is `{failure.does}`, which nobody sees in masked numbers; leave "
                    "it out, or privacy.secure_aggregation of the study"
                )

"""Privacy: the mechanisms of a study, and what a site demands of it.

All distances are L2 over the floats of a model. Standard deviations of noise are given as
multiples of the bound that they hide (the noise multiplier), as in Abadi et al., arXiv 1607.00133.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from feat_fed.config.base import StrictModel

Told = Literal["losses", "counts", "times"]
Protection = Literal["patient", "central", "secure-aggregation"]
ReleaseTold = Literal["scores", "verdicts", "nothing"]

Fingerprint = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{4}( [0-9a-f]{4}){7}$")]
"""Of a public key, as people compare it: :func:`feat_fed.joining.fingerprint`."""


class PatientPrivacyConfig(StrictModel):
    """Patient-level DP-SGD at every site (Abadi et al., arXiv 1607.00133, Algorithm 1).

    In each step every patient takes part by chance, by itself (Poisson sampling). The gradients of
    a patient's clips are averaged and clipped as one, so the unit of privacy is the patient.
    ``training.batch_size`` and ``training.gradient_clip`` have no say then.
    """

    epsilon: float | None = Field(
        None,
        gt=0,
        le=1000,
        description="that the whole study may spend of each patient; the noise is found from it "
        "before the study begins. Or give noise_multiplier",
    )
    delta: float = Field(
        1e-5, gt=0, lt=0.1, description="that goes with epsilon; well below 1 / patients of a site"
    )
    noise_multiplier: float | None = Field(
        None,
        gt=0,
        le=1000,
        description="standard deviation of a step's noise in clip_norm; null: found from epsilon",
    )
    clip_norm: float = Field(
        1.0,
        ge=1e-6,
        le=1e6,
        description="longest gradient of a patient in a step; float32 can tell lengths like these",
    )
    sample_rate: float = Field(
        0.1, gt=0, le=1, description="chance of each patient of a site to take part in a step"
    )
    clips_per_patient: int = Field(
        1, ge=1, le=1024, description="windows of a patient's clips that a step draws and averages"
    )
    draws: int = Field(
        1,
        ge=1,
        le=1024,
        description="timesteps and noises that are drawn for each window and averaged (noise "
        "multiplicity, Dockhorn et al., arXiv 2210.09929): a better gradient for the same privacy",
    )

    @model_validator(mode="after")
    def _noise_is_known(self) -> Self:
        if self.epsilon is None and self.noise_multiplier is None:
            raise ValueError("neither epsilon nor noise_multiplier is set; set one of them")
        return self


class CentralPrivacyConfig(StrictModel):
    """Clipped updates and noise on their mean at the server (DP-FedAvg, arXiv 1710.06963).

    It hides a hospital's part in a round from whoever gets the global weights, and not from the
    server. `adaptive` moves the bound to a quantile of the updates' norms (Andrew et al., arXiv
    1905.03871).
    """

    epsilon: float | None = Field(
        None,
        gt=0,
        le=1000,
        description="that the whole study may spend of each hospital; the noise is found from it "
        "before the study begins. Or give noise_multiplier",
    )
    delta: float = Field(1e-5, gt=0, lt=0.1, description="that goes with epsilon")
    noise_multiplier: float | None = Field(
        None,
        gt=0,
        le=1000,
        description="standard deviation of the noise on the sum of updates in clip_norm; null: "
        "found from epsilon. Adaptive clipping spends a part on its count, and the noise on the "
        "sum is larger by that",
    )
    clipping: Literal["fixed", "adaptive"] = Field(
        "fixed", description="how the bound of an update's norm is had"
    )
    clip_norm: float = Field(
        1.0, gt=0, description="longest update of a site; where clipping is adaptive, at first"
    )
    target_quantile: float = Field(
        0.5, gt=0, lt=1, description="share of updates that adaptive clipping leaves as they are"
    )
    clip_learning_rate: float = Field(
        0.2, gt=0, le=1, description="of adaptive clipping, for the bound's logarithm"
    )
    count_noise: float | None = Field(
        None,
        gt=0,
        description="standard deviation of the noise on the count of updates within the bound; "
        "null: a twentieth of sites.minimum, at least 1 and noise_multiplier",
    )

    @model_validator(mode="after")
    def _noise_is_known(self) -> Self:
        if self.epsilon is None and self.noise_multiplier is None:
            raise ValueError("neither epsilon nor noise_multiplier is set; set one of them")
        return self

    @model_validator(mode="after")
    def _count_spends_less_than_all(self) -> Self:
        z, count = self.noise_multiplier, self.count_noise
        if self.clipping == "adaptive" and z is not None and count is not None and z >= 2 * count:
            raise ValueError(
                f"count_noise is {count:g}, with which the count alone spends more than "
                f"noise_multiplier {z:g} allows; raise it above {z / 2:g}, or leave it out"
            )
        return self


class SecureAggregationConfig(StrictModel):
    """SecAgg+ (Bell et al., ePrint 2020/704; Bonawitz et al., arXiv 1611.04482).

    The server gets the sum of the sites' updates and no single one.
    """

    neighbours: int | None = Field(
        None,
        ge=2,
        multiple_of=2,
        description="sites with which each site shares masks and keys, an even number; null: all",
    )
    threshold: int | None = Field(
        None,
        ge=2,
        description="sites among a site's neighbours and itself that must stay until the end of "
        "the round, of so many shares its secrets are put together again; null: two thirds",
    )
    largest_value: float | None = Field(
        None,
        gt=0,
        description="that a weight may move in a round; what goes beyond is cut off. null: "
        "central.clip_norm, or else screening.max_move * learning_rate * local_steps",
    )
    stage_sec: float = Field(
        300,
        gt=0,
        description="longest that a round waits for answers in each of its short stages: keys, "
        "shares, unmasking",
    )

    def misfit(self, min_sites: int) -> str | None:
        """Say why a round of so few sites could never be unmasked, if it could not."""
        if self.threshold is None:
            return None
        field = f"privacy.secure_aggregation.threshold is {self.threshold}"
        if self.threshold > min_sites:
            return (
                f"{field} and sites.minimum {min_sites}: a round of so few sites could never be "
                "unmasked; lower the one or raise the other"
            )
        if self.neighbours is not None and self.threshold > self.neighbours + 1:
            return (
                f"{field}, and a site and its neighbours are {self.neighbours + 1}; lower it or "
                "raise neighbours"
            )
        return None


class PrivacyConfig(StrictModel):
    """The mechanisms of a study, alone or together."""

    patient: PatientPrivacyConfig | None = Field(
        None, description="noise at the sites, before anything leaves them"
    )
    central: CentralPrivacyConfig | None = Field(None, description="noise at the server")
    secure_aggregation: SecureAggregationConfig | None = Field(
        None, description="the server sees sums only"
    )

    @property
    def protections(self) -> frozenset[Protection]:
        """Which mechanisms are on."""
        on: dict[Protection, object] = {
            "patient": self.patient,
            "central": self.central,
            "secure-aggregation": self.secure_aggregation,
        }
        return frozenset(name for name, each in on.items() if each is not None)


class SitePrivacyConfig(StrictModel):
    """What a hospital demands before anything leaves it; no study can lift it."""

    require: tuple[Protection, ...] = Field(
        (), description="mechanisms without which the site takes no part in a study"
    )
    max_epsilon: float | None = Field(
        None,
        gt=0,
        description="that all studies together may spend of a patient here, by DP-SGD at this "
        "site; a round that would exceed it is declined. null: no limit, which is still accounted",
    )
    delta: float = Field(1e-5, gt=0, lt=0.1, description="that goes with max_epsilon")
    tell: tuple[Told, ...] = Field(
        (),
        description="what reports of a study with patient or central privacy say of this site's "
        "patients, exactly and outside of the accounting: losses, counts (clips, patients), times "
        "(of training)",
    )
    patients_only_here: bool = Field(
        False,
        description="that no patient of this site is at another site of the study: an epsilon of "
        "each patient then follows from central privacy, too",
    )
    peers: dict[str, Fingerprint] = Field(
        {},
        description="fingerprints of the keys of other sites of a study with secure aggregation, "
        "as `feat-fed join` shows them there and `feat-fed provision status` to the coordinator; "
        "one that is not listed is believed when it first comes and must stay the same",
    )


class ReleaseConfig(StrictModel):
    """What a hospital tells of generated clips that resemble its own, before a release.

    An answer is exact and outside of any epsilon, and whoever asks may send latents that are not
    generated at all: it tells whether a clip that they have was trained on.
    """

    tell: ReleaseTold | None = Field(
        None,
        description="of each generated clip: `scores` (the similarity to the nearest training "
        "window, in steps of 0.05, and whether that is too near), `verdicts` (only whether), or "
        "`nothing` (the question is declined). null: scores in a study without privacy, verdicts "
        "in one with any or where a study had DP-SGD before, nothing where privacy.require or "
        "privacy.max_epsilon is set",
    )
    max_clips: int = Field(
        256,
        ge=1,
        description="that are compared in 30 days, for all studies together; a question beyond is "
        "declined",
    )

    def told(self, study: PrivacyConfig, site: SitePrivacyConfig) -> ReleaseTold:
        """Return what is told to a study."""
        if self.tell is not None:
            return self.tell
        if site.require or site.max_epsilon is not None:
            return "nothing"
        return "verdicts" if study.protections else "scores"

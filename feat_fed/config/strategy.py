"""How the server makes one model of the sites' models, and how many of them it keeps."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from feat_fed.config.base import StrictModel

StrategyKind = Literal[
    "fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad", "trimmed-mean", "median", "krum"
]
Weighing = Literal["clips", "patients", "steps", "equal"]

_ADAPTIVE = {"server_learning_rate": 0.01, "server_tau": 1e-3}
_OPTIONS: dict[StrategyKind, dict[str, float]] = {
    "fedavg": {},
    "fedavgm": {"server_learning_rate": 1.0, "server_momentum": 0.9},
    "fedadam": _ADAPTIVE | {"server_momentum": 0.9, "server_beta_2": 0.99},
    "fedyogi": _ADAPTIVE | {"server_momentum": 0.9, "server_beta_2": 0.99},
    "fedadagrad": _ADAPTIVE,
    "trimmed-mean": {"trim_fraction": 0.2},
    "median": {},
    "krum": {"malicious_sites": 1, "keep_sites": 1},
}
"""What can be set of each kind, and what it is where it is not set."""

_ONE_SITE_ONE_VOICE = ("trimmed-mean", "median")


class StrategyConfig(StrictModel):
    """How the server makes one model of the sites' models."""

    kind: StrategyKind = Field(
        "fedavg",
        description="mean (fedavg); mean and a server optimiser (fedavgm, fedadam, fedyogi, "
        "fedadagrad); or one that withstands some bad sites (trimmed-mean, median, krum)",
    )
    weigh_by: Weighing = Field(
        "clips",
        description="a site's weight in the mean: the training clips or patients that it has, the "
        "optimiser steps that it took in the round, or the same for all. `equal` of trimmed-mean "
        "and median, which know no weights",
    )
    server_learning_rate: float | None = Field(
        None,
        gt=0,
        description="of fedavgm (1), where it scales the mean update, and of fedadam, fedyogi and "
        "fedadagrad (0.01), where it is about what a weight moves in a round",
    )
    server_momentum: float | None = Field(
        None, ge=0, lt=1, description="of fedavgm; beta_1 of fedadam and fedyogi (0.9)"
    )
    server_beta_2: float | None = Field(None, ge=0, lt=1, description="of fedadam, fedyogi (0.99)")
    server_tau: float | None = Field(
        None, gt=0, description="adaptivity of fedadam, fedyogi, fedadagrad (0.001)"
    )
    trim_fraction: float | None = Field(
        None, gt=0, lt=0.5, description="share of the sites that trimmed-mean drops at each end"
    )
    malicious_sites: int | None = Field(
        None, ge=0, description="that krum withstands (1); it needs 2 * malicious_sites + 3 sites"
    )
    keep_sites: int | None = Field(
        None, ge=1, description="updates that krum averages (1); more than one is multi-Krum"
    )
    ema_decay: float = Field(
        0.5, ge=0, lt=1, description="a round, of the global weights; samples come from the average"
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, tree: Any) -> Any:  # noqa: ANN401
        """Set what the kind's options are where they are not set."""
        kind = tree.get("kind", "fedavg") if isinstance(tree, dict) else None
        if not isinstance(kind, str) or kind not in _OPTIONS:
            return tree
        given = {name: value for name, value in tree.items() if value is not None}
        weighing = {"weigh_by": "equal"} if kind in _ONE_SITE_ONE_VOICE else {}
        return weighing | _OPTIONS[kind] | given

    @model_validator(mode="after")
    def _options_are_of_the_kind(self) -> Self:
        every = {name for options in _OPTIONS.values() for name in options}
        for name in sorted(every - _OPTIONS[self.kind].keys()):
            if (value := getattr(self, name)) is not None:
                kinds = ", ".join(kind for kind, options in _OPTIONS.items() if name in options)
                raise ValueError(
                    f"{name} is {value}, but kind is {self.kind}, which has none; leave it out, or "
                    f"choose of: {kinds}"
                )
        if self.kind in _ONE_SITE_ONE_VOICE and self.weigh_by != "equal":
            raise ValueError(
                f"weigh_by is {self.weigh_by}, but {self.kind} knows no weights; leave it out"
            )
        return self

    def option(self, name: str) -> float:
        """Return an option of the kind; it is set."""
        return float(getattr(self, name))

    def misfit(self, min_sites: int) -> str | None:
        """Say why a round of so few sites cannot be aggregated so, if it cannot."""
        if self.kind == "trimmed-mean":
            share = self.option("trim_fraction")
            if int(share * min_sites) < 1:
                return (
                    f"strategy.trim_fraction {share:g} of sites.minimum {min_sites} is less than "
                    "one site, so that nothing would be trimmed; raise one of the two"
                )
        if self.kind == "krum":
            bad, kept = int(self.option("malicious_sites")), int(self.option("keep_sites"))
            if min_sites < 2 * bad + 3:
                return (
                    f"krum with strategy.malicious_sites {bad} needs {2 * bad + 3} sites, but "
                    f"sites.minimum is {min_sites}; raise it or lower malicious_sites"
                )
            if kept > min_sites - bad:
                return (
                    f"strategy.keep_sites {kept} is more than the {min_sites - bad} of "
                    f"sites.minimum {min_sites} that are not malicious; lower it"
                )
        return None


class CheckpointsConfig(StrictModel):
    """Which rounds' weights the coordinator keeps; those of round 0, the untrained, always."""

    keep_last: int = Field(
        3, ge=2, description="newest rounds; a damaged one is made up for by the one before"
    )
    keep_every: int = Field(0, ge=0, description="every n-th round beside them; 0: none")
    keep_best: int = Field(
        1, ge=0, description="rounds with the lowest held-out loss beside them, as far as scored"
    )

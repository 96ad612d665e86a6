"""What ``feat-fed privacy audit`` does and shows: two trainings with canaries, and a verdict."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import typer
from rich.table import Table

from feat_fed.cli.console import console, output
from feat_fed.config import PatientPrivacyConfig, load_study, validate
from feat_fed.errors import ConfigError
from feat_fed.privacy.accounting import NoisySteps, noise_for, prv_epsilon, rdp_epsilon
from feat_fed.privacy.auditing import LowerBound, provable
from feat_fed.privacy.resolve import resolved
from feat_fed.train.canaries import measured

Verdict = Literal["holds", "broken", "blind"]

_EPSILON = 3.0
_SAMPLE_RATE = 0.5
_MOST_CANARIES = 4096
"""Some gigabytes and hours."""

_MEANING: dict[Verdict, str] = {
    "holds": "the leak without noise was caught, and with noise nothing contradicts the claim. "
    "That is no proof of it: an audit can only refute",
    "broken": "broken: more was proven to leak than is claimed. Do not train with this release, "
    "and report it",
    "blind": "inconclusive: not even the leak without noise was caught, so this audit says nothing "
    "of the noise; take more canaries (--canaries)",
}


@dataclass(frozen=True)
class Plan:
    """What is audited."""

    privacy: PatientPrivacyConfig
    steps: int
    canaries: int
    confidence: float
    seed: int

    @property
    def history(self) -> list[NoisySteps]:
        """What the audited steps spend."""
        assert self.privacy.noise_multiplier is not None
        return [NoisySteps(self.privacy.noise_multiplier, self.privacy.sample_rate, self.steps)]


@dataclass(frozen=True)
class Findings:
    """What is claimed, and what was measured without and with noise."""

    rdp: float
    prv: float | None
    off: LowerBound
    on: LowerBound

    @property
    def verdict(self) -> Verdict:
        """Whether the claim stands."""
        if self.on.epsilon > min(self.rdp, self.rdp if self.prv is None else self.prv):
            return "broken"
        return "holds" if self.off.epsilon > self.rdp else "blind"


def planned_audit(
    study: str | None,
    given: Mapping[str, Any],
    *,
    steps: int,
    canaries: int,
    confidence: float,
    seed: int,
) -> Plan:
    """Return what a study or the options ask for.

    Raises
    ------
    ConfigError
        If options are wrong or of the other kind, or so few canaries cannot tell.
    """
    privacy = _of_options(given, steps) if study is None else _of_study(study, given)
    plan = Plan(privacy, steps, canaries, confidence, seed)
    claimed, delta = rdp_epsilon(plan.history, delta=privacy.delta), privacy.delta
    most = provable(canaries, delta=delta, confidence=confidence)
    if most <= claimed:
        raise ConfigError(
            f"the claim is an epsilon of {claimed:.4g} in {steps} steps, and {canaries} canaries "
            f"can prove {most:.4g} at most; {_mend(claimed, delta, confidence)}"
        )
    return plan


def audit_and_show(plan: Plan, *, as_json: bool) -> None:
    """Train without and with noise, print what was found; exit with 1 unless the claim holds."""
    findings = _findings(plan)
    if as_json:
        typer.echo(json.dumps(_tree(plan, findings), indent=1))
    else:
        output.print(_table(plan, findings))
        output.print(_MEANING[findings.verdict], markup=False, soft_wrap=True)
    if findings.verdict != "holds":
        raise typer.Exit(1)


def _of_options(given: Mapping[str, Any], steps: int) -> PatientPrivacyConfig:
    if {"epsilon", "noise_multiplier"} <= given.keys():
        raise ConfigError("--noise-multiplier and --epsilon: give one, the other follows")
    noisy = {} if "noise_multiplier" in given else {"epsilon": _EPSILON}
    tree = {"sample_rate": _SAMPLE_RATE, **noisy, **given}
    privacy = validate(PatientPrivacyConfig, tree, "the audit")
    if privacy.noise_multiplier is not None:
        return privacy
    assert privacy.epsilon is not None
    noise = noise_for(
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        sample_rate=privacy.sample_rate,
        steps=steps,
    )
    return privacy.model_copy(update={"noise_multiplier": noise})


def _of_study(study: str, given: Mapping[str, Any]) -> PatientPrivacyConfig:
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConfigError(f"{flags}: the study says that; change its privacy section")
    config = resolved(load_study(study))
    if config.privacy.patient is None:
        raise ConfigError(
            f"the study {config.name} has no DP-SGD, which is what canaries are planted for; set "
            "privacy.patient in it"
        )
    return config.privacy.patient


def _mend(claimed: float, delta: float, confidence: float) -> str:
    canaries = 1
    while canaries < _MOST_CANARIES:
        canaries *= 2
        if provable(canaries, delta=delta, confidence=confidence) > claimed:
            return f"take {canaries} (--canaries), or fewer steps (--steps)"
    return "take fewer steps (--steps), a smaller epsilon or more noise"


def _findings(plan: Plan) -> Findings:
    privacy = plan.privacy

    def run(name: str, with_noise: bool) -> LowerBound:
        with console.status(f"DP-SGD {name}: training") as status:
            return measured(
                privacy if with_noise else None,
                canaries=plan.canaries,
                steps=plan.steps,
                delta=privacy.delta,
                confidence=plan.confidence,
                seed=plan.seed,
                looked=lambda step: status.update(f"DP-SGD {name}: looked into step {step}"),
            )

    return Findings(
        rdp=rdp_epsilon(plan.history, delta=privacy.delta),
        prv=prv_epsilon(plan.history, delta=privacy.delta),
        off=run("off", False),
        on=run("on", True),
    )


def _table(plan: Plan, findings: Findings) -> Table:
    privacy, found = plan.privacy, findings
    table = Table(
        title=f"{plan.canaries:,} canaries, {plan.steps} steps with a sample rate of "
        f"{privacy.sample_rate:g}, delta {privacy.delta:g}, confidence {plan.confidence:.4g}",
        title_justify="left",
    )
    table.add_column("DP-SGD")
    for name in ("Noise", "Claimed (RDP)", "Claimed (PRV)", "Measured, at least", "Guessed right"):
        table.add_column(name, justify="right")
    table.add_column("Verdict")
    caught = "caught" if found.off.epsilon > found.rdp else "not caught"
    within = "above the claim" if found.verdict == "broken" else "within the claim"
    table.add_row("off", "-", "-", "-", *_measured(found.off), caught)
    table.add_row(
        "on",
        f"{privacy.noise_multiplier:.4g}",
        f"{found.rdp:.4g}",
        "-" if found.prv is None else f"{found.prv:.4g}",
        *_measured(found.on),
        within,
    )
    return table


def _measured(bound: LowerBound) -> tuple[str, str]:
    return f"{bound.epsilon:.3f}", f"{bound.correct:,} of {bound.guesses:,}"


def _tree(plan: Plan, findings: Findings) -> dict[str, Any]:
    privacy = plan.privacy

    def tree(bound: LowerBound) -> dict[str, Any]:
        return {
            "epsilon_at_least": bound.epsilon,
            "guesses": bound.guesses,
            "correct": bound.correct,
        }

    return {
        "canaries": plan.canaries,
        "steps": plan.steps,
        "sample_rate": privacy.sample_rate,
        "noise_multiplier": privacy.noise_multiplier,
        "clip_norm": privacy.clip_norm,
        "delta": privacy.delta,
        "confidence": plan.confidence,
        "seed": plan.seed,
        "epsilon": findings.rdp,
        "epsilon_prv": findings.prv,
        "off": tree(findings.off) | {"caught": findings.off.epsilon > findings.rdp},
        "on": tree(findings.on) | {"within": findings.verdict != "broken"},
        "verdict": findings.verdict,
    }

"""What the study would spend of the site's privacy budget, and whether its ledger is whole."""

from __future__ import annotations

from bisect import bisect_right

from feat_fed.config import PatientPrivacyConfig
from feat_fed.findings import Finding, Number, amber, green, red
from feat_fed.privacy.accounting import NoisySteps
from feat_fed.privacy.anchors import read_books
from feat_fed.privacy.resolve import resolved
from feat_fed.privacy.spent import Spent
from feat_fed_client.check.subject import Subject


def budget(subject: Subject) -> Finding:
    """Hold what the study would spend of a patient against what the site has left."""
    assert subject.study is not None
    site, study = subject.site, resolved(subject.study)
    patient = study.privacy.patient
    if patient is None:
        return green("the study has no DP-SGD: nothing of the site's own budget is spent")
    books = read_books(site.store, site.name)
    if books.problems:
        return red(
            f"{books.problems[0]}: every round would be declined",
            "`feat-fed privacy verify SITE.yaml`; docs/privacy.md says what to do then",
        )
    spent, delta, limit = books.spent, site.privacy.delta, site.privacy.max_epsilon
    begun = [each for each in spent.by_study() if each.name == study.name]
    rounds_left = max(0, study.rounds - (begun[-1].rounds if begun else 0))

    def after(rounds: int) -> float:
        steps = rounds * study.training.local_steps
        return _epsilon_after(spent, patient, steps, delta=delta)

    now, then = after(0), after(rounds_left)
    numbers: dict[str, Number] = {
        "epsilon": round(now, 4),
        "epsilon_after": round(then, 4),
        "delta": delta,
        "max_epsilon": limit,
    }
    found = (
        f"all studies have spent an epsilon of {now:.2f} of a patient here, {then:.2f} after "
        f"{rounds_left} more rounds of this one (delta {delta:g})"
    )
    if limit is None:
        return green(f"{found}; privacy.max_epsilon sets no limit", **numbers)
    if then <= limit:
        return green(f"{found}, of {limit:g} allowed", **numbers)
    # Epsilon grows with the rounds.
    fitting = bisect_right(range(rounds_left + 1), limit, key=after) - 1
    found += f": more than privacy.max_epsilon, {limit:g}"
    if fitting < 1:
        return red(f"{found}; every round would be declined", "leave the study", **numbers)
    return amber(
        f"{found}; rounds would be declined after {fitting} more",
        "ask for fewer rounds or more noise, if that is not meant",
        **numbers,
    )


def _epsilon_after(
    spent: Spent, patient: PatientPrivacyConfig, steps: int, *, delta: float
) -> float:
    assert patient.noise_multiplier is not None
    planned = NoisySteps(patient.noise_multiplier, patient.sample_rate, steps)
    return spent.epsilon(delta=delta, planned=[planned])

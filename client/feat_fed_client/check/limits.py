"""The site's own limits against the study, and the study's privacy budget."""

from __future__ import annotations

from feat_fed.errors import ConfigError, DataError
from feat_fed.findings import Finding, Number, amber, green, red
from feat_fed.privacy.claims import LARGEST_DELTA, Claim, claims, told
from feat_fed.privacy.resolve import resolved
from feat_fed.report.units import format_bytes, format_duration
from feat_fed.train.private import check_private
from feat_fed_client.check.subject import Subject
from feat_fed_client.check.text import told_and_mend
from feat_fed_client.limits import SiteLimits


def hours(subject: Subject) -> Finding:
    """Tell whether training may run now, and until when."""
    limits = SiteLimits.of(subject.site)
    if closed := limits.closed():
        paused = closed.limit == "paused"
        return amber(
            f"{closed}; rounds are declined until then",
            "`feat-fed site resume SITE.yaml`" if paused else "wait, or widen limits.hours",
            open=False,
            paused=paused,
        )
    left_sec = limits.sec_to_close()
    if left_sec is None:
        return green("training may run at any time", open=True, paused=False)
    return green(
        f"training may run now ({limits.hours}), for {format_duration(left_sec)}",
        open=True,
        paused=False,
        left_sec=round(left_sec),
    )


def traffic(subject: Subject) -> Finding:
    """Compare a round's weights with what a round may move."""
    limit, (down_bytes, up_bytes) = subject.site.limits.gb_per_round, subject.round_bytes
    total_bytes, first_bytes = down_bytes + up_bytes, subject.first_bytes + up_bytes
    found = f"{format_bytes(total_bytes)} of weights a round, in and out"
    if first_bytes > total_bytes:
        found += f"; {format_bytes(first_bytes)} in the first and after one that was missed"
    numbers: dict[str, Number] = {
        "round_bytes": total_bytes,
        "first_round_bytes": first_bytes,
        "gb_per_round": limit,
    }
    if limit is None:
        return green(f"{found}; no limit is set", **numbers)
    if total_bytes > limit * 1e9:
        return red(
            f"{found}, and limits.gb_per_round is {limit:g}: every round would be declined",
            "raise limits.gb_per_round, or leave the study",
            **numbers,
        )
    if first_bytes > limit * 1e9:
        return amber(
            f"{found}, and limits.gb_per_round is {limit:g}: those rounds would be declined",
            "raise limits.gb_per_round, or let those rounds go",
            **numbers,
        )
    return green(f"{found}, of {limit:g} GB allowed", **numbers)


def privacy(subject: Subject) -> Finding:
    """Say what the study spends, and whether it does what the site demands."""
    assert subject.study is not None
    site, study = subject.site, resolved(subject.study)
    planned = {each.unit: each for each in claims(study)}
    numbers: dict[str, Number] = {}
    for unit, claim in planned.items():
        numbers[f"{unit}_epsilon"] = round(claim.epsilon, 4)
        numbers[f"{unit}_delta"] = claim.delta
    found = "; ".join(told(study)) or "the study adds no noise: no privacy budget is kept or spent"
    if lacking := sorted(set(site.privacy.require) - study.privacy.protections):
        return red(
            f"the study lacks {', '.join(lacking)}, which privacy.require demands: every round "
            "would be declined",
            "ask the coordinator for it, or leave the study",
            **numbers,
        )
    if study.privacy.patient is None:
        return green(found, **numbers)
    try:
        check_private(study.privacy.patient, study.training, site.compute)
    except ConfigError as error:
        unfit, mend = told_and_mend(str(error), site)
        return red(unfit, mend, **numbers)
    if doubt := _too_few(subject, planned["patient"]):
        return amber(f"{found}; {doubt[0]}", doubt[1], **numbers)
    return green(found, **numbers)


def _too_few(subject: Subject, claim: Claim) -> tuple[str, str] | None:
    """Return what the number of this site's patients makes doubtful, and what to do."""
    try:
        clips = subject.clips
    except DataError:  # that of clips says so
        return None
    patients = clips.num_training_patients if clips else 0
    if not patients:
        return None
    if claim.delta * patients > LARGEST_DELTA:
        return (
            f"delta is not well below 1 / {patients} patients of this site",
            f"ask the coordinator for privacy.patient.delta {LARGEST_DELTA / patients:.0e} or less",
        )
    taken = claim.spending.sample_rate * patients
    if taken < 1:
        return (
            f"a step takes {taken:.2g} of the {patients} patients here on average, so that what it "
            "learns is mostly noise",
            "nothing, if the study's other sites are larger; else ask for a larger sample_rate",
        )
    return None

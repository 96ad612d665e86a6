"""What central privacy has spent of each hospital, for people."""

from __future__ import annotations

from feat_fed.report.records import CentralSpending, SiteEpsilon
from feat_fed.report.units import format_epsilon


def central_lines(spending: CentralSpending) -> list[str]:
    """Return a line for the study and one for each hospital."""
    head = f"central privacy: epsilon spent so far at delta {spending.delta:g}, by RDP (by PRV):"
    if not spending.sites:
        return [f"{head} nothing yet"]
    return [head, *(f"  {_site_line(each)}" for each in spending.sites)]


def _site_line(site: SiteEpsilon) -> str:
    rounds = f"{site.releases} round{'' if site.releases == 1 else 's'}"
    line = f"{site.site}: {_both(site.rdp, site.prv)} in {rounds}"
    if site.patient_rdp is None:
        return f"{line}; of a patient: unknown, the site does not vouch that they are only there"
    return f"{line}; of a patient: {_both(site.patient_rdp, site.patient_prv)}"


def _both(rdp: float, prv: float | None) -> str:
    return f"{format_epsilon(rdp)} ({format_epsilon(prv)})"

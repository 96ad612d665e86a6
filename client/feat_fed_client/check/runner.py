"""All checks, one after the other, whatever becomes of each."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from feat_fed import __version__, findings
from feat_fed.errors import FeatFedError
from feat_fed.findings import Finding, amber, red, worst
from feat_fed_client.check import (
    budget,
    compute,
    data,
    environment,
    limits,
    network,
    peers,
    storage,
)
from feat_fed_client.check.result import CheckReport, StudyFrom
from feat_fed_client.check.subject import Subject
from feat_fed_client.check.text import told_and_mend


@dataclass(frozen=True)
class Check:
    """One question, and what its answer needs."""

    id: str
    title: str
    find: Callable[[Subject], Finding]
    needs_study: bool = False
    needs_network: bool = False


CHECKS = (
    Check("packages", "Packages", environment.packages),
    Check("devices", "Devices", compute.devices),
    Check("store", "Store", storage.store),
    Check("permissions", "Permissions", storage.permissions),
    Check("running", "At work", storage.running),
    Check("clips", "Clips", data.clips),
    Check("patients", "Patients", data.patients, needs_study=True),
    Check("label", "Class", data.label, needs_study=True),
    Check("codec", "Codec", data.codec, needs_study=True),
    Check("latents", "Latents", data.latents, needs_study=True),
    Check("disk", "Disk", storage.disk),
    Check("server", "Server", network.server, needs_network=True),
    Check("key", "Key", network.key, needs_network=True),
    Check("clock", "Clock", network.clock, needs_network=True),
    Check("versions", "Versions", environment.versions),
    Check("bandwidth", "Bandwidth", network.bandwidth, needs_network=True),
    Check("traffic", "Traffic", limits.traffic, needs_study=True),
    Check("hours", "Hours", limits.hours),
    Check("memory", "Memory", compute.memory, needs_study=True),
    Check("round", "Round", compute.round_time, needs_study=True),
    Check("privacy", "Privacy", limits.privacy, needs_study=True),
    Check("budget", "Budget", budget.budget, needs_study=True),
    Check("peers", "Peers", peers.peers, needs_study=True),
)
"""In the order in which they are run and shown; the long ones are last."""


def run_checks(
    subject: Subject,
    *,
    study_from: StudyFrom | None,
    checks: Sequence[Check] = CHECKS,
    tell: Callable[[str], None] = lambda _: None,
) -> CheckReport:
    """Run every check; one that fails is a red result, and the others go on.

    Parameters
    ----------
    tell
        Called with a check's title before it is run.
    """
    results = findings.run_checks(checks, lambda check: _finding(check, subject), tell)
    return CheckReport(
        feat_fed=__version__,
        site=subject.site.name,
        study=subject.study.name if subject.study else None,
        study_from=study_from,
        checked_at=dt.datetime.now(dt.UTC).replace(microsecond=0),
        offline=subject.offline,
        quick=subject.quick,
        status=worst([each.status for each in results]),
        results=results,
    )


def _finding(check: Check, subject: Subject) -> Finding:
    if check.needs_study and subject.study is None:
        return amber("unknown until the first round", "give --study")
    if check.needs_network and subject.offline:
        return amber("not checked (--offline)", "leave --offline out")
    try:
        return check.find(subject)
    except FeatFedError as error:
        return red(*told_and_mend(str(error), subject.site))

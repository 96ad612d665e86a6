"""Whose keys a study with secure aggregation rests on at this site."""

from __future__ import annotations

from feat_fed.findings import Finding, amber, green
from feat_fed_client.check.subject import Subject
from feat_fed_client.peers import seen_first


def peers(subject: Subject) -> Finding:
    """Count the other sites' keys that somebody has compared, and those that only came first."""
    assert subject.study is not None
    if subject.study.privacy.secure_aggregation is None:
        return green("the study masks no updates: nothing rests on the other sites' keys")
    listed = subject.site.privacy.peers
    believed = [name for name in seen_first(subject.site) if name not in listed]
    needed = subject.study.sites.minimum - 1
    found = f"{len(listed)} keys of other sites are listed in privacy.peers"
    numbers = {"listed": len(listed), "believed": len(believed), "needed": needed}
    if not believed and len(listed) >= needed:
        return green(found, **numbers)
    if believed:
        found += f", {len(believed)} others were believed when they first came"
    return amber(
        f"{found}; a server that cheated from the first round on would not be noticed",
        "compare the fingerprints that `feat-fed join` showed by telephone with each hospital, "
        "and list them",
        **numbers,
    )

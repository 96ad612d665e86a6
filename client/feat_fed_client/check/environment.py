"""What is installed: what this release needs, and what the study's server runs."""

from __future__ import annotations

from packaging.version import InvalidVersion, Version

from feat_fed.findings import Finding, amber, green, installed_for, red
from feat_fed.protocol import Versions
from feat_fed_client.check.subject import Subject

_EXTRA = "client"


def packages(subject: Subject) -> Finding:
    """Compare what is installed with the ranges that this release was made for."""
    return installed_for(_EXTRA)


def versions(subject: Subject) -> Finding:
    """Compare with the study's server."""
    theirs = subject.versions
    if theirs is None:
        return amber(
            "the server's versions are not known",
            "they come with its first answer or round; compare `feat-fed version` by hand",
        )
    ours = Versions.installed()
    differ = {
        name: f"{name.replace('_', '-')} {mine or 'absent'} here, {other} there"
        for name in Versions.model_fields
        if (other := getattr(theirs, name)) and not _same(name, mine := getattr(ours, name), other)
    }
    if not differ:
        return green(f"as at the server: feat-fed {theirs.feat_fed}", server=theirs.feat_fed)
    found = "; ".join(differ.values())
    mend = "install the server's versions: " + " ".join(
        f"'{name.replace('_', '-')}=={getattr(theirs, name)}'" for name in differ
    )
    refuses = "feat_fed" in differ and not subject.site.trusted_bundles
    if refuses or "flwr" in differ:
        why = "; this site refuses another version's bundle" if refuses else ""
        return red(found + why, mend, server=theirs.feat_fed)
    return amber(found, mend, server=theirs.feat_fed)


def _same(name: str, ours: str | None, theirs: str) -> bool:
    """Compare; of Python the minor version, of others all but the build (``+cu130``)."""
    if ours is None:
        return False
    try:
        mine, other = Version(ours), Version(theirs)
    except InvalidVersion:  # as of an interpreter built from its sources, or a server's invention
        return ours == theirs
    if name == "python":
        return mine.release[:2] == other.release[:2]
    return mine.public == other.public

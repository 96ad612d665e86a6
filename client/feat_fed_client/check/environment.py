"""What is installed: what this release needs, and what the study's server runs."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

from feat_fed import __version__
from feat_fed.protocol import Versions
from feat_fed_client.check.result import Finding, amber, green, red
from feat_fed_client.check.subject import Subject

_DISTRIBUTION = "feat-fed"
_EXTRA = "client"
_INSTALL = "pip install -c constraints.txt 'feat-fed[client]'"


def packages(subject: Subject) -> Finding:
    """Compare what is installed with the ranges that this release was made for."""
    try:
        needed = [Requirement(each) for each in requires(_DISTRIBUTION) or ()]
    except PackageNotFoundError:
        return amber(
            f"feat-fed {__version__} is not installed but run from a folder: what it needs is "
            "not known",
            f"install it: {_INSTALL}",
        )
    here = [each for each in needed if each.name != _DISTRIBUTION and _is_meant(each)]
    faults = [fault for each in here if (fault := _fault(each))]
    if faults:
        return red("; ".join(faults), f"install what belongs together: {_INSTALL}")
    return green(
        f"feat-fed {__version__}, Python {platform.python_version()}; {len(here)} packages in the "
        "ranges of this release",
        packages=len(here),
    )


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


def _is_meant(requirement: Requirement) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": each}) for each in ("", _EXTRA))


def _fault(requirement: Requirement) -> str | None:
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return f"{requirement.name} is missing"
    if requirement.specifier.contains(found, prereleases=True):
        return None
    return f"{requirement.name} is {found}, and {requirement.specifier} is needed"


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

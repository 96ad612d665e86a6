"""What a check finds, for people and for machines.

A result is likely to be mailed to somebody who helps: it holds numbers and phrases of ours, and no
path of a hospital's file.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError
from typing import Annotated, Literal, Protocol, TypeVar

from pydantic import Field, StringConstraints

from feat_fed import __version__
from feat_fed.config.base import StrictModel
from feat_fed.versions import fault_of, requirements_of

Status = Literal["green", "amber", "red"]
CheckId = Annotated[str, StringConstraints(pattern=r"^[a-z]{1,20}$")]
Number = int | float | bool | str | None


class Finding(StrictModel):
    """What one check found: ``numbers`` are those of ``found``, with units in their names."""

    status: Status
    found: str
    mend: str = ""
    numbers: dict[str, Number] = Field(default_factory=dict)


class CheckResult(StrictModel):
    """A check and its finding."""

    id: CheckId
    title: str
    status: Status
    found: str
    mend: str
    numbers: dict[str, Number]


class Check(Protocol):
    """One question: both roles add what its answer needs."""

    @property
    def id(self) -> CheckId:
        """Name it for machines."""

    @property
    def title(self) -> str:
        """Name it for people."""


_C = TypeVar("_C", bound=Check)


def green(found: str, **numbers: Number) -> Finding:
    """Say that all is well."""
    return Finding(status="green", found=found, numbers=numbers)


def amber(found: str, mend: str, **numbers: Number) -> Finding:
    """Say that it can be gone on with, or that nobody knows yet: somebody should look."""
    return Finding(status="amber", found=found, mend=mend, numbers=numbers)


def red(found: str, mend: str, **numbers: Number) -> Finding:
    """Say that nothing can start until this is mended."""
    return Finding(status="red", found=found, mend=mend, numbers=numbers)


def worst(statuses: list[Status]) -> Status:
    """Return the worst of them; green of none."""
    order: tuple[Status, ...] = ("red", "amber", "green")
    return next((each for each in order if each in statuses), "green")


def run_checks(
    checks: Iterable[_C], find: Callable[[_C], Finding], tell: Callable[[str], None]
) -> tuple[CheckResult, ...]:
    """Run checks one after the other, whatever becomes of each.

    Parameters
    ----------
    find
        Answers one, with whatever it raises that a person can mend made a finding.
    tell
        Called with a check's title before it is run.
    """
    results = []
    for check in checks:
        tell(check.title)
        try:
            finding = find(check)
        except PermissionError:
            finding = red(
                "this user may not read or write what the check looks at",
                "check as the account that runs feat-fed, or give this one the rights",
            )
        except Exception as error:
            # Its text may name a file or a patient.
            finding = red(
                f"the check itself failed ({type(error).__name__})",
                "check again; if it stays, report it with the output of `feat-fed version`",
            )
        results.append(CheckResult(id=check.id, title=check.title, **dict(finding)))
    return tuple(results)


def installed_for(extra: str) -> Finding:
    """Compare what is installed with the ranges that this release was made for.

    Parameters
    ----------
    extra
        Of the role: ``server`` or ``client``.
    """
    install = f"pip install -c constraints.txt 'feat-fed[{extra}]'"
    try:
        needed = requirements_of(extra)
    except PackageNotFoundError:
        return amber(
            f"feat-fed {__version__} is not installed but run from a folder: what it needs is "
            "not known",
            f"install it: {install}",
        )
    faults = [fault for each in needed if (fault := fault_of(each))]
    if faults:
        return red("; ".join(faults), f"install what belongs together: {install}")
    return green(
        f"feat-fed {__version__}, Python {platform.python_version()}; {len(needed)} packages in "
        "the ranges of this release",
        packages=len(needed),
    )

"""Whether a study's server can start, found out before it does."""

from __future__ import annotations

import datetime as dt
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from cryptography import x509
from pydantic import AwareDatetime

from feat_fed import __version__
from feat_fed.codec import build_codec
from feat_fed.config import FederationConfig, StudyConfig, load_federation
from feat_fed.config.base import StrictModel
from feat_fed.config.study import Name
from feat_fed.errors import FeatFedError
from feat_fed.federate import wire_bytes
from feat_fed.findings import (
    CheckResult,
    Finding,
    Status,
    amber,
    green,
    installed_for,
    red,
    run_checks,
    worst,
)
from feat_fed.model.state import state_schema
from feat_fed.privacy.claims import told
from feat_fed.privacy.resolve import resolved
from feat_fed.processes import require_free, split_address
from feat_fed.report.run_store import RunStore, is_locked
from feat_fed.report.units import format_bytes
from feat_fed_server.certificates import TlsFiles, certified_hosts
from feat_fed_server.membership import Federation
from feat_fed_server.server_optimiser import build_server_optimiser

_OTHERS = 0o077
_LOGS_BYTES = 10**8
_OPTIMISER_WEIGHTS = 2
"""State of a server optimiser at most: two moments."""


@dataclass(frozen=True)
class ServerSubject:
    """What is asked about.

    Parameters
    ----------
    federation
        The coordinator's file.
    study
        None: nobody has said.
    run
        The folder that the study's run will have, or has.
    listen
        HOST:PORT; None: the federation's address.
    quick
        Leave out what reads large files.
    """

    federation: Path
    study: StudyConfig | None = None
    run: Path | None = None
    listen: str | None = None
    quick: bool = False

    @cached_property
    def config(self) -> FederationConfig:
        """The federation's file, read."""
        return load_federation(self.federation)

    @property
    def tls(self) -> TlsFiles:
        """The certificates beside it."""
        return TlsFiles(self.federation.parent / "tls")


class ServerCheckReport(StrictModel):
    """All that ``feat-fed check FEDERATION --json`` prints."""

    schema_version: Literal[1] = 1
    feat_fed: str
    study: Name | None
    checked_at: AwareDatetime
    quick: bool
    status: Status
    results: tuple[CheckResult, ...]


def packages(subject: ServerSubject) -> Finding:
    """Compare what is installed with the ranges that this release was made for."""
    return installed_for("server")


def certificates(subject: ServerSubject) -> Finding:
    """See whether the certificates are there, good for the address, and for how long."""
    tls = subject.tls
    tls.require()
    host = split_address(subject.config.address)[0]
    certified = certified_hosts(tls)
    if host not in certified:
        return red(
            f"the server's certificate is for {', '.join(certified)}, and hospitals come by {host}",
            "`feat-fed provision renew` makes another; hospitals keep their ca.crt",
        )
    days = _days_left(tls.certificate)
    if soon := tls.warnings():
        told_of, _, mend = "; ".join(soon).partition(": ")
        return amber(told_of, mend, days=days)
    return green(f"for {', '.join(certified)}, {days} days", days=days)


def permissions(subject: ServerSubject) -> Finding:
    """See whether other users of this machine can read what is the coordinator's own."""
    folder = subject.federation.parent
    secrets = [subject.tls.key, subject.tls.ca_key, *sorted((folder / "tokens").glob("*.token"))]
    others = [str(each.relative_to(folder)) for each in secrets if _mode(each) & _OTHERS]
    if others:
        return red(
            f"other users may read {', '.join(others)}",
            f"chmod 600 {' '.join(others)}; if they may have been read, make new ones",
        )
    return green("nobody else can read private keys and tokens")


def address(subject: ServerSubject) -> Finding:
    """See whether the server's address can be listened on."""
    listen = subject.listen or subject.config.address
    if subject.run is not None and is_locked(subject.run):
        return amber("not checked: the study's server is running", "nothing, if that is meant")
    require_free(*split_address(listen))
    if subject.listen:
        return green(f"{listen} is free; hospitals come by {subject.config.address}")
    return green(f"{listen} is free")


def hospitals(subject: ServerSubject) -> Finding:
    """Say who is admitted, and what has to happen for the others."""
    names, admissions = subject.config.sites, Federation(subject.federation).admissions
    admitted = set(admissions.members(names).values())
    found = f"{len(admitted)} of {len(names)} admitted"
    if subject.study and subject.study.sites.minimum > len(names):
        return red(
            f"the study needs {subject.study.sites.minimum} sites (sites.minimum), and the "
            f"federation has {len(names)}",
            "add sites to the federation's file, or lower sites.minimum",
        )
    asking = [each.site for each in admissions.all_pending() if each.site in names]
    absent = [name for name in names if name not in admitted and name not in asking]
    expired, without = [], []
    for name in absent:
        invitation = admissions.invitation(name)
        if invitation is None:
            without.append(name)
        elif invitation.has_expired and invitation.used_by is None:
            expired.append(name)
    waiting = [name for name in absent if name not in (*without, *expired)]
    parts = [
        (asking, "ask to join", "`feat-fed provision approve` after comparing fingerprints"),
        (without, "without a token", "`feat-fed provision`, and give it to the hospital"),
        (expired, "token expired", "`feat-fed provision` makes a new one"),
        (waiting, "token given", "the hospital runs `feat-fed join` with it"),
    ]
    said = [(f"{what}: {', '.join(who)}", mend) for who, what, mend in parts if who]
    if said:
        return amber(
            "; ".join([found, *(each for each, _ in said)]), "; ".join(mend for _, mend in said)
        )
    return green(found, admitted=len(admitted))


def privacy(subject: ServerSubject) -> Finding:
    """Resolve the study, and say what it promises."""
    assert subject.study is not None
    lines = told(resolved(subject.study))
    return green("; ".join(lines) or "no privacy mechanism is on")


def codec(subject: ServerSubject) -> Finding:
    """See whether this machine has what makes clips of latents, for the samples at the end."""
    assert subject.study is not None
    if subject.quick:
        return amber("not checked (--quick)", "leave --quick out")
    build_codec(subject.study.codec)
    return green(subject.study.codec.kind)


def evaluator(subject: ServerSubject) -> Finding:
    """See whether the evaluator's videos and networks are there and are what they say."""
    assert subject.study is not None
    config = subject.study.evaluation
    if config is None:
        return green("the study measures no rounds")
    if subject.quick:
        return amber("not checked (--quick)", "leave --quick out")
    from feat_fed.evaluator.bench import open_parts  # what it reads with, a server can do without

    protocol, networks, real = open_parts(config)
    return green(f"{len(real)} videos of {real.name}; {protocol.name} with {', '.join(networks)}")


def run(subject: ServerSubject) -> Finding:
    """Say whether the study begins or goes on."""
    folder = subject.run
    assert folder is not None and subject.study is not None
    if not folder.exists() or not any(folder.iterdir()):
        return green(f"{folder.name} will be made")
    store = RunStore(folder)
    done = store.summary().rounds_done
    if done >= subject.study.rounds:
        return amber(
            f"{folder.name} is complete at {done} rounds",
            "more --rounds, or another name with --run",
            rounds_done=done,
        )
    return green(f"{folder.name} goes on after round {done}", rounds_done=done)


def disk(subject: ServerSubject) -> Finding:
    """Compare the free space with what the study's rounds will take."""
    assert subject.run is not None and subject.study is not None
    there = next(each for each in subject.run.absolute().parents if each.exists())
    free_bytes, needed_bytes = (
        shutil.disk_usage(there).free,
        _needed_bytes(subject.study, len(subject.config.sites)),
    )
    found = f"{format_bytes(free_bytes)} free, about {format_bytes(needed_bytes)} to come"
    numbers = {"free_bytes": free_bytes, "needed_bytes": needed_bytes}
    if free_bytes < needed_bytes:
        mend = "make room, keep fewer rounds (checkpoints), or give a larger disk with --runs"
        return red(found, mend, **numbers)
    return green(found, **numbers)


@dataclass(frozen=True)
class ServerCheck:
    """One question, and whether its answer needs a study."""

    id: str
    title: str
    find: Callable[[ServerSubject], Finding]
    needs_study: bool = False


CHECKS = (
    ServerCheck("packages", "Packages", packages),
    ServerCheck("certificates", "Certificates", certificates),
    ServerCheck("permissions", "Permissions", permissions),
    ServerCheck("address", "Address", address),
    ServerCheck("hospitals", "Hospitals", hospitals),
    ServerCheck("privacy", "Privacy", privacy, needs_study=True),
    ServerCheck("run", "Run", run, needs_study=True),
    ServerCheck("disk", "Disk", disk, needs_study=True),
    ServerCheck("codec", "Codec", codec, needs_study=True),
    ServerCheck("evaluator", "Evaluator", evaluator, needs_study=True),
)
"""In the order in which they are run and shown."""


def run_server_checks(
    subject: ServerSubject, *, tell: Callable[[str], None] = lambda _: None
) -> ServerCheckReport:
    """Run every check; one that fails is a red result, and the others go on.

    Parameters
    ----------
    tell
        Called with a check's title before it is run.

    Raises
    ------
    ConfigError
        If the federation's file cannot be used.
    """
    assert subject.config  # nothing can be said of a federation that cannot be read
    results = run_checks(CHECKS, lambda check: _finding(check, subject), tell)
    return ServerCheckReport(
        feat_fed=__version__,
        study=subject.study.name if subject.study else None,
        checked_at=dt.datetime.now(dt.UTC).replace(microsecond=0),
        quick=subject.quick,
        status=worst([each.status for each in results]),
        results=results,
    )


def _finding(check: ServerCheck, subject: ServerSubject) -> Finding:
    if check.needs_study and subject.study is None:
        return amber("no study was given", "give --study")
    try:
        return check.find(subject)
    except FeatFedError as error:
        found, _, mend = str(error).partition(": " if "; " not in str(error) else "; ")
        return red(found, mend or "do what it says, and check again")


def _needed_bytes(study: StudyConfig, sites: int) -> int:
    """Return about what a run takes: kept rounds, the one under way, its messages, logs."""
    weights_bytes = wire_bytes(state_schema(study.model), None)
    kept = study.checkpoints
    every = study.rounds // kept.keep_every if kept.keep_every else 0
    rounds = 1 + min(study.rounds, kept.keep_last + kept.keep_best + every)
    optimiser = _OPTIMISER_WEIGHTS if build_server_optimiser(study.strategy) else 0
    a_round = (2 + optimiser) * weights_bytes  # global and averaged weights
    asked = min(sites, study.sites.per_round or sites)
    inbox, outgoing, parts = asked, 2, 1 + asked
    return (rounds + 1) * a_round + (inbox + outgoing + parts) * weights_bytes + _LOGS_BYTES


def _days_left(path: Path) -> int:
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    return (certificate.not_valid_after_utc - dt.datetime.now(dt.UTC)).days


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode) if path.exists() else 0

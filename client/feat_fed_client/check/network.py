"""Whether the server is there, is the right one, and knows this site; and how fast the way is."""

from __future__ import annotations

import datetime as dt
import socket

from cryptography import x509
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE

from feat_fed.config import ServerLinkConfig
from feat_fed.errors import ConfigError, RefusedError
from feat_fed.findings import Finding, Number, amber, green, red
from feat_fed.protocol import (
    BAD_SIGNATURE,
    PENDING_KEY,
    REVOKED_KEY,
    TOO_OFTEN,
    UNKNOWN_KEY,
    WRONG_CLOCK,
)
from feat_fed.report.units import format_bytes, format_duration
from feat_fed_client.check.subject import Subject
from feat_fed_client.check.text import told_and_mend
from feat_fed_client.keys import check_site_key
from feat_fed_client.reach import check_ca_certificate

_SOON_DAYS = 30
_AHEAD_SEC = 2.0
_BEHIND_SEC = 60.0
"""Of a clock that Flower still takes."""
_REFUSALS = (UNKNOWN_KEY, PENDING_KEY, REVOKED_KEY, BAD_SIGNATURE, WRONG_CLOCK, TOO_OFTEN)
_NO_SERVER = ("not known: the server was not reached", "see the server check")
_OLD_SERVER = (
    "the server has no probe: it is another feat-fed",
    "compare `feat-fed version` with the coordinator's",
)


def server(subject: Subject) -> Finding:
    """See whether the server is reached over TLS, and for how long its certificate holds."""
    link = subject.site.server
    if link is None:
        return amber("server is not set: a site of a simulation", "set server to take part")
    check_ca_certificate(link)
    way = subject.way
    if way.greeting is None:
        return _absent(subject, way.failure)
    days = (way.greeting.valid_until - dt.datetime.now(dt.UTC)).days
    ca_days = _ca_days(link)
    numbers: dict[str, Number] = {
        "handshake_sec": round(way.greeting.seconds, 3),
        "certificate_days": days,
        "ca_days": ca_days,
    }
    found = f"{way.greeting.tls} in {way.greeting.seconds:.2g} s; certificate for {days} days"
    if ca_days < days:
        found += f", the coordinator's CA for {ca_days}"
    if min(days, ca_days) < _SOON_DAYS:
        return amber(found, "ask the coordinator to renew it in time", **numbers)
    return green(found, **numbers)


def key(subject: Subject) -> Finding:
    """See whether the site's key is one, and the server knows it under the site's name."""
    site = subject.site
    if site.server is None:
        return amber("server is not set: no key is needed", "set server to take part")
    check_site_key(site.server.private_key)
    first = subject.way.first
    if first is None:
        return amber(
            f"the key is sound; whether it is registered is {_NO_SERVER[0]}", _NO_SERVER[1]
        )
    if first.answer is not None:
        if first.answer.site == site.name:
            return green(f"registered as {site.name}")
        return red(
            f"registered as {first.answer.site}, and the site's file says name: {site.name}",
            "correct name, or use the key that was made for this site",
        )
    refusals = {
        UNKNOWN_KEY: red(
            "the server does not know this key",
            "run `feat-fed join` with a token of the coordinator's, or send the .pub file beside "
            f"server.private_key to the coordinator, who saves it as sites/{site.name}.pub",
        ),
        PENDING_KEY: amber(
            "the coordinator has not approved this key yet",
            "tell the coordinator its fingerprint by telephone (`feat-fed join` shows it)",
        ),
        REVOKED_KEY: red(
            "the coordinator has revoked this key",
            "ask the coordinator for a new token, and run `feat-fed join` with it",
        ),
        BAD_SIGNATURE: red(
            "the server does not take this key's signature",
            "make a new key with `feat-fed keygen` and send its .pub file to the coordinator",
        ),
        WRONG_CLOCK: amber("not known until the clock is right", "see the clock check"),
        TOO_OFTEN: amber("registered; asked too often to say more", "check again in a minute"),
    }
    return refusals.get(first.code or 0, amber(*_OLD_SERVER, http_status=first.status))


def clock(subject: Subject) -> Finding:
    """Compare this machine's clock with the server's."""
    first = subject.way.first if subject.site.server else None
    if first is None or first.ahead_sec is None:
        return amber(*_NO_SERVER)
    ahead = first.ahead_sec
    how = "ahead" if ahead > 0 else "behind"
    found = (
        f"{format_duration(abs(ahead))} {how} of the server's"
        if abs(ahead) > 1
        else "as the server's"
    )
    mend = "set this machine's clock, best by NTP"
    allowed = f"Flower allows {SYSTEM_TIME_TOLERANCE} s ahead, {TIMESTAMP_TOLERANCE} s behind"
    numbers: dict[str, Number] = {"ahead_sec": round(ahead, 1)}
    behind = TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE
    # The server's time is known to about half a second.
    if first.code == WRONG_CLOCK or not -behind <= ahead <= SYSTEM_TIME_TOLERANCE:
        return red(f"{found}; {allowed}", mend, **numbers)
    if not -_BEHIND_SEC <= ahead <= _AHEAD_SEC:
        return amber(f"{found}; {allowed}", mend, **numbers)
    return green(found, **numbers)


def bandwidth(subject: Subject) -> Finding:
    """Say how fast the way is, and how long a round's weights take."""
    if subject.site.server is None or subject.way.first is None:
        return amber(*_NO_SERVER)
    if subject.way.answer is None:
        code = subject.way.first.code
        refused = code in _REFUSALS
        return (
            amber("not measured: the server answered no probe", "see the key check")
            if (refused)
            else amber(*_OLD_SERVER)
        )
    if subject.quick:
        return amber("not measured (--quick)", "leave --quick out")
    down, up = subject.way.down_bytes_per_sec, subject.way.up_bytes_per_sec
    if down is None or up is None:
        return amber("not measured: the server stopped answering", "check again in a minute")
    numbers: dict[str, Number] = {"down_bytes_per_sec": round(down), "up_bytes_per_sec": round(up)}
    found = f"{_mbit(down)} down, {_mbit(up)} up"
    if subject.study is None:
        return green(found, **numbers)
    down_bytes, up_bytes = subject.round_bytes
    seconds = down_bytes / down + up_bytes / up
    numbers |= {
        "down_bytes": down_bytes,
        "up_bytes": up_bytes,
        "transfer_sec": round(seconds, 1),
    }
    size = f"{format_bytes(down_bytes)} in, {format_bytes(up_bytes)} out"
    if down_bytes == up_bytes:
        size = f"{format_bytes(up_bytes)} each way"
    found += f"; a round's weights ({size}) take {format_duration(seconds)}"
    share = seconds / subject.study.sites.round_sec
    if share >= 1:
        return red(
            f"{found}, and the study waits {format_duration(subject.study.sites.round_sec)}",
            "get a faster line, or ask the coordinator for a longer sites.round_sec",
            **numbers,
        )
    if share > 0.25:
        return amber(
            f"{found}, {share:.0%} of what the study waits",
            "get a faster line, or ask the coordinator for a longer sites.round_sec",
            **numbers,
        )
    return green(found, **numbers)


def _absent(subject: Subject, failure: Exception | None) -> Finding:
    if isinstance(failure, RefusedError | ConfigError):
        return red(*told_and_mend(str(failure), subject.site))
    if isinstance(failure, socket.gaierror):
        return red(
            "the name in server.address is not known here",
            "check the address, and this machine's DNS",
        )
    if isinstance(failure, ConnectionError):
        return amber(
            "nobody answers at server.address: the server is not running, or a firewall refuses",
            "ask the coordinator whether it runs; the client waits for it",
        )
    reason = getattr(failure, "strerror", None) or type(failure).__name__
    return red(
        f"server.address cannot be reached: {reason}",
        "ask for the address and port to be opened from this machine, outwards, TCP",
    )


def _ca_days(link: ServerLinkConfig) -> int:
    found = x509.load_pem_x509_certificates(link.ca_certificate.read_bytes())
    soonest = min(each.not_valid_after_utc for each in found)
    return (soonest - dt.datetime.now(dt.UTC)).days


def _mbit(bytes_per_sec: float) -> str:
    mbit = bytes_per_sec * 8 / 1e6
    return f"{mbit:,.0f} Mbit/s" if mbit >= 100 else f"{mbit:.3g} Mbit/s"

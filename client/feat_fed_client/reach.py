"""The way to the study's server, as far as TLS: whether it is there, and is the right one."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import time
from dataclasses import dataclass

from feat_fed.config import ServerLinkConfig
from feat_fed.errors import ConfigError, RefusedError
from feat_fed.processes import split_address

_CONNECT_TIMEOUT_SEC = 10.0
_HAS_EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED of OpenSSL


@dataclass(frozen=True)
class Greeting:
    """What the server's side of a handshake told."""

    seconds: float
    """Until TLS was there, with the look-up of the name."""
    tls: str
    valid_until: dt.datetime
    """Of the server's certificate."""


def check_ca_certificate(link: ServerLinkConfig) -> None:
    """Raise :class:`ConfigError` unless there is a certificate to know the server by."""
    path = link.ca_certificate
    if not path.is_file():
        raise ConfigError(
            f"server.ca_certificate: {path} does not exist; ask the coordinator for ca.crt"
        )
    try:
        ssl.create_default_context(cafile=str(path))
    except ssl.SSLError as error:
        raise ConfigError(
            f"server.ca_certificate: {path} is not a PEM certificate; ask for ca.crt again"
        ) from error


def greet(link: ServerLinkConfig) -> Greeting:
    """Shake hands with the server and hang up.

    Raises
    ------
    OSError
        If it is not there; ``strerror`` says why.
    RefusedError
        If something else answers: no TLS, another CA, or another name.
    """
    host, port = split_address(link.address)
    context = ssl.create_default_context(cafile=str(link.ca_certificate))
    started_sec = time.perf_counter()
    try:
        with (
            socket.create_connection((host, port), timeout=_CONNECT_TIMEOUT_SEC) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            certificate = secure.getpeercert() or {}
            until = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
            return Greeting(
                seconds=time.perf_counter() - started_sec,
                tls=secure.version() or "TLS",
                valid_until=dt.datetime.fromtimestamp(until, dt.UTC),
            )
    except ssl.SSLCertVerificationError as error:
        if error.verify_code == _HAS_EXPIRED:
            raise RefusedError(
                f"the certificate of the server at {link.address}, or the one in "
                f"{link.ca_certificate}, has expired; ask the coordinator to renew it, and see "
                "that this machine's clock is right"
            ) from error
        raise RefusedError(
            f"the server at {link.address} is not the one that "
            f"{link.ca_certificate} vouches for ({error.verify_message}); "
            "ask the coordinator for the right address and ca.crt"
        ) from error
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
        raise ConnectionResetError(0, "it hung up") from None  # a server that is stopping
    except ssl.SSLError as error:
        raise RefusedError(
            f"what answers at {link.address} does not speak TLS "
            f"({error.reason or 'no handshake'}); check server.address"
        ) from error

"""Ask to take part in a federation: the site's files, and the request to the server's door."""

from __future__ import annotations

import contextlib
import fcntl
import os
import ssl
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import httpx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from feat_fed.atomic import write_bytes_atomically
from feat_fed.config import load_site
from feat_fed.config.starting import key_beside, site_yaml
from feat_fed.errors import ConfigError, ProtocolError, RefusedError
from feat_fed.joining import (
    MAX_TOKEN_CHARS,
    JoinAnswer,
    JoinRequest,
    Token,
    fingerprint,
)
from feat_fed.protocol import (
    BAD_REQUEST,
    EXPIRED_TOKEN,
    JOIN_PATH,
    MAX_HEADER_BYTES,
    REVOKED_KEY,
    TOO_OFTEN,
    UNKNOWN_TOKEN,
    USED_TOKEN,
    parse_header,
    refusal_code,
)
from feat_fed_client.keys import check_site_key, make_site_key

_TIMEOUT_SEC = 20.0

_REFUSALS = {
    UNKNOWN_TOKEN: "it gave out no such token, has given out a newer one, or has revoked it: ask "
    "the coordinator for a new one",
    USED_TOKEN: "the token was used already, with another key: tell the coordinator, for it may "
    "have been stolen",
    EXPIRED_TOKEN: "the token has expired: ask the coordinator for a new one",
    REVOKED_KEY: "this key was revoked: move the private key away and give the same command "
    "again, which makes another",
    BAD_REQUEST: "it does not take the request: compare `feat-fed version` with the coordinator's",
    TOO_OFTEN: "too many requests came from this address: try again in a minute",
}


@dataclass(frozen=True)
class Prepared:
    """The site's files, and what is to be sent."""

    request: JoinRequest
    told: tuple[str, ...]
    """What was made."""
    to_do: tuple[str, ...]
    """What a person has to change."""


def read_token(source: str) -> Token:
    """Read a token from its text, a file, or standard input (``-``).

    Raises
    ------
    ConfigError
        If it is none.
    """
    if source == "-":
        return Token.parse(sys.stdin.read(MAX_TOKEN_CHARS * 2))
    # A token is longer than a file's name may be, for which some systems raise.
    with contextlib.suppress(OSError, UnicodeDecodeError, ValueError):
        if Path(source).is_file():
            with Path(source).open() as file:
                return Token.parse(file.read(MAX_TOKEN_CHARS * 2))
    if len(source) < 200 and ("/" in source or source.endswith(".token")):
        raise ConfigError(f"{source} does not exist; give the token's file or its text")
    return Token.parse(source)


def prepare(token: Token, site_file: Path, data: tuple[Path, ...]) -> Prepared:
    """Make the site's key, CA certificate and configuration, as far as they are not there.

    Raises
    ------
    ConfigError
        If what is there does not fit the token.
    """
    folder = site_file.parent
    if not folder.is_dir():
        raise ConfigError(f"the folder {folder} does not exist; make it first")
    with _alone_in(folder):
        if site_file.exists():
            return _fit(token, site_file, data)
        key_file = key_beside(site_file)
        told = [*_write_ca(token, folder / "ca.crt"), *_make_key(key_file)]
        text = site_yaml(site_file, name=token.site, address=token.address, data=data)
        write_bytes_atomically(site_file, text.encode())
    told.append(f"site's file: {site_file}")
    to_do = [] if data else [f"set data.paths in {site_file}"]
    to_do += [
        f"{path} does not exist: make it, or set data.paths in {site_file}"
        for path in data
        if not path.exists()
    ]
    return Prepared(JoinRequest.make(token, _load(key_file)), tuple(told), tuple(to_do))


def deliver(token: Token, request: JoinRequest) -> JoinAnswer | None:
    """Send a request to the server that the token names; None if it is not there.

    Raises
    ------
    RefusedError
        If it turns the request away, or is not the server that the token was made for.
    """
    context = ssl.create_default_context(cadata=token.ca_certificate)
    try:
        with (
            httpx.Client(verify=context, timeout=_TIMEOUT_SEC) as client,
            client.stream(
                "POST",
                f"https://{token.address}{JOIN_PATH}",
                content=request.model_dump_json().encode(),
            ) as response,
        ):
            content = b""
            for part in response.iter_bytes():
                content += part
                if len(content) > MAX_HEADER_BYTES:
                    break
            status = response.status_code
    except httpx.ConnectError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error) or "SSL" in str(error):
            raise RefusedError(
                f"the server at {token.address} is not the one that the token was made for "
                f"({error}); ask the coordinator for the right address and a new token"
            ) from error
        return None
    except httpx.TransportError:
        return None
    if status == 200:
        with contextlib.suppress(ProtocolError, UnicodeDecodeError):
            answer = parse_header(JoinAnswer, content.decode())
            if answer.fingerprint == request.fingerprint:
                return answer
    code = refusal_code(content)
    why = _REFUSALS.get(code or 0, f"it takes no requests to join (HTTP {status})")
    raise RefusedError(f"the server at {token.address} refuses: {why}")


def save_request(request: JoinRequest, folder: Path) -> Path:
    """Write a request for a person to send."""
    path = folder / f"{request.site}.join"
    write_bytes_atomically(path, request.model_dump_json().encode() + b"\n")
    return path


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Let one join at a time make files in a folder, so that each takes its own key."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _fit(token: Token, site_file: Path, data: tuple[Path, ...]) -> Prepared:
    """Compare the site's file with the token, and take the key that it names."""
    site = load_site(site_file)
    if site.name != token.site:
        raise ConfigError(
            f"name: {site.name} in {site_file}, and the token is for {token.site}; use the token "
            "of this hospital, or give another file with --site-config"
        )
    link = site.server
    if link is None:
        raise ConfigError(f"server: not set in {site_file}; add it, or give another --site-config")
    to_do, told = [], list(_write_ca(token, link.ca_certificate))
    if link.address != token.address:
        to_do.append(f"set server.address: {token.address} in {site_file}")
    asked = [path.resolve() for path in data]
    if asked and asked != [path.resolve() for path in site.data.paths]:
        listed = ", ".join(map(str, asked))
        to_do.append(f"set data.paths: [{listed}] in {site_file}, which was there and is kept")
    key_file = link.private_key
    if key_file.exists() and token.replaces is not None:
        check_site_key(key_file)
        if fingerprint(_load(key_file).public_key()) == token.replaces:
            key_file = _successor(key_file)
            to_do.append(
                f"when the coordinator has approved, set server.private_key: {key_file.name} in "
                f"{site_file} and start the client again; the old key ends then"
            )
    told += _make_key(key_file)
    return Prepared(JoinRequest.make(token, _load(key_file)), tuple(told), tuple(to_do))


def _successor(key_file: Path) -> Path:
    """Name the key that follows: site.key, site-2.key, site-3.key."""
    stem, _, number = key_file.stem.rpartition("-")
    if stem and number.isdigit():
        return key_file.with_stem(f"{stem}-{int(number) + 1}")
    return key_file.with_stem(f"{key_file.stem}-2")


def _make_key(path: Path) -> list[str]:
    if path.exists():
        check_site_key(path)
        return [f"private key: {path} (it was here; keep it here)"]
    make_site_key(path)
    return [f"private key: {path} (keep it here)"]


def _write_ca(token: Token, path: Path) -> list[str]:
    pem = token.ca_certificate.encode()
    if not path.exists():
        write_bytes_atomically(path, pem)
        return [f"CA certificate: {path}"]
    if path.read_bytes().strip() != pem.strip():
        raise ConfigError(
            f"{path} is the CA certificate of another server than the token's; move it away if the "
            "coordinator has a new one"
        )
    return []


def _load(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_ssh_private_key(path.read_bytes(), None)
    return cast(ec.EllipticCurvePrivateKey, key)

"""The site's secret, and the keyed hashes that stand for what would identify somebody."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path
from typing import Literal

from feat_fed.atomic import write_bytes_atomically
from feat_fed.errors import DataError

KEY_BYTES = 32
KEY_FILE = "patients.key"

Domain = Literal["key", "clip", "stamp", "study", "series", "refused"]
"""What a hashed text is, so that equal texts of different kinds give different hashes."""


def site_key(store: Path) -> bytes:
    """Return the site's secret, made on first use with mode 0600 in the site's own store.

    It may be called by several processes at once: the first one's key is everyone's.

    Raises
    ------
    DataError
        When the file cannot be made, or is not a key. It is never replaced, for with another
        key every patient gets another pseudonym and may change sides of the split.
    """
    path = store / KEY_FILE
    try:
        store.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _create_key(path)
        key = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be made or read: {error.strerror}") from error
    if len(key) != KEY_BYTES:
        raise DataError(
            f"{path} holds {len(key)} bytes, not a key of {KEY_BYTES}: restore it from a backup, "
            "or remove it to start with new pseudonyms and a new split"
        )
    return key


def fix_site_key(store: Path, text: str) -> None:
    """Give a new store a key that follows from a text, where nobody is to be protected.

    The key decides which patients are held out, so that generated clips, or those of a simulation,
    give the same numbers each time. A store that has a key keeps it.

    Raises
    ------
    DataError
        When the file cannot be made.
    """
    path = store / KEY_FILE
    if path.exists():
        return
    try:
        store.mkdir(parents=True, exist_ok=True)
        write_bytes_atomically(path, hashlib.sha256(text.encode()).digest(), mode=0o600)
    except OSError as error:
        raise DataError(f"{path} cannot be made: {error.strerror}") from error


def pseudonym(text: str, *, key: bytes) -> str:
    """Return a patient's HMAC-SHA256 (RFC 2104), in hexadecimal."""
    return _hmac(_bytes(text), key)


def keyed(domain: Domain, text: str, *, key: bytes) -> str:
    """Return HMAC-SHA256 of a text of another domain than the patients'.

    The domain stands between bytes 0xFF, which UTF-8 never has: no patient's text, whatever
    somebody typed, hashes to the same.
    """
    return _hmac(b"\xff" + domain.encode() + b"\xff" + _bytes(text), key)


def _bytes(text: str) -> bytes:
    # A file's name that is not UTF-8 has lone surrogates in it.
    return text.encode("utf-8", errors="surrogatepass")


def _hmac(message: bytes, key: bytes) -> str:
    return hmac.new(key, message, hashlib.sha256).hexdigest()


def _create_key(path: Path) -> None:
    """Write a whole key beside ``path``, then link it there unless another process was first."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        path.hardlink_to(part)
    except FileExistsError:
        return
    finally:
        part.unlink(missing_ok=True)

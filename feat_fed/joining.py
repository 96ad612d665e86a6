"""How a hospital asks to take part: the coordinator's token and the hospital's request.

A token holds the seed of a key pair of its own (Ed25519, RFC 8032). The coordinator keeps the
public half alone, so that what lies at the server lets nobody join. A request is signed twice:
with the token's key, and with the site's new key, which proves that its private half is there.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable
from typing import Annotated, Literal, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import AwareDatetime, StringConstraints, ValidationError, field_validator

from feat_fed.config.base import StrictModel
from feat_fed.config.privacy import Fingerprint
from feat_fed.config.site import Address
from feat_fed.config.study import Name
from feat_fed.errors import ConfigError, ProtocolError

MAX_TOKEN_CHARS = 8192
MAX_REQUEST_BYTES = 4096

JoinState = Literal["pending", "admitted"]

_MARK = "feat-fed-join-1"
_HASH = hashes.SHA384()
_Hex32 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_Base64 = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]{1,400}={0,2}$")]
PublicKey = Annotated[
    str, StringConstraints(pattern=r"^ecdsa-sha2-nistp384 [A-Za-z0-9+/]{60,400}={0,2}$")
]
"""In OpenSSH's form, without a comment."""


class Token(StrictModel):
    """What the coordinator gives to one hospital, once, by a way that both trust."""

    version: Literal[1] = 1
    site: Name
    address: Address
    ca_certificate: str
    """PEM; by it the hospital knows the server."""
    seed: _Hex32
    """Of the token's key. Whoever has it can ask in the hospital's name."""
    expires_at: AwareDatetime
    replaces: Fingerprint | None = None
    """Of the site's key that a new one is to replace."""

    @field_validator("ca_certificate")
    @classmethod
    def _is_a_certificate(cls, pem: str) -> str:
        x509.load_pem_x509_certificate(pem.encode())
        return pem

    @property
    def key(self) -> Ed25519PrivateKey:
        """The token's private key."""
        return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(self.seed))

    @property
    def id(self) -> str:
        """The token's public key, by which the server knows it."""
        return self.key.public_key().public_bytes_raw().hex()

    def line(self) -> str:
        """Return it as one line of text, with a check sum against a part that is not copied."""
        content = self.model_dump_json().encode()
        text = base64.urlsafe_b64encode(content).decode()
        return f"{_MARK}.{text}.{_check_sum(content)}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read such a line; line breaks and spaces that a mail put in do not matter.

        Raises
        ------
        ConfigError
            If it is none, or not whole.
        """
        parts = "".join(text[: MAX_TOKEN_CHARS * 2].split()).split(".")
        if parts[0] != _MARK:
            raise ConfigError(
                f"this is no join token; one begins with {_MARK}, and comes from the coordinator"
            )
        broken = ConfigError("the join token is not whole: copy it again, or take the file")
        try:
            content = base64.urlsafe_b64decode(parts[1])
        except (IndexError, ValueError):  # also where a mail has put in letters beyond ASCII
            raise broken from None
        if len(parts) != 3 or parts[2] != _check_sum(content):
            raise broken
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            raise ConfigError(
                "the join token is not one of this version of feat-fed: compare `feat-fed "
                "version` with the coordinator's"
            ) from error


class JoinRequest(StrictModel):
    """A hospital's request that its key be admitted."""

    version: Literal[1] = 1
    site: Name
    public_key: PublicKey
    token_id: _Hex32
    token_signature: _Base64
    key_signature: _Base64

    @classmethod
    def make(cls, token: Token, key: ec.EllipticCurvePrivateKey) -> Self:
        """Sign a request with both keys."""
        public_key = public_text(key.public_key())
        signed = _signed_text(token.site, public_key, token.id)
        return cls(
            site=token.site,
            public_key=public_key,
            token_id=token.id,
            token_signature=base64.b64encode(token.key.sign(signed)).decode(),
            key_signature=base64.b64encode(key.sign(signed, ec.ECDSA(_HASH))).decode(),
        )

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """Read a request of anybody's making.

        Raises
        ------
        ProtocolError
            If it is none, or a signature is not right.
        """
        if len(content) > MAX_REQUEST_BYTES:
            raise ProtocolError(f"a request to join of more than {MAX_REQUEST_BYTES} bytes")
        try:
            request = cls.model_validate_json(content)
        except ValidationError:
            raise ProtocolError("what was sent is no request to join of this version") from None
        signed = _signed_text(request.site, request.public_key, request.token_id)
        key = read_public_key(request.public_key.encode())
        if public_text(key) != request.public_key:
            raise ProtocolError("a public key that is written in an odd way")
        token_key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(request.token_id))
        _verify(lambda it: token_key.verify(it, signed), request.token_signature, "the token's key")
        _verify(
            lambda it: key.verify(it, signed, ec.ECDSA(_HASH)), request.key_signature, "its key"
        )
        return request

    @property
    def fingerprint(self) -> str:
        """What people compare; see :func:`fingerprint`."""
        return fingerprint(read_public_key(self.public_key.encode()))


class JoinAnswer(StrictModel):
    """The door to a hospital whose request it took."""

    state: JoinState
    fingerprint: Fingerprint


def read_public_key(line: bytes) -> ec.EllipticCurvePublicKey:
    """Read an OpenSSH public key.

    Raises
    ------
    ProtocolError
        If it is none on an elliptic curve.
    """
    try:
        key = serialization.load_ssh_public_key(line)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ProtocolError("a public key that is none in OpenSSH's form") from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ProtocolError("a public key that is not on an elliptic curve")
    return key


def public_text(key: ec.EllipticCurvePublicKey) -> str:
    """Return a key in OpenSSH's form, without a comment."""
    form = serialization.PublicFormat.OpenSSH
    return key.public_bytes(serialization.Encoding.OpenSSH, form).decode()


def fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """Return what two people compare by telephone: 128 bits of the key's SHA-256, in fours."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    digest = hashlib.sha256(key.public_bytes(serialization.Encoding.DER, form)).hexdigest()
    return " ".join(digest[first : first + 4] for first in range(0, 32, 4))


def key_pem(key: ec.EllipticCurvePublicKey) -> bytes:
    """Return a key as Flower wants it."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(serialization.Encoding.PEM, form)


def _signed_text(site: str, public_key: str, token_id: str) -> bytes:
    return "\n".join((_MARK, site, public_key, token_id)).encode()


def _verify(check: Callable[[bytes], None], signature: str, whose: str) -> None:
    try:
        check(base64.b64decode(signature, validate=True))
    except (InvalidSignature, binascii.Error, ValueError):
        raise ProtocolError(f"a request to join that is not signed by {whose}") from None


def _check_sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]

"""Keys of one session: signed offers, secrets that two sites agree on, sealed shares.

X25519 (RFC 7748) with HKDF-SHA256 (RFC 5869), ChaCha20-Poly1305 (RFC 8439), and ECDSA on P-384
with the key that a site also shows to the server. Everything is bound to the session and to the
roster that the site was shown, so that nothing of one round, or shown to one site alone, fits
another.
"""

from __future__ import annotations

import hashlib
import os

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from feat_fed.config.study import Name
from feat_fed.errors import AgreementError
from feat_fed.joining import public_text, read_public_key
from feat_fed.secagg.messages import MARK, KeyOffer, Roster, to_bytes, to_text
from feat_fed.secagg.shamir import SECRET_BYTES
from feat_fed.secagg.terms import Terms

_HASH = ec.ECDSA(hashes.SHA384())
_HALF_SIGNATURE = 48
_NONCE_BYTES = 12


def sign(key: ec.EllipticCurvePrivateKey, text: bytes) -> bytes:
    """Return r and s of a signature, 96 bytes whatever they are."""
    r, s = decode_dss_signature(key.sign(text, _HASH))
    return r.to_bytes(_HALF_SIGNATURE, "big") + s.to_bytes(_HALF_SIGNATURE, "big")


def check_offer(offer: KeyOffer) -> None:
    """Check that an offer is signed by the key that it names, which somebody else must know.

    Raises
    ------
    AgreementError
        If it is not.
    """
    key = read_public_key(offer.identity.encode())
    if public_text(key) != offer.identity:
        raise AgreementError(f"{offer.site}: a public key that is written in an odd way")
    signature = to_bytes(offer.signature)
    r, s = (
        int.from_bytes(half, "big")
        for half in (signature[:_HALF_SIGNATURE], signature[_HALF_SIGNATURE:])
    )
    try:
        key.verify(encode_dss_signature(r, s), offer.signed_text, _HASH)
    except InvalidSignature:
        raise AgreementError(f"{offer.site}: keys that are not signed by its own key") from None


def roster_digest(roster: Roster, terms: Terms) -> str:
    """Return the SHA-256 of all that the sites must have been shown alike."""
    k_t = (str(terms.neighbours), str(terms.threshold))
    return commitment("roster", *k_t, *(each.signed_text for each in roster.offers))


def agreed_seed(private: bytes, public: bytes, roster: str, names: tuple[Name, Name]) -> bytes:
    """Return the seed of the mask of two sites (s_uv), the same at either.

    Raises
    ------
    AgreementError
        If the other's key is of those that agree on the same with everybody.
    """
    return _agreed(private, public, roster, "mask", *sorted(names))


def seal(
    private: bytes, public: bytes, roster: str, *, sender: Name, receiver: Name, text: bytes
) -> bytes:
    """Return a nonce and what only the receiver can open, and only as from this sender.

    Raises
    ------
    AgreementError
        As :func:`agreed_seed` does.
    """
    key = _agreed(private, public, roster, "shares", sender, receiver)
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, text, _bound(roster, sender, receiver))


def unseal(
    private: bytes, public: bytes, roster: str, *, sender: Name, receiver: Name, sealed: bytes
) -> bytes:
    """Return what :func:`seal` hid.

    Raises
    ------
    AgreementError
        If it was altered, or sealed for another session, roster, sender or receiver.
    """
    key = _agreed(private, public, roster, "shares", sender, receiver)
    nonce, text = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
    try:
        return ChaCha20Poly1305(key).decrypt(nonce, text, _bound(roster, sender, receiver))
    except InvalidTag:
        raise AgreementError(
            f"shares of {sender} that were altered, or sealed for another round or roster"
        ) from None


def commitment(*parts: str | bytes) -> str:
    """Return the SHA-256 of random bytes and whose they are."""
    sha = hashlib.sha256(MARK.encode())
    for part in parts:
        data = part if isinstance(part, bytes) else part.encode()
        sha.update(len(data).to_bytes(4, "big") + data)
    return sha.hexdigest()


def public_of(private: bytes) -> str:
    """Return the public key of a private one of X25519, as an offer holds it."""
    return to_text(X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw())


def _bound(roster: str, sender: Name, receiver: Name) -> bytes:
    return "\n".join((MARK, "shares", roster, sender, receiver)).encode()


def _agreed(private: bytes, public: bytes, roster: str, use: str, one: Name, other: Name) -> bytes:
    try:
        shared = X25519PrivateKey.from_private_bytes(private).exchange(
            X25519PublicKey.from_public_bytes(public)
        )
    except ValueError:
        raise AgreementError(f"{one} and {other}: a key on which nobody can agree") from None
    info = "\n".join((MARK, use, one, other)).encode()
    return HKDF(hashes.SHA256(), SECRET_BYTES, bytes.fromhex(roster), info).derive(shared)

"""Shares of 32-byte secrets: Shamir's scheme (1979) over GF(2^128), by PyCryptodome.

A secret is shared in two halves of 16 bytes, each by a polynomial of its own. A share's place
(the x of its point) is its holder's among all holders in name order, and is not sent.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from Crypto.Protocol.SecretSharing import Shamir

SECRET_BYTES = 32
_HALF = 16


def deal(secret: bytes, holders: Collection[str], threshold: int) -> dict[str, bytes]:
    """Return a share of 32 bytes for each holder; any ``threshold`` of them make the secret."""
    first, second = (
        Shamir.split(threshold, len(holders), half, ssss=False)
        for half in (secret[:_HALF], secret[_HALF:])
    )
    return {
        holder: first[place][1] + second[place][1] for place, holder in enumerate(sorted(holders))
    }


def combine(shares: Mapping[str, bytes], holders: Collection[str], threshold: int) -> bytes:
    """Return the secret of at least ``threshold`` shares; of wrong ones, something else."""
    place = {holder: at for at, holder in enumerate(sorted(holders), start=1)}
    points = [(place[holder], shares[holder]) for holder in sorted(shares)[:threshold]]
    halves = (slice(None, _HALF), slice(_HALF, None))
    return b"".join(
        Shamir.combine([(x, share[half]) for x, share in points], ssss=False) for half in halves
    )

"""What sites and server say to each other in a round with secure aggregation.

Headers only (the masked values travel beside them as any weights do): numbers, names and bytes
as base64, each of a fixed size for a given number of neighbours, whatever the values are. Stages
are counted as in Figure 4 of Bonawitz et al. (CCS 2017, ePrint 2017/281).
"""

from __future__ import annotations

import base64
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from feat_fed.config.base import StrictModel
from feat_fed.config.study import Name
from feat_fed.joining import PublicKey, fingerprint, read_public_key
from feat_fed.protocol import StudyId

MARK = "feat-fed-secagg-1"
"""Begins everything that is signed, derived or sealed here, and nothing else that a key signs."""

MOST_SITES = 64
LEAST_SITES = 3
"""Of two, each would read the other's update out of the sum."""

Key = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]{43}=$")]
"""32 bytes: a public key of X25519."""
Share = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]{43}=$")]
"""32 bytes: a share of a 32-byte secret, without its place among the shares."""
Sealed = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]{123}=$")]
"""92 bytes: a nonce (12), two shares (64) and the seal (16)."""
Signature = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]{128}$")]
"""96 bytes: r and s of ECDSA on P-384."""
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256."""


class Session(StrictModel):
    """One attempt at one round of one study: no key, share or mask is of use in another."""

    study_id: StudyId
    round: int = Field(ge=1, le=100_000)
    attempt: int = Field(1, ge=1, le=1000, description="1, and one more each time it failed")

    @property
    def text(self) -> str:
        """As it is bound into signatures, keys and seals."""
        return f"{MARK}\n{self.study_id}\n{self.round}\n{self.attempt}"


class KeyOffer(StrictModel):
    """Site to server, stage 0: public keys for this session, signed by the site's own key."""

    session: Session
    site: Name
    identity: PublicKey
    """The site's own public key, with which it also speaks to the server."""
    cipher_key: Key
    """Seals shares for the site (c_u^PK)."""
    mask_key: Key
    """Agrees on pairwise masks with it (s_u^PK)."""
    signature: Signature

    @property
    def signed_text(self) -> bytes:
        """What the signature is of."""
        parts = ("keys", self.site, self.identity, self.cipher_key, self.mask_key)
        return "\n".join((self.session.text, *parts)).encode()

    @property
    def fingerprint(self) -> str:
        """Of the site's own public key, as people compare it and ``site.privacy.peers`` has it."""
        return fingerprint(read_public_key(self.identity.encode()))


class Roster(StrictModel):
    """Server to sites, stage 1: the offers of all who take part, in the names' order (U_1)."""

    session: Session
    offers: tuple[KeyOffer, ...] = Field(min_length=LEAST_SITES, max_length=MOST_SITES)

    @model_validator(mode="after")
    def _is_of_one_session(self) -> Self:
        if any(each.session != self.session for each in self.offers):
            raise ValueError("an offer is of another session")
        if list(self.names) != sorted(set(self.names)):
            raise ValueError("the offers are not in the names' order, each site once")
        keys = {key for each in self.offers for key in (each.cipher_key, each.mask_key)}
        identities = {each.identity for each in self.offers}
        if len(keys) < 2 * len(self.offers) or len(identities) < len(self.offers):
            raise ValueError("a key comes twice")
        return self

    @property
    def names(self) -> tuple[Name, ...]:
        """Of the sites that take part."""
        return tuple(each.site for each in self.offers)

    def of(self, site: Name) -> KeyOffer:
        """Return a site's offer; KeyError if it has none."""
        return {each.site: each for each in self.offers}[site]


class ShareOffer(StrictModel):
    """Site to server, stage 1: shares of its two secrets, one pair for each neighbour.

    Only the neighbour can open a pair. The commitments let the server tell a share that was
    altered later from the one that was dealt; a share is random, so its hash says nothing of it.
    """

    session: Session
    site: Name
    roster: Digest
    """Of what the site was shown: :func:`feat_fed.secagg.agreement.roster_digest`."""
    sealed: dict[Name, Sealed] = Field(max_length=MOST_SITES)
    """To each neighbour."""
    commitments: dict[Name, tuple[Digest, Digest]] = Field(max_length=MOST_SITES)
    """To the shares of the own-mask seed and of the mask key that each holder has, its own too."""
    seed_commitment: Digest
    """To the seed of the site's own mask (b_u)."""


class Deliveries(StrictModel):
    """Server to one site, stage 2: what its neighbours sealed for it (of U_2)."""

    session: Session
    site: Name
    sealed: dict[Name, Sealed] = Field(max_length=MOST_SITES)
    """From each neighbour that sent shares; with these the site masks."""


class UnmaskRequest(StrictModel):
    """Server to sites, stage 4: whose masked updates have come (U_3), in the names' order."""

    session: Session
    survivors: tuple[Name, ...] = Field(min_length=2, max_length=MOST_SITES)

    @model_validator(mode="after")
    def _is_sorted(self) -> Self:
        if list(self.survivors) != sorted(set(self.survivors)):
            raise ValueError("the survivors are not in the names' order, each once")
        return self


class Shares(StrictModel):
    """Site to server, stage 4: for each neighbour one share of one kind, never of both."""

    session: Session
    site: Name
    seeds: dict[Name, Share] = Field(max_length=MOST_SITES)
    """Of the own-mask seeds of survivors, the site's own too."""
    mask_keys: dict[Name, Share] = Field(max_length=MOST_SITES)
    """Of the mask keys of neighbours that dropped out."""

    @model_validator(mode="after")
    def _is_of_one_kind_each(self) -> Self:
        if self.seeds.keys() & self.mask_keys.keys():
            raise ValueError("shares of both kinds of one site")
        return self


def to_text(data: bytes) -> str:
    """Return bytes as a header carries them."""
    return base64.b64encode(data).decode()


def to_bytes(text: str) -> bytes:
    """Return the bytes of a header's text, whose form was checked."""
    return base64.b64decode(text, validate=True)

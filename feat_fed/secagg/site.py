"""A site's part in a round with secure aggregation, stage by stage.

The protocol is SecAgg+ (Bell et al., CCS 2020, Algorithm 2) with the stages of Bonawitz et al.
(CCS 2017, Figure 4) and of its protection against a server that cheats the signed keys of stage
0. Stage 3 of Figure 4, in which sites sign the set of survivors for each other, is not there:
docs/privacy.md says what a server that cheats can do without it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pydantic import Field

from feat_fed.config.base import StrictModel
from feat_fed.config.privacy import SecureAggregationConfig
from feat_fed.config.study import Name
from feat_fed.errors import AgreementError
from feat_fed.joining import public_text
from feat_fed.secagg.agreement import (
    agreed_seed,
    check_offer,
    commitment,
    public_of,
    roster_digest,
    seal,
    sign,
    unseal,
)
from feat_fed.secagg.masks import SEED_BYTES, Masks
from feat_fed.secagg.messages import (
    Deliveries,
    Digest,
    Key,
    KeyOffer,
    Roster,
    Session,
    Share,
    ShareOffer,
    Shares,
    UnmaskRequest,
    to_bytes,
    to_text,
)
from feat_fed.secagg.shamir import deal
from feat_fed.secagg.terms import Graph, Terms, graph_of, is_connected, terms_of

_SHARE_BYTES = 32


class SiteState(StrictModel):
    """All that a site must still know in a later stage; secret, and for the site's disk alone."""

    offer: KeyOffer
    cipher_secret: Key = Field(repr=False)
    mask_secret: Key = Field(repr=False)
    seed: Key = Field(repr=False)
    """Of the site's own mask (b_u)."""
    roster: Roster | None = None
    terms: Terms | None = None
    answer: ShareOffer | None = None
    """That stage 1 was answered with."""
    own_share: Share | None = Field(None, repr=False)
    """Of the own mask's seed, that the site keeps as one of its holders."""
    deliveries: Deliveries | None = None
    """With which the site masked."""
    values: Digest | None = None
    """Of what was masked."""
    survivors: tuple[Name, ...] | None = None
    """For which shares were given away."""


class SiteSecAgg:
    """A site in one session.

    Each stage changes :attr:`state`: write it to disk (:func:`feat_fed.secagg.write_state`) before
    the stage's answer leaves, and keep it until the next session's takes its place. A stage that
    is asked again gives the same answer; asked differently, it is refused.
    """

    def __init__(self, state: SiteState) -> None:
        self.state = state

    @classmethod
    def begin(
        cls,
        session: Session,
        site: Name,
        key: ec.EllipticCurvePrivateKey,
        *,
        previous: SiteState | None = None,
    ) -> SiteSecAgg:
        """Make keys for a session, or go on with it where ``previous`` is of the same one.

        Parameters
        ----------
        key
            The site's own, with which it also speaks to the server.
        previous
            The last state that the site has kept of this study.

        Raises
        ------
        AgreementError
            If the session is older than the previous one; or if it is another attempt at a round
            for which shares were given away: of two sums the server could tell one site's part.
        """
        if previous is not None and previous.offer.session.study_id == session.study_id:
            before = previous.offer.session
            if before == session:
                return cls(previous)
            if (session.round, session.attempt) < (before.round, before.attempt):
                raise AgreementError(
                    f"round {session.round}, attempt {session.attempt} of secure aggregation is "
                    f"asked after round {before.round}, attempt {before.attempt}"
                )
            if session.round == before.round and previous.survivors is not None:
                raise AgreementError(
                    f"another attempt at round {session.round}, of which this site has unmasked "
                    "one already; two sums of a round would tell single updates"
                )
        cipher, mask = (X25519PrivateKey.generate().private_bytes_raw() for _ in range(2))
        offer = KeyOffer(
            session=session,
            site=site,
            identity=public_text(key.public_key()),
            cipher_key=public_of(cipher),
            mask_key=public_of(mask),
            signature="A" * 128,
        )
        signature = to_text(sign(key, offer.signed_text))
        return cls(
            SiteState(
                offer=offer.model_copy(update={"signature": signature}),
                cipher_secret=to_text(cipher),
                mask_secret=to_text(mask),
                seed=to_text(os.urandom(SEED_BYTES)),
            )
        )

    @property
    def name(self) -> Name:
        """The site's."""
        return self.state.offer.site

    @property
    def session(self) -> Session:
        """That the state is of."""
        return self.state.offer.session

    def keys(self) -> KeyOffer:
        """Stage 0 (AdvertiseKeys): return the signed public keys."""
        return self.state.offer

    def shares(
        self,
        roster: Roster,
        config: SecureAggregationConfig,
        *,
        known: Mapping[Name, str],
    ) -> ShareOffer:
        """Stage 1 (ShareKeys): deal shares of both secrets to the neighbours.

        Parameters
        ----------
        known
            The public keys that the site believes to be the other sites' own, by their
            :attr:`KeyOffer.fingerprint`; an offer with another one is refused, as is one of a
            site that is not listed.

        Raises
        ------
        AgreementError
            If an offer is not signed by the key that is known, the site's own is missing or
            altered, the roster is of another session, or a second one.
        DropoutError
            If there are too few sites.
        """
        self._check_session(roster.session)
        if self.state.answer is not None:
            if roster != self.state.roster:
                raise AgreementError("a second and different roster of sites for the same session")
            return self.state.answer
        if self.name not in roster.names or roster.of(self.name) != self.state.offer:
            raise AgreementError("a roster of sites without the keys that this site offered")
        for offer in roster.offers:
            if offer.site != self.name and known.get(offer.site) != offer.fingerprint:
                raise AgreementError(
                    f"the keys of {offer.site} are not under the public key that this site knows "
                    "as its own; ask that hospital, which `feat-fed join` has shown it"
                )
            check_offer(offer)
        terms = terms_of(config, len(roster.offers))
        self.state = self.state.model_copy(update={"roster": roster, "terms": terms})
        answer, own_share = self._dealt()
        self.state = self.state.model_copy(update={"answer": answer, "own_share": own_share})
        return answer

    def masks(self, deliveries: Deliveries, *, values: Digest) -> Masks:
        """Stage 2 (MaskedInputCollection): return the masks to add to the update.

        Parameters
        ----------
        deliveries
            From the neighbours with which the site is to mask.
        values
            SHA-256 of all that is to be masked. The same masks may be had again, after a crash,
            for the same values alone: two updates under one mask tell their difference.

        Raises
        ------
        AgreementError
            If a delivery was altered, is nobody's who is a neighbour, there are fewer than the
            threshold asks for, or deliveries or values differ from those of the first time.
        """
        self._check_session(deliveries.session)
        roster, terms = self._shown()
        if deliveries.site != self.name:
            raise AgreementError(f"deliveries that are for {deliveries.site}")
        if self.state.deliveries not in (None, deliveries) or self.state.values not in (
            None,
            values,
        ):
            raise AgreementError(
                "the masks of this session have hidden other values, or were agreed with other "
                "sites; they cannot be used again"
            )
        if not deliveries.sealed.keys() <= self._graph()[self.name]:
            raise AgreementError("shares of a site that is no neighbour")
        if len(deliveries.sealed) + 1 < terms.threshold:
            raise AgreementError(
                f"shares of {len(deliveries.sealed)} neighbours; at least {terms.threshold - 1} "
                "must take part for this site's update to be hidden and found"
            )
        for sender, sealed in deliveries.sealed.items():
            self._opened(sender, sealed)
        added, subtracted = [to_bytes(self.state.seed)], list[bytes]()
        digest = roster_digest(roster, terms)
        for peer in sorted(deliveries.sealed):
            public = to_bytes(roster.of(peer).mask_key)
            secret = to_bytes(self.state.mask_secret)
            seed = agreed_seed(secret, public, digest, (self.name, peer))
            (added if self.name < peer else subtracted).append(seed)
        self.state = self.state.model_copy(update={"deliveries": deliveries, "values": values})
        return Masks(added=tuple(added), subtracted=tuple(subtracted))

    def unmask(self, request: UnmaskRequest) -> Shares:
        """Stage 4 (Unmasking): of each neighbour give a share of one secret.

        Of survivors it is the seed of their own mask, of the others their mask key.

        Raises
        ------
        AgreementError
            If the site has not masked, is no survivor itself, a survivor was not in the roster,
            fewer survive around this site than the threshold asks for, survivors fall apart into
            groups whose sums would be told, or shares were given for other survivors before.
        """
        self._check_session(request.session)
        roster, terms = self._shown()
        if self.state.deliveries is None:
            raise AgreementError("shares are asked of a site that has not sent a masked update")
        if self.state.survivors not in (None, request.survivors):
            raise AgreementError("shares are asked for a second and different set of survivors")
        survivors, graph = set(request.survivors), self._graph()
        if self.name not in survivors or not survivors <= set(roster.names):
            raise AgreementError("survivors without this site, or that did not take part")
        held = self.state.deliveries.sealed
        around = survivors & {self.name, *held}
        if len(around) < terms.threshold:
            raise AgreementError(
                f"{len(around)} survivors among this site and its neighbours; at least "
                f"{terms.threshold} must stay"
            )
        if survivors & graph[self.name] - held.keys():
            raise AgreementError("a neighbour survives with which this site has not masked")
        if not is_connected(graph, survivors):
            raise AgreementError("the survivors fall apart into groups, whose sums would be told")
        seeds, mask_keys = {self.name: self._own_share()}, {}
        for sender, sealed in sorted(held.items()):
            of_seed, of_mask_key = self._opened(sender, sealed)
            if sender in survivors:
                seeds[sender] = to_text(of_seed)
            else:
                mask_keys[sender] = to_text(of_mask_key)
        self.state = self.state.model_copy(update={"survivors": request.survivors})
        return Shares(session=self.session, site=self.name, seeds=seeds, mask_keys=mask_keys)

    def _dealt(self) -> tuple[ShareOffer, Share]:
        roster, terms = self._shown()
        digest = roster_digest(roster, terms)
        holders = self._graph()[self.name] | {self.name}
        seed = to_bytes(self.state.seed)
        of_seed = deal(seed, holders, terms.threshold)
        of_mask_key = deal(to_bytes(self.state.mask_secret), holders, terms.threshold)
        sealed = {
            peer: seal(
                to_bytes(self.state.cipher_secret),
                to_bytes(roster.of(peer).cipher_key),
                digest,
                sender=self.name,
                receiver=peer,
                text=of_seed[peer] + of_mask_key[peer],
            )
            for peer in sorted(holders - {self.name})
        }
        offer = ShareOffer(
            session=self.session,
            site=self.name,
            roster=digest,
            sealed={peer: to_text(each) for peer, each in sealed.items()},
            commitments={
                holder: (
                    commitment("seed", self.name, holder, of_seed[holder]),
                    commitment("mask key", self.name, holder, of_mask_key[holder]),
                )
                for holder in sorted(holders)
            },
            seed_commitment=commitment("own mask", self.name, seed),
        )
        return offer, to_text(of_seed[self.name])

    def _opened(self, sender: Name, sealed: str) -> tuple[bytes, bytes]:
        """Return the shares of a neighbour's seed and of its mask key."""
        roster, terms = self._shown()
        text = unseal(
            to_bytes(self.state.cipher_secret),
            to_bytes(roster.of(sender).cipher_key),
            roster_digest(roster, terms),
            sender=sender,
            receiver=self.name,
            sealed=to_bytes(sealed),
        )
        return text[:_SHARE_BYTES], text[_SHARE_BYTES:]

    def _check_session(self, session: Session) -> None:
        if session != self.session:
            raise AgreementError(
                f"a message of secure aggregation for round {session.round}, attempt "
                f"{session.attempt}; this site is in round {self.session.round}, attempt "
                f"{self.session.attempt}"
            )

    def _shown(self) -> tuple[Roster, Terms]:
        if self.state.roster is None or self.state.terms is None:
            raise AgreementError("a stage of secure aggregation before the roster of sites came")
        return self.state.roster, self.state.terms

    def _own_share(self) -> Share:
        if self.state.own_share is None:
            raise AgreementError("a stage of secure aggregation before the roster of sites came")
        return self.state.own_share

    def _graph(self) -> Graph:
        roster, terms = self._shown()
        return graph_of(roster.names, terms.neighbours, roster_digest(roster, terms))

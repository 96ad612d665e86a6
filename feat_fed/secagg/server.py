"""The server's part in a round with secure aggregation, stage by stage.

It carries what sites say to each other and finds the masks that the sum still holds. It never
has both secrets of a site, so it cannot take the masks off a single update. The stages are those
of :mod:`feat_fed.secagg.site`.
"""

from __future__ import annotations

from collections.abc import Collection

from pydantic import Field

from feat_fed.config.base import StrictModel
from feat_fed.config.privacy import SecureAggregationConfig
from feat_fed.config.study import Name
from feat_fed.errors import AgreementError, DropoutError
from feat_fed.joining import PublicKey
from feat_fed.secagg.agreement import (
    agreed_seed,
    check_offer,
    commitment,
    public_of,
    roster_digest,
)
from feat_fed.secagg.masks import Masks
from feat_fed.secagg.messages import (
    Deliveries,
    KeyOffer,
    Roster,
    Session,
    Share,
    ShareOffer,
    Shares,
    UnmaskRequest,
    to_bytes,
)
from feat_fed.secagg.shamir import combine
from feat_fed.secagg.terms import Graph, Terms, graph_of, is_connected, terms_of


class ServerState(StrictModel):
    """All that has come; a killed server goes on from it."""

    session: Session
    config: SecureAggregationConfig
    offers: dict[Name, KeyOffer] = Field(default_factory=dict)
    roster: Roster | None = None
    """Set at the end of stage 0."""
    dealt: dict[Name, ShareOffer] = Field(default_factory=dict)
    sharing: tuple[Name, ...] | None = None
    """U_2, set at the end of stage 1."""
    masked: tuple[Name, ...] = ()
    request: UnmaskRequest | None = None
    """Set at the end of stage 2."""
    shares: dict[Name, Shares] = Field(default_factory=dict)


class ServerSecAgg:
    """The server in one session.

    Messages are taken while a stage is open; :meth:`roster`, :meth:`deal` and :meth:`request`
    end stages 0, 1 and 2 with who is there, and give the same when they are called again. Each
    changes :attr:`state`: write it to disk (:func:`feat_fed.secagg.write_state`) before a next
    stage is asked for. A message that comes twice is taken once; one that differs is refused.
    """

    def __init__(self, state: ServerState) -> None:
        self.state = state

    @classmethod
    def begin(cls, session: Session, config: SecureAggregationConfig) -> ServerSecAgg:
        """Open stage 0 of a session."""
        return cls(ServerState(session=session, config=config))

    def take_keys(self, offer: KeyOffer, *, sender: Name, identity: PublicKey) -> None:
        """Stage 0 (AdvertiseKeys): take a site's public keys.

        Parameters
        ----------
        sender
            The site from which it came.
        identity
            The public key under which the server has registered that site.

        Raises
        ------
        AgreementError
            If it is of another session, site or key, not signed by that key, or a second one.
        """
        self._check(offer.session, offer.site, sender)
        if self.state.roster is not None:
            raise AgreementError(f"{sender}: keys after the roster was made")
        if offer.identity != identity:
            raise AgreementError(f"{sender}: keys under another public key than it registered")
        check_offer(offer)
        if self.state.offers.get(sender, offer) != offer:
            raise AgreementError(f"{sender}: second and different keys")
        taken = {
            key
            for name, each in self.state.offers.items()
            for key in (each.cipher_key, each.mask_key)
            if name != sender
        }
        if {offer.cipher_key, offer.mask_key} & taken or offer.cipher_key == offer.mask_key:
            raise AgreementError(f"{sender}: keys that came before")
        self._change(offers={**self.state.offers, sender: offer})

    def roster(self) -> Roster:
        """End stage 0: return the offers for all sites in :attr:`Roster.names`.

        Raises
        ------
        DropoutError
            If there are too few.
        """
        if self.state.roster is None:
            terms_of(self.state.config, len(self.state.offers))
            offers = tuple(self.state.offers[name] for name in sorted(self.state.offers))
            self._change(roster=Roster(session=self.state.session, offers=offers))
        return self._roster()

    def take_shares(self, offer: ShareOffer, *, sender: Name) -> None:
        """Stage 1 (ShareKeys): take what a site has sealed for its neighbours.

        Raises
        ------
        AgreementError
            If it is not for the very neighbours, of another session or roster, or a second one.
        """
        self._check(offer.session, offer.site, sender)
        roster, terms, graph = self._made()
        if self.state.sharing is not None:
            raise AgreementError(f"{sender}: shares after the stage ended")
        if sender not in roster.names:
            raise AgreementError(f"{sender}: shares of a site that is not in the roster")
        if offer.roster != roster_digest(roster, terms):
            raise AgreementError(f"{sender}: shares for another roster of sites")
        neighbours = graph[sender]
        if offer.sealed.keys() != neighbours or offer.commitments.keys() != neighbours | {sender}:
            raise AgreementError(f"{sender}: shares that are not for its neighbours")
        if self.state.dealt.get(sender, offer) != offer:
            raise AgreementError(f"{sender}: second and different shares")
        self._change(dealt={**self.state.dealt, sender: offer})

    def deal(self) -> dict[Name, Deliveries]:
        """End stage 1: return for each site that goes on what its neighbours sealed for it.

        Raises
        ------
        DropoutError
            If too few are left around a site.
        """
        _, _, graph = self._made()
        sharing = self.state.sharing or tuple(sorted(self.state.dealt))
        self._check_enough(sharing, sharing, "dealt shares")
        self._change(sharing=sharing)
        return {
            site: Deliveries(
                session=self.state.session,
                site=site,
                sealed={
                    peer: self.state.dealt[peer].sealed[site]
                    for peer in sorted(graph[site] & set(sharing))
                },
            )
            for site in sharing
        }

    def take_masked(self, sender: Name) -> None:
        """Stage 2 (MaskedInputCollection): a site's masked update has come and is kept.

        Raises
        ------
        AgreementError
            If the site is not in this stage, or the stage has ended.
        """
        if self.state.request is not None:
            raise AgreementError(f"{sender}: a masked update after the stage ended")
        if self.state.sharing is None or sender not in self.state.sharing:
            raise AgreementError(f"{sender}: a masked update of a site that has dealt no shares")
        self._change(masked=tuple(sorted({*self.state.masked, sender})))

    def request(self) -> UnmaskRequest:
        """End stage 2: return what to ask all survivors for; the sum is of their updates alone.

        Raises
        ------
        DropoutError
            If too few are left around a site, or those that are left fall apart.
        """
        if self.state.request is None:
            _, _, graph = self._made()
            survivors = self.state.masked
            self._check_enough(self._concerned(survivors), survivors, "sent masked updates")
            if not is_connected(graph, survivors):
                raise DropoutError(
                    "the sites that sent masked updates share no masks with each other; the round "
                    "has to be asked again"
                )
            request = UnmaskRequest(session=self.state.session, survivors=survivors)
            self._change(request=request)
            return request
        return self.state.request

    def take_unmask(self, shares: Shares, *, sender: Name) -> None:
        """Stage 4 (Unmasking): take a survivor's shares.

        Raises
        ------
        AgreementError
            If they are not of the kinds that were asked for, a share is not the one that was
            dealt, or the site is no survivor.
        """
        self._check(shares.session, shares.site, sender)
        _, _, graph = self._made()
        if self.state.request is None or sender not in self.state.request.survivors:
            raise AgreementError(f"{sender}: shares that were not asked for")
        survivors, sharing = set(self.state.request.survivors), set(self.state.sharing or ())
        around = (graph[sender] | {sender}) & sharing
        if shares.seeds.keys() != around & survivors or shares.mask_keys.keys() != (
            around - survivors
        ):
            raise AgreementError(f"{sender}: shares of the wrong sites or kinds")
        for kind, place, given in (
            ("seed", 0, shares.seeds),
            ("mask key", 1, shares.mask_keys),
        ):
            for owner, share in given.items():
                dealt = self.state.dealt[owner].commitments[sender][place]
                if commitment(kind, owner, sender, to_bytes(share)) != dealt:
                    raise AgreementError(f"{sender}: a share of {owner} that was not dealt")
        self._change(shares={**self.state.shares, sender: shares})

    @property
    def threshold(self) -> int:
        """Shares of which a secret is put together again."""
        return self._made()[1].threshold

    @property
    def is_recoverable(self) -> bool:
        """Whether enough shares are there for :meth:`recover`."""
        return not self._lacking()

    def recover(self) -> Masks:
        """End stage 4: return the masks that take off what the survivors' sum still holds.

        Raises
        ------
        DropoutError
            If too few shares have come.
        AgreementError
            If the shares that a site has dealt do not make its secret.
        """
        lacking = self._lacking()
        if lacking:
            raise DropoutError(
                f"too few sites have answered for the masks of {', '.join(lacking)} to be found; "
                "ask those that are missing again"
            )
        roster, terms, graph = self._made()
        survivors = self._survivors()
        added: list[bytes] = []
        subtracted = [self._secret(name, "seeds") for name in survivors]
        for name in self._dropped():
            secret = self._secret(name, "mask_keys")
            for peer in sorted(graph[name] & set(survivors)):
                public = to_bytes(roster.of(peer).mask_key)
                seed = agreed_seed(secret, public, roster_digest(roster, terms), (name, peer))
                # The peer has added it where its own name is the first, and subtracted it else.
                (subtracted if peer < name else added).append(seed)
        return Masks(added=tuple(added), subtracted=tuple(subtracted))

    def _secret(self, owner: Name, kind: str) -> bytes:
        """Return the seed of a site's own mask, or its mask key, put together and checked."""
        roster, terms, graph = self._made()
        shares = {name: to_bytes(each) for name, each in self._shares_of(owner, kind).items()}
        secret = combine(shares, graph[owner] | {owner}, terms.threshold)
        if kind == "seeds":
            right = commitment("own mask", owner, secret) == self.state.dealt[owner].seed_commitment
        else:
            right = public_of(secret) == roster.of(owner).mask_key
        if not right:
            raise AgreementError(f"{owner}: the shares that it dealt do not make its secret")
        return secret

    def _shares_of(self, owner: Name, kind: str) -> dict[Name, Share]:
        given = {
            holder: each.seeds if kind == "seeds" else each.mask_keys
            for holder, each in self.state.shares.items()
        }
        return {holder: each[owner] for holder, each in given.items() if owner in each}

    def _lacking(self) -> list[Name]:
        """Return the sites of whose secrets too few shares have come."""
        _, terms, _ = self._made()
        needed = [(name, "seeds") for name in self._survivors()]
        needed += [(name, "mask_keys") for name in self._dropped()]
        return sorted(
            name for name, kind in needed if len(self._shares_of(name, kind)) < terms.threshold
        )

    def _survivors(self) -> tuple[Name, ...]:
        if self.state.request is None:
            raise AgreementError("shares are looked for before they were asked for")
        return self.state.request.survivors

    def _dropped(self) -> list[Name]:
        survivors = self._survivors()
        return [name for name in self._concerned(survivors) if name not in survivors]

    def _concerned(self, survivors: Collection[Name]) -> list[Name]:
        """Return who has masked with a survivor, or is one."""
        _, _, graph = self._made()
        return [
            name
            for name in self.state.sharing or ()
            if name in survivors or graph[name] & set(survivors)
        ]

    def _check_enough(self, owners: Collection[Name], left: Collection[Name], did: str) -> None:
        """Check that around each owner enough sites are left, itself among them."""
        _, terms, graph = self._made()
        short = [
            name for name in owners if len((graph[name] | {name}) & set(left)) < terms.threshold
        ]
        if short or len(left) < terms.threshold:
            raise DropoutError(
                f"{len(left)} of {len(graph)} sites have {did}; {terms.threshold} are needed "
                f"around each site ({', '.join(short) or 'all'} would have fewer)"
            )

    def _check(self, session: Session, site: Name, sender: Name) -> None:
        if session != self.state.session:
            raise AgreementError(
                f"{sender}: a message of secure aggregation for another study, round or attempt"
            )
        if site != sender:
            raise AgreementError(f"{sender}: a message in the name of {site}")

    def _roster(self) -> Roster:
        if self.state.roster is None:
            raise AgreementError("a stage of secure aggregation before the roster was made")
        return self.state.roster

    def _made(self) -> tuple[Roster, Terms, Graph]:
        roster = self._roster()
        terms = terms_of(self.state.config, len(roster.offers))
        graph = graph_of(roster.names, terms.neighbours, roster_digest(roster, terms))
        return roster, terms, graph

    def _change(self, **changes: object) -> None:
        self.state = self.state.model_copy(update=changes)

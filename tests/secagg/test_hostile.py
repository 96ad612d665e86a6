"""What a cheating server, site or wire tries, and who refuses it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pydantic import ValidationError

from feat_fed.config.privacy import SecureAggregationConfig
from feat_fed.errors import AgreementError
from feat_fed.joining import public_text
from feat_fed.secagg import Deliveries, KeyOffer, Roster, Session, Shares, SiteSecAgg, UnmaskRequest
from secure_sites import STUDY, SecureRound, key_of, known, session

ME = "site-0"
PEER = "site-1"


def altered(text: str) -> str:
    at = len(text) // 2
    return text[:at] + ("B" if text[at] == "A" else "A") + text[at + 1 :]


def offered(at: Session, name: str = PEER) -> KeyOffer:
    return SiteSecAgg.begin(at, name, key_of(name)).keys()


@pytest.mark.parametrize(
    ("offer", "told"),
    [
        (lambda at: offered(session(at.round + 1)), "another study, round or attempt"),
        (lambda at: offered(session(attempt=2)), "another study, round or attempt"),
        (lambda at: offered(session(study="f" * 32)), "another study, round or attempt"),
        # An old offer that is dressed up as one of this session.
        (
            lambda at: offered(session(2)).model_copy(update={"session": at}),
            "not signed by its own key",
        ),
        (
            lambda at: (it := offered(at)).model_copy(update={"signature": altered(it.signature)}),
            "not signed by its own key",
        ),
        (
            lambda at: (it := offered(at)).model_copy(update={"mask_key": altered(it.mask_key)}),
            "not signed by its own key",
        ),
        (lambda at: offered(at, "site-2"), "in the name of site-2"),
        (
            lambda at: SiteSecAgg.begin(at, PEER, key_of("site-2")).keys(),
            "under another public key than it registered",
        ),
    ],
)
def test_the_server_refuses_keys(offer: Callable[[Session], KeyOffer], told: str) -> None:
    round_ = SecureRound(3)
    identity = public_text(key_of(PEER).public_key())
    with pytest.raises(AgreementError, match=told):
        round_.server.take_keys(offer(round_.session), sender=PEER, identity=identity)


def test_the_server_refuses_second_keys_and_those_of_another() -> None:
    round_ = SecureRound(3)
    identity = public_text(key_of(PEER).public_key())
    round_.server.take_keys(round_.sites[PEER].keys(), sender=PEER, identity=identity)
    with pytest.raises(AgreementError, match="second and different keys"):
        round_.server.take_keys(offered(round_.session), sender=PEER, identity=identity)
    copied = (
        round_.sites[ME].keys().model_copy(update={"mask_key": round_.sites[PEER].keys().mask_key})
    )
    state = round_.sites[ME].state.model_copy(update={"offer": copied})
    with pytest.raises(AgreementError, match="not signed by its own key"):
        round_.server.take_keys(
            SiteSecAgg(state).keys(), sender=ME, identity=public_text(key_of(ME).public_key())
        )


def with_offer(roster: Roster, **changes: object) -> Roster:
    """Return a roster in which the peer's offer is another."""
    offers = tuple(
        each.model_copy(update=changes) if each.site == PEER else each for each in roster.offers
    )
    return roster.model_copy(update={"offers": offers})


def test_a_site_believes_only_keys_under_the_public_key_that_it_knows() -> None:
    round_ = SecureRound(3)
    roster = round_.stage_keys()
    site, peers = round_.sites[ME], known(roster)
    impostor = SiteSecAgg.begin(round_.session, PEER, key_of("impostor")).keys()
    in_its_place = with_offer(roster, **dict(impostor))
    for shown, told in (
        (in_its_place, "keys of site-1 are not under the public key"),
        (with_offer(roster, mask_key=impostor.mask_key), "not signed by its own key"),
        (with_offer(roster, site="site-9"), "keys of site-9 are not under"),
    ):
        with pytest.raises(AgreementError, match=told):
            site.shares(shown, round_.config, known=peers)
    assert site.shares(roster, round_.config, known=peers).site == ME
    with pytest.raises(AgreementError, match="second and different roster"):
        site.shares(in_its_place, round_.config, known=known(in_its_place))


def test_a_site_refuses_a_roster_without_its_own_keys() -> None:
    round_ = SecureRound(4)
    roster = round_.stage_keys()
    without = roster.model_copy(update={"offers": roster.offers[1:]})
    with pytest.raises(AgreementError, match="without the keys that this site offered"):
        round_.sites[ME].shares(without, round_.config, known=known(roster))


def test_a_roster_is_of_one_session_and_each_site_and_key_once() -> None:
    offers = [each.keys() for each in SecureRound(3).sites.values()]
    other = [each.keys() for each in SecureRound(3, at=session(2)).sites.values()]
    for bad in (
        [*offers[:2], other[2]],
        offers[::-1],
        [offers[0], *offers],
        offers[:2],
        [*offers[:2], offers[2].model_copy(update={"mask_key": offers[0].mask_key})],
    ):
        with pytest.raises(ValidationError):
            Roster(session=offers[0].session, offers=tuple(bad))


def test_sites_that_were_shown_different_rosters_cannot_open_each_others_shares() -> None:
    round_ = SecureRound(4)
    roster = round_.stage_keys()
    smaller = roster.model_copy(update={"offers": roster.offers[:3]})
    round_.sites[ME].shares(roster, round_.config, known=known(roster))
    from_peer = round_.sites[PEER].shares(smaller, round_.config, known=known(roster))
    with pytest.raises(AgreementError, match="shares for another roster"):
        round_.server.take_shares(from_peer, sender=PEER)
    sealed = {PEER: from_peer.sealed[ME], "site-2": from_peer.sealed[ME]}
    deliveries = Deliveries(session=round_.session, site=ME, sealed=sealed)
    with pytest.raises(AgreementError, match="altered, or sealed for another round or roster"):
        round_.sites[ME].masks(deliveries, values="0" * 64)


@pytest.mark.parametrize("what", ["altered", "another's", "another round's"])
def test_a_site_refuses_a_sealed_share_that_was_not_dealt_to_it(what: str) -> None:
    round_ = SecureRound(4).until("shares")
    mine = round_.server.deal()[ME]
    sealed = {
        "altered": altered(mine.sealed[PEER]),
        "another's": mine.sealed["site-2"],
        "another round's": SecureRound(4).until("shares").server.deal()[ME].sealed[PEER],
    }[what]
    bad = mine.model_copy(update={"sealed": {**mine.sealed, PEER: sealed}})
    with pytest.raises(AgreementError, match="shares of site-1 that were altered"):
        round_.sites[ME].masks(bad, values="0" * 64)


def test_a_site_masks_with_enough_neighbours_and_one_update_only() -> None:
    round_ = SecureRound(6).until("shares")
    mine, site = round_.server.deal()[ME], round_.sites[ME]
    few = dict(list(mine.sealed.items())[:2])
    for bad, told in (
        (mine.model_copy(update={"sealed": few}), "shares of 2 neighbours; at least 3"),
        (mine.model_copy(update={"site": PEER}), "deliveries that are for site-1"),
        (mine.model_copy(update={"sealed": {**mine.sealed, ME: mine.sealed[PEER]}}), "no neighb"),
        (mine.model_copy(update={"session": session(2)}), "this site is in round 1"),
    ):
        with pytest.raises(AgreementError, match=told):
            site.masks(bad, values="0" * 64)
    site.masks(mine, values="0" * 64)
    with pytest.raises(AgreementError, match="have hidden other values"):
        site.masks(mine, values="1" * 64)
    fewer = {name: each for name, each in mine.sealed.items() if name != PEER}
    with pytest.raises(AgreementError, match="agreed with other sites"):
        site.masks(mine.model_copy(update={"sealed": fewer}), values="0" * 64)


@pytest.mark.parametrize(
    ("survivors", "told"),
    [
        (("site-0", "site-1", "site-2"), "3 survivors among this site and its neighbours"),
        (("site-1", "site-2", "site-3", "site-4"), "survivors without this site"),
        (("site-0", "site-1", "site-2", "site-9"), "or that did not take part"),
    ],
)
def test_a_site_gives_no_shares_for_a_wrong_set_of_survivors(
    survivors: tuple[str, ...], told: str
) -> None:
    round_ = SecureRound(6).until("masked")
    request = UnmaskRequest(session=round_.session, survivors=survivors)
    with pytest.raises(AgreementError, match=told):
        round_.sites[ME].unmask(request)


def test_a_site_does_not_unmask_with_a_neighbour_whose_mask_it_has_not() -> None:
    round_ = SecureRound(6).until("shares")
    mine = round_.server.deal()[ME]
    fewer = {name: each for name, each in mine.sealed.items() if name != PEER}
    round_.sites[ME].masks(mine.model_copy(update={"sealed": fewer}), values="0" * 64)
    request = UnmaskRequest(session=round_.session, survivors=tuple(round_.names))
    with pytest.raises(AgreementError, match="survives with which this site has not masked"):
        round_.sites[ME].unmask(request)


def test_a_site_gives_shares_for_one_set_of_survivors_only() -> None:
    round_ = SecureRound(6).until("masked")
    site = round_.sites[ME]
    with pytest.raises(AgreementError, match="round 2, attempt 1; this site is in round 1"):
        site.unmask(UnmaskRequest(session=session(2), survivors=tuple(round_.names)))
    given = site.unmask(UnmaskRequest(session=round_.session, survivors=tuple(round_.names)))
    assert not given.mask_keys and given.seeds.keys() == set(round_.names)
    fewer = tuple(name for name in round_.names if name != PEER)
    with pytest.raises(AgreementError, match="second and different set of survivors"):
        site.unmask(UnmaskRequest(session=round_.session, survivors=fewer))
    with pytest.raises(ValidationError, match="both kinds"):
        Shares(
            session=round_.session, site=ME, seeds=given.seeds, mask_keys={PEER: given.seeds[PEER]}
        )


def test_a_site_asks_for_the_stages_in_their_order() -> None:
    round_ = SecureRound(4).until("shares")
    request = UnmaskRequest(session=round_.session, survivors=tuple(round_.names))
    with pytest.raises(AgreementError, match="has not sent a masked update"):
        round_.sites[ME].unmask(request)
    early = SecureRound(4)
    with pytest.raises(AgreementError, match="before the roster"):
        early.sites[ME].masks(round_.server.deal()[ME], values="0" * 64)


def test_the_server_takes_no_second_and_different_shares() -> None:
    round_ = SecureRound(3)
    round_.stage_keys()
    round_.stage_shares()
    offer = round_.server.state.dealt[ME]
    sealed = {**offer.sealed, PEER: altered(offer.sealed[PEER])}
    with pytest.raises(AgreementError, match="second and different shares"):
        round_.server.take_shares(offer.model_copy(update={"sealed": sealed}), sender=ME)
    for changes, told in (
        ({"sealed": {PEER: offer.sealed[PEER]}}, "not for its neighbours"),
        ({"commitments": {ME: offer.commitments[ME]}}, "not for its neighbours"),
    ):
        with pytest.raises(AgreementError, match=told):
            round_.server.take_shares(offer.model_copy(update=changes), sender=ME)
    assert round_.server.state.dealt[ME] == offer


def test_survivors_must_hang_together() -> None:
    """Six sites in a ring of masks, of which two opposite ones are gone."""
    round_ = SecureRound(6, SecureAggregationConfig(neighbours=2)).until("masked")
    _, _, graph = round_.server._made()
    [opposite] = set(round_.names) - graph[ME] - {ME} - set().union(*(graph[n] for n in graph[ME]))
    survivors = tuple(sorted(set(round_.names) - {ME, opposite}))
    with pytest.raises(AgreementError, match="fall apart into groups"):
        round_.sites[survivors[0]].unmask(
            UnmaskRequest(session=round_.session, survivors=survivors)
        )


def test_a_site_begins_no_other_attempt_once_it_has_unmasked_and_goes_never_back() -> None:
    round_ = SecureRound(3, at=session(5, attempt=2)).until("masked")
    state = round_.sites[ME].state
    again = SiteSecAgg.begin(session(5, attempt=3), ME, key_of(ME), previous=state)
    assert again.keys() != round_.sites[ME].keys()
    for old in (session(5, attempt=1), session(4)):
        with pytest.raises(AgreementError, match="asked after round 5, attempt 2"):
            SiteSecAgg.begin(old, ME, key_of(ME), previous=state)
    round_.stage_unmask()
    state = round_.sites[ME].state
    with pytest.raises(AgreementError, match="another attempt at round 5"):
        SiteSecAgg.begin(session(5, attempt=3), ME, key_of(ME), previous=state)
    for later in (session(6), session(1, study="f" * 32)):
        assert SiteSecAgg.begin(later, ME, key_of(ME), previous=state).session == later


def test_the_server_refuses_a_share_that_was_not_dealt() -> None:
    round_ = SecureRound(4).until("masked")
    request = round_.server.request()
    good = round_.sites[ME].unmask(request)
    wrong_kind = {
        "seeds": {name: each for name, each in good.seeds.items() if name != PEER},
        "mask_keys": {PEER: good.seeds[PEER]},
    }
    for changes, told in (
        (
            {"seeds": {**good.seeds, PEER: altered(good.seeds[PEER])}},
            "of site-1 that was not",
        ),
        ({"seeds": {PEER: good.seeds[PEER]}}, "of the wrong sites or kinds"),
        (wrong_kind, "of the wrong sites or kinds"),
        ({"site": PEER}, "in the name of site-1"),
        ({"session": session(2)}, "another study, round or attempt"),
    ):
        with pytest.raises(AgreementError, match=told):
            round_.server.take_unmask(good.model_copy(update=changes), sender=ME)
    assert round_.server.state.shares == {}


def test_a_site_that_deals_shares_of_nothing_is_found_out() -> None:
    """Its commitments are to what it dealt, but that does not make the key that it offered."""
    round_ = SecureRound(4)
    round_.stage_keys()
    cheat = round_.sites[PEER]
    honest = cheat.state
    cheat.state = honest.model_copy(update={"mask_secret": altered(honest.mask_secret)})
    round_.stage_shares()
    round_.stage_masked({PEER})
    with pytest.raises(AgreementError, match="site-1: the shares that it dealt do not make"):
        round_.stage_unmask()


def test_the_server_takes_messages_in_their_stage_only() -> None:
    round_ = SecureRound(5)
    round_.stage_keys({"site-4"})
    late = round_.sites["site-4"].keys()
    identity = public_text(key_of("site-4").public_key())
    with pytest.raises(AgreementError, match="keys after the roster was made"):
        round_.server.take_keys(late, sender="site-4", identity=identity)
    with pytest.raises(AgreementError, match="has dealt no shares"):
        round_.server.take_masked(ME)
    round_.stage_shares({"site-3"})
    round_.server.deal()
    roster = round_.server.roster()
    offer = round_.sites["site-3"].shares(roster, round_.config, known=known(roster))
    with pytest.raises(AgreementError, match="shares after the stage ended"):
        round_.server.take_shares(offer, sender="site-3")
    round_.stage_masked()
    round_.server.request()
    with pytest.raises(AgreementError, match="masked update after the stage ended"):
        round_.server.take_masked(ME)
    shares = round_.sites[ME].unmask(round_.server.request()).model_copy(update={"site": "site-3"})
    with pytest.raises(AgreementError, match="shares that were not asked for"):
        round_.server.take_unmask(shares, sender="site-3")


def test_secrets_are_not_in_what_a_log_would_show() -> None:
    state = SecureRound(3).until("masked").sites[ME].state
    for secret in (state.seed, state.mask_secret, state.cipher_secret, state.own_share):
        assert secret is not None and secret not in repr(state)
    assert STUDY in repr(state)

"""Whole rounds: the sum is the plain one, whoever drops out, or there is none."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feat_fed.config.privacy import SecureAggregationConfig
from feat_fed.errors import DropoutError
from feat_fed.joining import public_text
from feat_fed.secagg import (
    Masks,
    ServerSecAgg,
    ServerState,
    SiteSecAgg,
    SiteState,
    read_state,
    write_state,
)
from secure_sites import FIRST, SecureRound, key_of, known, session

STAGES = ("keys", "shares", "masked", "unmask")


@st.composite
def dropouts(draw: st.DrawFn) -> tuple[int, int | None, dict[str, set[str]]]:
    sites = draw(st.integers(3, 8))
    neighbours = draw(st.sampled_from([None, 2, 4, 6]))
    names = st.sampled_from([f"site-{number}" for number in range(sites)])
    return sites, neighbours, {stage: draw(st.sets(names, max_size=2)) for stage in STAGES}


@settings(max_examples=25, deadline=None)
@given(dropouts())
def test_the_masked_sum_is_the_plain_one_or_there_is_none(
    case: tuple[int, int | None, dict[str, set[str]]],
) -> None:
    sites, neighbours, gone = case
    round_ = SecureRound(sites, SecureAggregationConfig(neighbours=neighbours))
    left = len(round_.names) - len(gone["keys"])
    threshold = max(-(-2 * left // 3), left // 2 + 1)
    lost: set[str] = set()
    try:
        for stage in STAGES:
            lost |= gone[stage]
            masks = getattr(round_, f"stage_{stage}")(lost)
    except DropoutError:
        # Among all sites the count tells; a site's own neighbours may be too few before that.
        assert lost and (neighbours is not None or sites - len(lost) < max(threshold, 3))
        return
    survivors = set(round_.names) - gone["keys"] - gone["shares"] - gone["masked"]
    assert set(round_.server.request().survivors) == survivors
    plain = round_.plain_sum(round_.updates, survivors)
    np.testing.assert_array_equal(round_.masked_sum(masks), plain)
    assert neighbours is not None or sites - len(lost) >= threshold


@pytest.mark.parametrize(
    ("stage", "told"),
    [
        ("keys", "with 2 sites; it needs at least 3"),
        ("shares", "3 of 6 sites have dealt shares; 4 are needed"),
        ("masked", "3 of 6 sites have sent masked updates; 4 are needed"),
        ("unmask", "too few sites have answered for the masks of site-0"),
    ],
)
def test_too_few_are_refused(stage: str, told: str) -> None:
    round_ = SecureRound(6)
    gone = set(round_.names[: 4 if stage == "keys" else 3])
    with pytest.raises(DropoutError, match=told):
        for name in STAGES:
            getattr(round_, f"stage_{name}")(gone if name == stage else ())
            # What a stage lacks is told where the next one is to begin.
            if name == stage == "shares":
                round_.server.deal()
            if name == stage == "masked":
                round_.server.request()


def test_who_answers_late_makes_the_sum_known_after_all() -> None:
    round_ = SecureRound(4).until("masked")
    with pytest.raises(DropoutError):
        round_.stage_unmask({"site-0", "site-1"})
    assert not round_.server.is_recoverable
    masks = round_.stage_unmask({"site-0"})
    assert round_.server.is_recoverable
    np.testing.assert_array_equal(
        round_.masked_sum(masks), round_.plain_sum(round_.updates, round_.names)
    )


def test_a_round_in_which_all_were_killed_at_every_stage(tmp_path: Path) -> None:
    round_ = SecureRound(5)

    def kill_all() -> None:
        for name, site in round_.sites.items():
            write_state(tmp_path / name, site.state)
            assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
            state = read_state(tmp_path / name, SiteState)
            round_.sites[name] = SiteSecAgg.begin(
                round_.session, name, key_of(name), previous=state
            )
        write_state(tmp_path / "server", round_.server.state)
        server = read_state(tmp_path / "server", ServerState)
        assert server is not None
        round_.server = ServerSecAgg(server)

    for stage, gone in zip(STAGES, ((), (), {"site-4"}, {"site-4"}), strict=True):
        kill_all()
        masks = getattr(round_, f"stage_{stage}")(gone)
    kill_all()
    assert round_.server.recover() == masks
    np.testing.assert_array_equal(
        round_.masked_sum(masks), round_.plain_sum(round_.updates, round_.names[:4])
    )


def test_what_is_asked_twice_is_answered_alike() -> None:
    round_ = SecureRound(4).until("unmask")
    roster, request = round_.server.roster(), round_.server.request()
    for name, site in round_.sites.items():
        offer = site.shares(roster, round_.config, known=known(roster))
        assert offer == round_.server.state.dealt[name]
        again = round_.updates[name].copy()
        site.masks(round_.server.deal()[name], values="0" * 64).apply(again, FIRST)
        np.testing.assert_array_equal(again, round_.sent[name])
        assert site.unmask(request) == round_.server.state.shares[name]


def test_no_site_can_be_told_from_the_sum_by_what_the_server_knows() -> None:
    """All that it learns takes off a survivor's own mask; those with its neighbours stay."""
    round_ = SecureRound(4, values=10_000).until("masked")
    round_.stage_unmask()
    for name, site in round_.sites.items():
        values = round_.sent[name].copy()
        Masks(added=(), subtracted=(base64.b64decode(site.state.seed),)).apply(values, FIRST)
        far = (values - round_.updates[name]).view(np.int32).astype(float)
        # Of uniform integers the standard deviation is 2^32 / sqrt(12).
        assert far.std() == pytest.approx(2**32 / 12**0.5, rel=0.05)


def test_sizes_say_nothing_of_the_values() -> None:
    sizes = set()
    for largest in (0, 1):
        round_ = SecureRound(4, at=session(7))
        for name in round_.names:
            round_.updates[name][:] = largest * round_.grid.bound
        round_.until("unmask")
        state = round_.server.state
        for name in round_.names:
            messages = (state.offers[name], state.dealt[name], state.shares[name])
            sizes.add((*(len(each.model_dump_json()) for each in messages), round_.sent[name].size))
    assert len(sizes) == 1


def test_another_attempt_has_other_keys_and_masks() -> None:
    first = SecureRound(3).until("masked")
    again = SecureRound(3, at=session(1, attempt=2))
    for name, site in first.sites.items():
        again.sites[name] = SiteSecAgg.begin(again.session, name, key_of(name), previous=site.state)
    again.until("masked")
    for name in first.names:
        assert not np.isin(first.sent[name], again.sent[name]).any()
        assert first.sites[name].keys().mask_key != again.sites[name].keys().mask_key
        assert again.sites[name].keys().identity == public_text(key_of(name).public_key())

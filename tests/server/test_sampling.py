"""Who is asked: the same for whoever draws again, and fair over the rounds."""

from collections import Counter

from feat_fed_server.sampling import draw, ranked

SITES = ["a", "b", "c", "d", "e"]


def first(number: int, sites: list[str] = SITES, per_round: int | None = 2) -> list[str]:
    return draw(sites, per_round=per_round, seed=7, round_number=number)


def test_a_draw_depends_on_seed_and_round_alone() -> None:
    assert first(1) == first(1, SITES[::-1])
    assert len({tuple(first(number)) for number in range(1, 30)}) > 5
    others = {tuple(draw(SITES, per_round=2, seed=seed, round_number=1)) for seed in range(30)}
    assert len(others) > 5


def test_every_site_is_drawn_about_as_often() -> None:
    drawn = Counter(site for number in range(1, 1001) for site in first(number))
    assert all(350 < drawn[site] < 450 for site in SITES)


def test_a_site_that_comes_or_goes_moves_nobody_else() -> None:
    order = ranked(SITES, seed=7, round_number=3)
    for gone in SITES:
        rest = ranked([each for each in SITES if each != gone], seed=7, round_number=3)
        assert rest == [each for each in order if each != gone]


def test_all_are_asked_without_a_number() -> None:
    assert first(1, per_round=None) == SITES
    assert draw(SITES, per_round=None, seed=7, round_number=1, done=["b"], tried=["c"]) == [
        "a",
        *"cde",
    ]


def test_a_server_that_comes_back_asks_those_of_the_draw_that_have_not_answered() -> None:
    one, other = first(1)
    rest = [each for each in SITES if each != one]
    assert draw(rest, per_round=2, seed=7, round_number=1, done=[one]) == [other]


def test_who_failed_is_replaced_first_by_others_and_only_as_far_as_needed() -> None:
    one, other = first(1)
    order = [each for each in ranked(SITES, seed=7, round_number=1) if each not in (one, other)]
    more = draw(
        [each for each in SITES if each != one],
        per_round=2,
        seed=7,
        round_number=1,
        done=[one],
        tried=[other],
        still_needed=1,
    )
    assert more == [order[0]]
    alone = draw(
        [other], per_round=2, seed=7, round_number=1, done=[one], tried=[other], still_needed=1
    )
    assert alone == [other]

"""Deadlines over simulated rounds: no clock runs here."""

import pytest

from feat_fed.config import SitesConfig
from feat_fed_server.deadlines import PastRound, deadline_sec

SITES = SitesConfig(deadline="learned", round_sec=3600, shortest_sec=60)
TRAINING_SHARE = 0.9


def past(*answers: float) -> list[PastRound]:
    return [PastRound(each, 0.5 * each) for each in answers]


def learned(answers: list[float], misses: int = 0, transfer_sec: float = 0.0) -> float:
    return deadline_sec(past(*answers), misses, sites=SITES, transfer_sec=transfer_sec)


def test_the_first_rounds_and_fixed_ones_get_all_of_the_time() -> None:
    assert learned([100.0, 100.0]) == 3600
    fixed = SITES.model_copy(update={"deadline": "fixed"})
    assert deadline_sec(past(1, 1, 1, 1), 0, sites=fixed) == 3600


def test_a_steady_site_gets_half_as_much_again() -> None:
    assert learned([100.0] * 5) == pytest.approx(150)
    assert learned([1.0] * 5) == 60
    assert learned([3000.0] * 5) == 3600


def test_one_slow_round_is_taken_as_a_sign_and_forgotten() -> None:
    assert learned([100.0] * 5 + [400.0]) == pytest.approx(600)
    assert learned([100.0] * 5 + [400.0, 100.0]) == pytest.approx(150)


def test_an_unsteady_site_gets_more() -> None:
    assert learned([80.0, 100.0, 150.0, 60.0, 110.0]) > 1.5 * (100 + 3 * 20)


def test_a_link_that_has_become_slow_counts_at_once() -> None:
    assert learned([100.0] * 5, transfer_sec=250.0) == pytest.approx(1.5 * (50 + 250))


def simulate(needs_sec: list[float], sends_sec: float = 0.0) -> list[float | None]:
    """Return what each round of a site took, None where it was missed.

    The site trains until it is done or 0.9 of its time is up, and then sends.
    """
    answers: list[float] = []
    told: list[float | None] = []
    misses = 0
    for needed in needs_sec:
        given = learned(answers, misses)
        took = min(needed, TRAINING_SHARE * given) + sends_sec
        misses = 0 if took <= given else misses + 1
        answers += [took] if took <= given else []
        told.append(took if took <= given else None)
    return told


def test_a_site_that_has_become_slow_is_soon_heard_in_full() -> None:
    told = simulate([100.0] * 5 + [900.0] * 8)
    assert None not in told
    assert told[-1] == 900.0


def test_a_site_whose_sending_has_become_slow_is_not_starved() -> None:
    slow = simulate([100.0] * 5) + simulate([100.0] * 5 + [100.0] * 9, sends_sec=400.0)[5:]
    assert None not in slow[-3:]
    answers, misses, needs = [100.0] * 5, 0, 1000.0
    while learned(answers, misses) < needs:
        misses += 1
    assert misses == 3

"""What is remembered of a site, and who is kept out."""

from pathlib import Path

import pytest

from feat_fed.config import ScreeningConfig, SitesConfig
from feat_fed.errors import RefusalCode, RunError
from feat_fed.protocol import Verdict
from feat_fed_server.site_orders import SiteOrders
from feat_fed_server.standing import Answer, Standing

SCREENING = ScreeningConfig(quarantine_after=2)


def refused(site: str, code: RefusalCode = "norm") -> Answer:
    return Answer(site=site, status="refused", code=code, digest="d", answer_sec=5, answered_at=9.0)


def ok(site: str, number: int = 0) -> Answer:
    return Answer(
        site=site,
        status="ok",
        digest=f"{site}{number}",
        log_norm=0.5,
        answer_sec=10.0,
        train_sec=4.0,
        answered_at=9.0,
    )


def after(*rounds: Answer, standing: Standing | None = None) -> Standing:
    standing = standing or Standing()
    for number, answer in enumerate(rounds, start=1):
        standing = standing.after_round(number, [answer], screening=SCREENING)
    return standing


def test_refusals_in_a_row_lead_to_quarantine() -> None:
    standing = after(refused("a"), refused("a", "replay"))
    assert standing.quarantined() == ("a",)
    site = standing.of("a")
    assert [(each.round, each.code) for each in site.offences] == [(1, "norm"), (2, "replay")]
    assert site.verdict == Verdict(round=2, outcome="refused", code="replay", in_a_row=2)


@pytest.mark.parametrize("status", ["failed", "declined", "missing", "late"])
def test_what_is_no_offence_neither_counts_nor_forgives(status: str) -> None:
    between = Answer.model_validate({"site": "a", "status": status})
    assert after(between, between, between).quarantined() == ()
    assert after(refused("a"), between, refused("a")).quarantined() == ("a",)


def test_a_good_update_forgives() -> None:
    standing = after(refused("a"), ok("a"), refused("a"))
    assert standing.quarantined() == ()
    assert standing.of("a").in_a_row == 1
    assert len(standing.of("a").offences) == 2


def test_quarantine_can_be_turned_off() -> None:
    standing = Standing()
    for number in range(1, 9):
        off = ScreeningConfig(quarantine_after=None)
        standing = standing.after_round(number, [refused("a")], screening=off)
    assert standing.quarantined() == ()


def test_a_lifted_quarantine_is_lifted_once() -> None:
    standing = after(refused("a"), refused("a"))
    orders = SiteOrders().readmitting("a", quarantined_in=standing.of("a").quarantined_in)
    free = standing.with_orders(orders)
    assert free.quarantined() == ()
    assert free.of("a").in_a_row == 0
    again = free
    for number in (5, 6):
        again = again.with_orders(orders).after_round(number, [refused("a")], screening=SCREENING)
    assert again.with_orders(orders).quarantined() == ("a",)


def test_deadlines_are_learned_from_answers_and_grow_with_silence() -> None:
    sites = SitesConfig(deadline="learned", shortest_sec=1)
    standing = after(*(ok("a", number) for number in range(5)))
    assert standing.of("a").deadline_sec(sites) == pytest.approx(15)
    silent = after(Answer(site="a", status="missing"), standing=standing)
    assert silent.of("a").deadline_sec(sites) == pytest.approx(30)
    assert after(ok("a"), standing=silent).of("a").deadline_sec(sites) == pytest.approx(15)
    assert standing.of("new").deadline_sec(sites) == sites.round_sec


def test_updates_and_norms_of_the_last_rounds_are_kept_and_no_more() -> None:
    standing = after(*(ok("a", number) for number in range(1, 101)))
    assert sorted(standing.sent_before()) == sorted(f"a{number}" for number in range(93, 101))
    assert len(standing.log_norms) == 64


def test_a_round_that_is_done_again_forgets_what_it_had_sent() -> None:
    standing = after(ok("a", 1))
    again = standing.after_round(1, [ok("a", 2)], screening=SCREENING)
    assert list(again.sent_before()) == ["a2"]


def test_a_standing_comes_back_from_json() -> None:
    standing = after(refused("a"), refused("a")).after_round(3, [ok("b")], screening=SCREENING)
    assert Standing.model_validate_json(standing.model_dump_json()) == standing


def test_a_late_update_that_is_used_tells_its_round() -> None:
    answer = ok("a").model_copy(update={"of_round": 3})
    standing = Standing().after_round(4, [answer], screening=SCREENING)
    assert standing.of("a").verdict == Verdict(round=3, outcome="accepted")


def test_orders_are_kept_and_a_damaged_file_lets_nobody_in(tmp_path: Path) -> None:
    assert SiteOrders.read(tmp_path) == SiteOrders()
    orders = SiteOrders().excluding("b").excluding("a").excluding("a")
    orders.write(tmp_path)
    assert SiteOrders.read(tmp_path).excluded == ("a", "b")
    orders.readmitting("a", quarantined_in=None).write(tmp_path)
    assert SiteOrders.read(tmp_path).excluded == ("b",)
    (tmp_path / "sites.json").write_text('{"excluded": ["../x"]}')
    with pytest.raises(RunError, match="mend it"):
        SiteOrders.read(tmp_path)

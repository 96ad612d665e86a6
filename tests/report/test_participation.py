from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from feat_fed.report import RoundRecord, SiteRound
from feat_fed.report.participation import (
    PARTS,
    exclusions,
    format_rounds,
    shortfall,
    strips,
)


def record(number: int, *sites: SiteRound) -> RoundRecord:
    return RoundRecord(
        round=number,
        started_at="2026-01-31T12:00:00+00:00",
        seconds=1,
        train_loss=None,
        heldout_loss=None,
        sites=sites,
    )


def good(site: str, steps: int = 10, **more: object) -> SiteRound:
    tree = {"site": site, "status": "ok", "steps": steps, "planned_steps": 10, **more}
    return SiteRound.model_validate(tree)


def bad(site: str, status: str, reason: str) -> SiteRound:
    return SiteRound.model_validate({"site": site, "status": status, "reason": reason})


ROUNDS = (
    record(1, good("a"), bad("b", "missing", "no answer")),
    record(2, good("a", 4, ended_by="hours"), bad("b", "missing", "still at round 1")),
    record(3, bad("a", "refused", "a weight was not finite"), bad("b", "missing", "no answer")),
    record(4, good("a"), bad("b", "missing", "still at round 3"), good("c")),
)


def test_what_is_not_in_the_mean_is_listed_by_site_and_reason() -> None:
    found = [(each.site, each.status, each.reason, each.rounds) for each in exclusions(ROUNDS)]
    assert found == [
        ("a", "refused", "a weight was not finite", (3,)),
        ("b", "missing", "no answer", (1, 3)),
        ("b", "missing", "still at round 3", (2, 4)),
    ]


def test_rounds_are_written_as_spans() -> None:
    assert format_rounds([3]) == "3"
    assert format_rounds([4, 5, 6, 9]) == "4 to 6, 9"
    assert format_rounds(range(1, 4001, 2)) == "1, 3, 5, 7, 9 and 1,995 later"


def test_updates_of_fewer_steps_are_counted_where_they_ended() -> None:
    found = shortfall(ROUNDS, local_steps=10)
    assert (found.updates, found.shorter, found.fewest_steps) == (4, 1, 4)
    assert found.ends == (13,)
    assert found.last_step == 39


def test_a_late_update_counts_in_the_round_that_it_answers() -> None:
    late = record(3, good("a", 6, answers_round=1))
    assert shortfall([late], local_steps=10).last_step == 5


def test_a_run_without_an_update_has_no_last_step() -> None:
    found = shortfall(ROUNDS[2:3], local_steps=10)
    assert (found.updates, found.fewest_steps, found.ends, found.last_step) == (0, None, (), None)


def test_a_strip_has_a_pixel_a_round_in_the_colour_of_what_the_site_did() -> None:
    found = strips(ROUNDS)
    assert list(found) == ["a", "b", "c"]
    address, words = found["a"]
    image = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
    colours = ["#" + bytes(each).hex() for each in np.asarray(image.convert("RGB"))[0]]
    assert colours == [PARTS[each][0] for each in ("whole", "shortened", "refused", "whole")]
    assert words == (
        "Of 4 rounds: 2 aggregated; 1 aggregated, with fewer steps than planned; "
        "1 turned away by the server"
    )
    assert "3 not asked" in found["c"][1]

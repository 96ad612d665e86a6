"""What the report says of a study beside its baselines."""

from __future__ import annotations

import json

import pytest

from baseline_scores import write_baselines
from feat_fed.errors import RunError
from feat_fed.report import RunStore, write_report
from feat_fed.report.baseline_folder import (
    BaselineFolder,
    RoundScores,
    read_scores,
    scores_of,
)
from feat_fed.report.json_lines import append_record
from feat_fed.report.worth import worth
from report.test_html import Page


@pytest.fixture
def folder(store: RunStore) -> BaselineFolder:
    return write_baselines(store)


def test_means_are_weighted_by_clips_and_compared_after_one_round(
    store: RunStore, folder: BaselineFolder
) -> None:
    found = worth(store)
    assert found is not None
    assert found.round == 2
    assert found.federated == pytest.approx((3 * 0.4 + 0.6) / 4)
    assert found.centralised == pytest.approx((3 * 0.3 + 0.5) / 4)
    assert found.alone is not None
    of_a, of_b = (3 * 0.3 + 1.5) / 4, (3 * 1.1 + 0.5) / 4
    assert found.alone.mean == pytest.approx((of_a + of_b) / 2)
    assert (found.alone.low, found.alone.high) == (pytest.approx(of_a), pytest.approx(of_b))
    assert found.alone_at_home == pytest.approx((3 * 0.3 + 0.5) / 4)
    assert found.share == pytest.approx((0.775 - 0.45) / (0.775 - 0.35))
    row = found.rows[0]
    assert (row.federated, row.centralised, row.alone) == (0.4, 0.3, 0.3)
    assert row.alone_everywhere == pytest.approx(of_a)


def test_what_has_not_come_so_far_is_not_compared(store: RunStore, folder: BaselineFolder) -> None:
    path = scores_of(folder.alone("b"))
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]) + '{"round": 2, "lo')
    assert list(read_scores(path)) == [0, 1]  # what a kill left of a line is none
    found = worth(store)
    assert found is not None and found.round == 1
    path.unlink()  # not begun: a mean over the others misleads
    found = worth(store)
    assert found is not None and found.alone is None and found.round == 2
    assert found.share is None


def test_without_baselines_there_is_no_such_section(store: RunStore) -> None:
    assert worth(store) is None
    assert "What federating is worth" not in write_report(store).read_text()


def test_the_page_tells_it(store: RunStore, folder: BaselineFolder) -> None:
    words = Page(write_report(store)).words
    for phrase in (
        "federated 0.4500 , a hospital alone 0.7750 on everybody's patients",
        "the best of these models 0.6000, the worst 0.9500",
        "all clips in one place 0.3500",
        "On the hospitals' own patients their own models are better in the mean.",
        "goes 76 % of the way from a hospital alone to all clips in one place",
        "a 30 / 2 of 2 / 1 patients 0.4000 0.3000 0.3000 0.6000",
        "one seed, scored on 2 held-out patients and without an interval",
        "What is held equal",
    ):
        assert phrase in words, (phrase, words)


@pytest.mark.parametrize(
    ("after", "phrase"),
    [(0.9, "worse than a hospital alone"), (0.1, "better than all clips in one place")],
)
def test_the_page_hides_no_surprise(
    after: float, phrase: str, store: RunStore, folder: BaselineFolder
) -> None:
    append_record(folder.federated, RoundScores(round=2, losses={"a": after, "b": after}))
    assert phrase in Page(write_report(store)).words


def test_a_long_curve_begins_after_the_first_round(store: RunStore, folder: BaselineFolder) -> None:
    for path in (
        *(scores_of(folder.alone(name)) for name in "ab"),
        *(folder.federated, scores_of(folder.centralised)),
    ):
        append_record(path, RoundScores(round=3, losses={"a": 0.3, "b": 0.3}))
    words = Page(write_report(store)).words
    assert "The untrained model, the same for all, has 1.000." in words
    assert "Point 0" not in words[words.index("What is held equal") - 400 :][:400]


def test_damaged_facts_are_told_with_a_mend(store: RunStore, folder: BaselineFolder) -> None:
    (folder.root / "hospitals.json").write_text(json.dumps({"a": {"train_clips": 0}}))
    with pytest.raises(RunError, match=r"hospitals\.json .*remove it.*--baseline"):
        worth(store)

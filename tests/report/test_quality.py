from __future__ import annotations

from xml.etree import ElementTree

import numpy as np

from feat_fed.measured import MetricValue
from feat_fed.report import RunStore
from feat_fed.report.comparisons import comparable
from feat_fed.report.evaluation_folder import EvaluationFolder
from feat_fed.report.quality import quality
from feat_fed.report.quality_plots import metric_svg
from measured_runs import evaluation_of, write_evaluations

HOSTILE = "$\\frac{x}$ <script>"


def test_a_round_counts_by_its_last_evaluation_and_rounds_are_in_order() -> None:
    found = [evaluation_of(4, 300.0), evaluation_of(0, 900.0), evaluation_of(4, 310.0)]
    (group,) = comparable(found)
    curve = group.curves[0]
    assert [(each.round, each.value.value) for each in curve.points] == [(0, 900.0), (4, 310.0)]
    assert group.last.round == 4
    assert curve.untrained is not None and curve.untrained.value.value == 900.0


def test_the_best_is_by_the_metrics_own_direction() -> None:
    def inception_score(value: float) -> MetricValue:
        return MetricValue(metric="IS", value=value, num_real=0, num_generated=9, better="higher")

    found = [
        evaluation_of(number, fvd, metrics=(evaluation_of(0, fvd).metrics[0], inception_score(s)))
        for number, fvd, s in ((1, 400.0, 2.0), (2, 300.0, 3.0), (3, 350.0, 2.5))
    ]
    fvd, score = comparable(found)[0].curves
    assert [fvd.best and fvd.best.round, score.best and score.best.round] == [2, 2]
    sharpness = comparable([evaluation_of(1, 1.0)])[0].curves[1]
    assert sharpness.best is None


def test_numbers_of_other_terms_are_not_put_beside_each_other() -> None:
    other = evaluation_of(2, 100.0, protocol_digest="00" * 32, protocol="other")
    found = [evaluation_of(1, 400.0), evaluation_of(2, 300.0), other, evaluation_of(3, 200.0)]
    groups = comparable(found)
    assert [len(each.curves[0].points) for each in groups] == [3, 1]


def test_checkpoints_and_folders_are_apart_from_the_rounds() -> None:
    folder = evaluation_of(1, 50.0, source="folder", round=None, weights=None)
    found = quality([evaluation_of(1, 400.0), folder])
    assert found.others == (folder,)
    assert found.headline is not None and found.headline.value == 400.0
    assert found.groups[0].figures == ()


def test_a_figure_holds_the_interval_and_words_that_are_no_formula() -> None:
    metric = evaluation_of(0, 1.0).metrics[0].model_copy(update={"metric": HOSTILE})
    found = [evaluation_of(number, 1.0, metrics=(metric,)) for number in range(30)]
    svg = metric_svg(comparable(found)[0].curves[0], name="m")
    words = [
        each.text for each in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    ]
    assert HOSTILE in words
    assert "<script>" not in svg
    assert "fill-opacity: 0.2" in svg or "opacity: 0.2" in svg


def test_a_long_study_gives_a_curve_of_the_same_size() -> None:
    def size(rounds: int) -> int:
        found = [evaluation_of(number, 900 - number / 10) for number in np.arange(rounds).tolist()]
        return len(metric_svg(comparable(found)[0].curves[0], name="m"))

    assert size(2000) < 1.3 * size(200)


def test_a_run_without_evaluations_has_nothing_to_tell(store: RunStore) -> None:
    found = quality(EvaluationFolder.of_run(store.root).evaluations())
    assert (found.groups, found.others, found.headline) == ((), (), None)


def test_what_is_read_is_what_was_written(store: RunStore) -> None:
    folder = write_evaluations(store, evaluation_of(1, 2.0))
    assert folder.evaluations() == (evaluation_of(1, 2.0),)

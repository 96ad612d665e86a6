from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from feat_fed.config import StudyConfig, load_study
from feat_fed.report import RoundRecord, RunSummary, plots
from feat_fed.report.drawing import COLOURS, INK, MUTED, site_styles
from feat_fed.report.participation import shortfall

Records = tuple[RoundRecord, ...]
DEMO = load_study("demo")
SVG = "{http://www.w3.org/2000/svg}"


def corners(path: ElementTree.Element) -> np.ndarray:
    return np.array(re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", path.attrib["d"]), dtype=float)


def curve(svg: str, colour: str) -> np.ndarray:
    """Return the corners (x, y) of the one line that has the colour."""
    paths = ElementTree.fromstring(svg).iter(f"{SVG}path")
    lines = [
        each
        for each in paths
        if f"stroke: {colour.lower()}; stroke-width" in each.get("style", "")
        and "fill: none" in each.get("style", "")
        and each.get("clip-path")
    ]
    assert len(lines) == 1
    return corners(lines[0])


def assert_draws(line: np.ndarray, xs: list[float], ys: list[float]) -> None:
    """Check that the line is the points under one scale and shift an axis, y upwards."""
    assert len(line) == len(xs)
    for drawn, wanted, direction in ((line[:, 0], xs, 1), (line[:, 1], ys, -1)):
        slope, offset = np.polyfit(wanted, drawn, 1)
        assert slope * direction > 0
        np.testing.assert_allclose(slope * np.array(wanted) + offset, drawn, atol=1e-3)


def every_svg(records: Records, summary: RunSummary) -> dict[str, str]:
    return {
        "heldout": plots.heldout_loss_svg(records, summary),
        "train": plots.train_loss_svg(records),
        "seconds": plots.seconds_svg(records),
        "bytes": plots.bytes_svg(records),
        "rate": plots.learning_rate_svg(DEMO, records, shortfall(records, local_steps=120)),
    }


def test_heldout_curve_has_n_plus_one_points(records: Records, final: RunSummary) -> None:
    line = curve(plots.heldout_loss_svg(records, final), INK)
    assert_draws(line, [0, 1, 2, 3], [1.12, 0.56, 0.39, 0.27])


def test_training_curves_are_global_and_by_site(records: Records) -> None:
    svg = plots.train_loss_svg(records)
    styles = site_styles(["north", "south"])
    assert_draws(curve(svg, INK), [1, 2, 3], [0.56, 0.36, 0.31])
    assert_draws(curve(svg, styles["north"].colour), [1, 2, 3], [0.55, 0.36, 0.30])
    assert_draws(curve(svg, styles["south"].colour), [1, 3], [0.57, 0.32])


def test_bars_are_as_high_as_the_bytes(records: Records) -> None:
    root = ElementTree.fromstring(plots.bytes_svg(records))
    colour = site_styles(["north", "south"])["south"].colour.lower()
    bars = [each for each in root.iter(f"{SVG}path") if f"fill: {colour}" in each.get("style", "")]
    heights = [np.ptp(corners(bar)[:, 1]) for bar in bars]
    assert len(heights) == 6
    np.testing.assert_allclose(np.array(heights) / max(heights), [1, 0, 1, 1, 1, 1], atol=1e-5)


@pytest.mark.parametrize("name", ["heldout", "train", "seconds", "bytes", "rate"])
def test_each_figure_tells_what_it_shows(records: Records, final: RunSummary, name: str) -> None:
    root = ElementTree.fromstring(every_svg(records, final)[name])
    title = root[0]
    assert (title.tag, root.get("role")) == (f"{SVG}title", "img")
    assert title.text
    assert title.text == root.get("aria-label")
    words = [each.text for each in root.iter(f"{SVG}text")]
    assert any("ound" in word or "study" in word for word in words if word)


def test_ids_are_unique_on_a_page_and_every_reference_is_met(
    records: Records, final: RunSummary
) -> None:
    page = "".join(every_svg(records, final).values())
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    references = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page)
    assert references
    assert {a or b for a, b in references} <= set(ids)


def test_a_study_without_any_success_is_drawn(records: Records, final: RunSummary) -> None:
    nothing = RoundRecord(
        round=1,
        started_at="2026-01-31T12:00:00Z",
        seconds=0,
        train_loss=None,
        heldout_loss=None,
        sites=(),
    )
    summary = final.model_copy(update={"final_heldout_loss": None})
    for svg in every_svg((nothing,), summary).values():
        ElementTree.fromstring(svg)


def test_drawing_twice_gives_the_same_text(records: Records, final: RunSummary) -> None:
    assert every_svg(records, final) == every_svg(records, final)


def test_thirty_sites_look_different_and_keep_their_look() -> None:
    names = [f"site-{index:02d}" for index in range(30)]
    styles = site_styles(names)
    assert len(set(styles.values())) == 30
    assert site_styles(reversed(names)) == styles


def test_the_learning_rate_is_drawn_as_planned_and_as_far_as_it_came(records: Records) -> None:
    tree = DEMO.model_dump(mode="json") | {"rounds": 6}
    tree["training"] |= {"local_steps": 120, "learning_rate_schedule": "cosine", "warmup_steps": 0}
    study = StudyConfig.model_validate(tree)
    part = records[0].sites[0].model_copy(update={"steps": 60})
    short = [records[0].model_copy(update={"sites": (part,)}), *records[1:2]]
    svg = plots.learning_rate_svg(study, short, shortfall(short, local_steps=120))
    planned, taken = curve(svg, MUTED), curve(svg, INK)
    assert np.ptp(taken[:, 0]) / np.ptp(planned[:, 0]) == pytest.approx(239 / 719, abs=1e-3)
    assert planned[0, 1] < planned[len(planned) // 2, 1] < planned[-1, 1]  # y grows downwards
    np.testing.assert_allclose(taken[0], planned[0], atol=1e-3)
    assert f"stroke: {COLOURS[1].lower()}" in svg
    whole = plots.learning_rate_svg(study, records[:1], shortfall(records[:1], local_steps=120))
    assert f"stroke: {COLOURS[1].lower()}" not in whole


def many(records: Records, rounds: int, sites: int) -> Records:
    names = [f"site-{index:02d}" for index in range(sites)]
    part = records[0].sites[0]
    return tuple(
        records[0].model_copy(
            update={
                "round": number,
                "sites": tuple(
                    part.model_copy(update={"site": name, "train_loss": 0.1 + (number % 7) / index})
                    for index, name in enumerate(names, start=1)
                ),
            }
        )
        for number in range(1, rounds + 1)
    )


def test_many_sites_are_a_band_from_the_lowest_to_the_highest(records: Records) -> None:
    found = many(records, 30, 9)
    svg = plots.train_loss_svg(found)
    groups = ElementTree.fromstring(svg).iter(f"{SVG}g")
    bands = [
        corners(next(each.iter(f"{SVG}path")))
        for each in groups
        if "FillBetween" in each.get("id", "")
    ]
    assert len(bands) == 2
    at_six = [each[np.isclose(each[:, 0], np.unique(each[:, 0])[5])][:, 1] for each in bands]
    assert np.ptp(at_six[0]) > np.ptp(at_six[1]) > 0
    assert site_styles(["site-00"])["site-00"].colour != INK
    assert svg.count("stroke-width: 1.6") == 0


def test_figures_do_not_grow_with_the_study(records: Records, final: RunSummary) -> None:
    short = every_svg(many(records, 200, 2), final)
    long = every_svg(many(records, 700, 2), final)
    for name, svg in long.items():
        assert len(svg) < 1.5 * len(short[name]), name

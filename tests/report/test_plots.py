from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from feat_fed.report import RoundRecord, RunSummary, plots

Records = tuple[RoundRecord, ...]
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
    }


def test_heldout_curve_has_n_plus_one_points(records: Records, final: RunSummary) -> None:
    line = curve(plots.heldout_loss_svg(records, final), plots.INK)
    assert_draws(line, [0, 1, 2, 3], [1.12, 0.56, 0.39, 0.27])


def test_training_curves_are_global_and_by_site(records: Records) -> None:
    svg = plots.train_loss_svg(records)
    styles = plots.site_styles(["north", "south"])
    assert_draws(curve(svg, plots.INK), [1, 2, 3], [0.56, 0.36, 0.31])
    assert_draws(curve(svg, styles["north"].colour), [1, 2, 3], [0.55, 0.36, 0.30])
    assert_draws(curve(svg, styles["south"].colour), [1, 3], [0.57, 0.32])


def test_bars_are_as_high_as_the_bytes(records: Records) -> None:
    root = ElementTree.fromstring(plots.bytes_svg(records))
    colour = plots.site_styles(["north", "south"])["south"].colour.lower()
    bars = [each for each in root.iter(f"{SVG}path") if f"fill: {colour}" in each.get("style", "")]
    heights = [np.ptp(corners(bar)[:, 1]) for bar in bars]
    assert len(heights) == 6
    np.testing.assert_allclose(np.array(heights) / max(heights), [1, 0, 1, 1, 1, 1], atol=1e-5)


@pytest.mark.parametrize("name", ["heldout", "train", "seconds", "bytes"])
def test_each_figure_tells_what_it_shows(records: Records, final: RunSummary, name: str) -> None:
    root = ElementTree.fromstring(every_svg(records, final)[name])
    title = root[0]
    assert (title.tag, root.get("role")) == (f"{SVG}title", "img")
    assert title.text
    assert title.text == root.get("aria-label")
    words = [each.text for each in root.iter(f"{SVG}text")]
    assert any("Round" in word for word in words if word)


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
    styles = plots.site_styles(names)
    assert len(set(styles.values())) == 30
    assert plots.site_styles(reversed(names)) == styles

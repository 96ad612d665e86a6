"""The report in a real browser, at a desk and on a phone."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_CHROMIUM = next(filter(None, map(shutil.which, _NAMES)), None)
_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDTHS_PX = (1280, 360)

pytestmark = pytest.mark.skipif(
    _CHROMIUM is None, reason=f"no browser: none of {', '.join(_NAMES)} is installed"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(params=WIDTHS_PX)
def page(
    request: pytest.FixtureRequest, browser: sync_api.Browser, finished_report: Path
) -> Iterator[sync_api.Page]:
    """Open the report; at the end no address but the file's and data was asked for, nor errors."""
    page = browser.new_page(viewport={"width": request.param, "height": 900})
    requests: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda each: requests.append(each.url))
    page.on("console", lambda each: complaints.append(each.text))
    page.on("pageerror", lambda each: complaints.append(str(each)))
    page.goto(finished_report.as_uri())
    yield page
    page.close()
    assert requests[0] == finished_report.as_uri()
    assert all(each.startswith("data:") for each in requests[1:])
    assert complaints == []


def pixels(locator: sync_api.Locator) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(locator.screenshot())).convert("RGB")).astype(int)


def test_the_page_is_as_wide_as_the_screen(page: sync_api.Page) -> None:
    width_px = page.viewport_size["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width_px
    for table in page.locator(".scroll").all():
        assert table.bounding_box()["width"] <= width_px


def test_the_samples_move(page: sync_api.Page) -> None:
    samples = page.locator("#moving-samples")
    samples.scroll_into_view_if_needed()
    before = pixels(samples)
    for _ in range(8):
        page.wait_for_timeout(300)
        changed = np.abs(pixels(samples) - before).max(axis=-1) > 40
        if changed.mean() > 0.02:
            return
    pytest.fail("the samples look the same for more than two seconds")


def test_every_image_is_decoded(page: sync_api.Page) -> None:
    sizes = page.locator("img").evaluate_all("images => images.map(i => i.naturalWidth)")
    assert len(sizes) == 6  # the samples, their sheet, two stills, a strip of each site
    assert min(sizes) >= 3


def test_the_curves_are_drawn(page: sync_api.Page) -> None:
    curves = page.locator(".curves:not(.metrics) figure.curve svg")
    assert curves.count() == 6  # with what federating is worth
    for curve in curves.all():
        box = curve.bounding_box()
        assert box["width"] > 300
        assert box["height"] > 180
        picture = pixels(curve)
        blue = np.abs(picture - (0x00, 0x72, 0xB2)).max(axis=-1) < 40
        orange = np.abs(picture - (0xD5, 0x5E, 0x00)).max(axis=-1) < 40
        if "Learning rate" not in curve.get_attribute("aria-label"):
            assert blue.sum() > 20
            assert orange.sum() > 20


def test_words_in_the_curves_can_be_read(page: sync_api.Page) -> None:
    labels_px = page.locator("figure.curve svg g[id*=xtick] text").evaluate_all(
        "all => all.map(t => t.getBoundingClientRect().height)"
    )
    assert len(labels_px) >= 12
    assert min(labels_px) >= 9


def test_the_configuration_unfolds(page: sync_api.Page) -> None:
    configuration = page.locator("pre")
    assert not configuration.is_visible()
    page.get_by_text("Resolved configuration").click()
    assert configuration.is_visible()
    assert "name: demo" in configuration.inner_text()


def test_the_film_plays_where_it_stands_in(
    browser: sync_api.Browser, finished_report: Path
) -> None:
    page = browser.new_page()
    page.goto((finished_report.parent / "samples" / "samples.mp4").as_uri())
    page.wait_for_function("document.querySelector('video').currentTime > 0.2", timeout=10_000)
    size = page.evaluate("[document.querySelector('video').videoWidth, innerWidth]")
    assert size[0] >= 256
    page.close()


def test_the_films_of_the_rounds_play_side_by_side(page: sync_api.Page) -> None:
    films = page.locator(".films video")
    assert films.count() == 2
    assert not page.locator(".films img").first.is_visible()
    for film in films.all():
        film.scroll_into_view_if_needed()
        assert film.evaluate(
            "film => new Promise(done => film.addEventListener('timeupdate', () => done(true)))"
        )
    tops = [each.bounding_box()["y"] for each in films.all()]
    assert (tops[0] == tops[1]) == (page.viewport_size["width"] > 1000)


@pytest.mark.parametrize("how", ["asks", "always"])
def test_who_wants_nothing_to_move_sees_stills(page: sync_api.Page, how: str) -> None:
    if how == "asks":
        page.get_by_label("Hold still").check()
    else:
        page.emulate_media(reduced_motion="reduce")
    assert not page.locator("#moving-samples").is_visible()
    assert page.locator(".films img").first.is_visible()
    assert not page.locator(".films video").first.is_visible()


def test_on_paper_films_are_pictures_and_nothing_is_folded_or_cut(page: sync_api.Page) -> None:
    page.set_viewport_size({"width": 690, "height": 1000})  # A4 without its margins
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= 690
    assert page.locator("pre").is_visible()
    assert page.locator(".films img").last.is_visible()
    assert not page.locator("video:visible").count()
    for table in page.locator(".scroll").all():
        assert table.evaluate("box => box.scrollWidth <= 690")
    pages = page.pdf(format="A4").count(b"/Type /Page\n")
    assert 3 <= pages <= 12

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Literal

import pytest
from PIL import Image

from feat_fed.config import RulesConfig
from feat_fed.data import ClipRecord
from feat_fed.data.quality.rules import Outcome
from feat_fed.report.data_page import (
    ClipFacts,
    SiteDataFacts,
    data_counts,
    write_data_page,
)


def jpeg() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 4), (200, 30, 30)).save(out, "JPEG")
    return out.getvalue()


def clip(
    index: int,
    outcome: Outcome = "usable",
    reason: str = "",
    *,
    path: str | None = None,
    sheet: tuple[Path, Path] | None = None,
) -> ClipFacts:
    record = ClipRecord(
        clip_id=f"{index:064x}"[::-1],
        number=index,
        stamp="",
        looked_by="",
        patient=f"{index % 3:064x}",
        modality="US",
        num_frames=40,
        height_px=480,
        width_px=640,
        fps=25.0,
        outcome=outcome,
        reason=reason,
    )
    side: Literal["training", "held out"] = "training" if index % 3 else "held out"
    return ClipFacts(record, "JPEG Baseline", side, sheet, path)


@pytest.fixture
def sheet(tmp_path: Path) -> tuple[Path, Path]:
    """Return pictures before and after."""
    pair = (tmp_path / "before.jpg", tmp_path / "after.jpg")
    for path in pair:
        path.write_bytes(jpeg())
    return pair


CLIPS = (
    *(clip(index) for index in range(1, 8)),
    clip(8, "review", "text that stands still was masked"),
    clip(9, "excluded", "fewer frames than a clip needs"),
    clip(10, "excluded", "<b>odd</b>"),
)
FACTS = SiteDataFacts("site-a", RulesConfig(modalities=("US", "ES")), CLIPS, other_files=4)


def test_counts_are_numbers_and_fixed_words() -> None:
    assert data_counts(FACTS) == {
        "clips": {"usable": 7, "review": 1, "excluded": 2},
        "patients": 3,
        "frames": 280,
        "excluded": {"fewer frames than a clip needs": 1, "<b>odd</b>": 1},
        "review": {"text that stands still was masked": 1},
        "other_files": 4,
    }


def test_page_shows_every_exclusion_and_every_clip_that_waits(
    tmp_path: Path, sheet: tuple[Path, Path]
) -> None:
    page = tmp_path / "report.html"
    clips = tuple(dataclasses.replace(each, sheet=sheet) for each in CLIPS)
    assert write_data_page(dataclasses.replace(FACTS, clips=clips), page) == (
        CLIPS[7].record.clip_id,
    )
    text = page.read_text()
    assert all(
        each.record.clip_id[:12] in text for each in CLIPS if each.record.outcome != "usable"
    )
    assert "&lt;b&gt;odd&lt;/b&gt;" in text and "<b>odd" not in text
    assert "US, ES" in text and "min_frames" in text
    assert text.count("data:image/jpeg") == 2 * 8
    assert "2 to train on, 1 held out" in text
    assert "http" not in text.replace("http-equiv", "")
    assert json.loads((tmp_path / "report.json").read_text()) == data_counts(FACTS)


def test_only_pictures_that_are_shown_are_read_and_count_as_seen(
    tmp_path: Path, sheet: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Path] = []
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: reads.append(path) or real(path))
    gone = (tmp_path / "gone.jpg", sheet[1])
    waiting = tuple(clip(n, "review", "text", sheet=sheet if n else gone) for n in range(400))
    usable = tuple(clip(n, sheet=sheet) for n in range(400, 500))
    page = tmp_path / "report.html"
    seen = write_data_page(SiteDataFacts("site-a", RulesConfig(), (*waiting, *usable), 0), page)
    assert seen == tuple(each.record.clip_id for each in waiting[1:300])
    assert page.read_text().count("data:image/jpeg") == 2 * (299 + 24)
    assert sum(path in sheet for path in reads) == 2 * (299 + 24)


def test_paths_are_there_only_where_they_were_given(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    write_data_page(FACTS, page)
    assert "--show-paths" in page.read_text()
    named = SiteDataFacts("site-a", RulesConfig(), (clip(1, "excluded", "odd", path="x/y.dcm"),), 0)
    write_data_page(named, page)
    assert "x/y.dcm" in page.read_text() and "--show-paths" not in page.read_text()


def test_a_site_without_a_clip_has_a_page(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    write_data_page(SiteDataFacts("site-a", RulesConfig(), (), 0), page)
    assert "No clip is usable yet" in page.read_text()

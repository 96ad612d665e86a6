from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from feat_fed.config import StudyConfig
from feat_fed.errors import RunError
from feat_fed.report import RoundRecord, RunStore, RunSummary, html, write_report, write_samples
from feat_fed.report.data_summary import DataSummary, HospitalSummary
from feat_fed.report.drawn import write_drawn
from feat_fed.report.evaluation_folder import EvaluationFolder
from feat_fed.report.publish import publish_evaluation
from feat_fed.report.records import CentralRecord, CentralSpending, SiteEpsilon
from measured_runs import evaluation_of, write_evaluations

Records = tuple[RoundRecord, ...]


class Page(HTMLParser):
    """What a page holds: the tags with their attributes, and the words outside of styles."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self._style = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._style = tag == "style"

    def handle_data(self, data: str) -> None:
        if not self._style:
            self.words = " ".join([*self.words.split(), *data.split()])


def test_a_finished_run_tells_its_numbers(finished_report: Path) -> None:
    words = Page(finished_report).words
    for phrase in (
        "Complete",
        "3 of 3 rounds",
        "2026-01-31 12:01",
        "0.2700 ↓ 76 % from 1.120 untrained",
        "5 of 6 updates aggregated",
        "4.81 MB 2.5 s on the way 4.81 MB 4.0 s on the way",
        "14.4 MB 7.5 s on the way 14.4 MB 12 s on the way",
        "✕ No answer no answer before the deadline",
        "Differential privacy: off.",
        "hidden_size: 128",
        "torch 2.13.0",
        "FVD-random 430.0 95 %: 387.0 to 473.0; lower is better",
        "FVD-random ↓ lower is better few clips 430.0 387.0 to 473.0 410.0 after round 2 900.0",
        "SHA-256 " + "cd" * 32,
        "Untrained After round 3",
        "south ✕ No answer no answer before the deadline 1 2",
        "All 128",
    ):
        assert phrase in words


def test_nothing_is_fetched_and_nothing_runs(finished_report: Path) -> None:
    page = Page(finished_report)
    addresses = [
        value
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in {"src", "href", "xlink:href", "srcset", "data", "action", "poster"} and value
    ]
    assert addresses
    assert all(each.startswith(("data:", "#")) for each in addresses)
    assert not {"script", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert re.search(r"@import|url\((?!#)", finished_report.read_text()) is None


def test_a_run_with_central_privacy_tells_what_it_covers_and_what_was_spent(
    tmp_path: Path, study: StudyConfig, records: Records, final: RunSummary
) -> None:
    central = {"noise_multiplier": 1.5, "clipping": "adaptive", "clip_norm": 0.25}
    changes = {"strategy": {"weigh_by": "equal"}, "privacy": {"central": central}}
    private = StudyConfig.model_validate(study.model_dump() | changes)
    store = RunStore.create(tmp_path / "private", private)
    for at, record in enumerate(records, start=1):
        noted = CentralRecord(
            release=f"{at:032x}", clip_norm=0.25 * at, noise_multiplier=1.5, share_within=0.2
        )
        store.append(record.model_copy(update={"central": noted}))
    spent = SiteEpsilon(site="north", releases=3, rdp=4.7281, prv=4.31)
    spending = CentralSpending(delta=1e-5, sites=(spent,))
    store.write_summary(final.model_copy(update={"central": spending}))
    words = Page(write_report(store)).words
    assert "Differential privacy: off" not in words
    assert "Central privacy: on." in words
    assert "(0.25 in the first round, 0.75 in the last)" in words
    assert "Spent so far at delta 1e-05." in words
    assert "north 3 4.73 4.31 – –" in words  # noqa: RUF001
    assert "With screening.max_norm_z the length" in words


def test_text_of_others_is_escaped(store: RunStore, records: Records, final: RunSummary) -> None:
    attack = "<script>alert(1)</script>"
    site = records[0].sites[0].model_copy(update={"status": "refused", "reason": attack})
    store.append(records[0].model_copy(update={"sites": (site,)}))
    store.write_summary(final.model_copy(update={"message": attack}))
    page = Page(write_report(store))
    assert page.words.count(attack) == 3
    assert "script" not in {tag for tag, _ in page.tags}


def test_a_site_and_an_evaluation_with_hostile_names_are_text(
    store: RunStore, records: Records
) -> None:
    attack = '"><img src=x onerror=alert(1)><script>$\\frac{</script>'
    site = records[0].sites[0].model_copy(update={"site": attack, "version": attack})
    store.append(records[0].model_copy(update={"sites": (site, records[0].sites[1])}))
    metric = (
        evaluation_of(0, 9.0).metrics[0].model_copy(update={"metric": attack, "warning": attack})
    )
    told = {"protocol": attack, "benchmark": attack, "networks": {attack: attack}}
    told |= {"sampler": {attack: attack}, "metrics": (metric,)}
    write_evaluations(store, *(evaluation_of(each, 9.0 + each, **told) for each in range(2)))
    page = Page(write_report(store))
    assert page.words.count(attack) > 10
    assert not {"script", "onerror"} & {
        word for tag, attributes in page.tags for word in (tag, *attributes)
    }
    assert all(
        attributes["src"].startswith("data:") for tag, attributes in page.tags if tag == "img"
    )


def test_a_round_that_a_site_shortened_or_declined_says_why(
    store: RunStore, records: Records
) -> None:
    north, south = records[0].sites
    short = {"steps": 12, "planned_steps": 20, "ended_by": "hours", "skipped_steps": 2}
    declined = {"status": "declined", "reason": "the site is paused"}
    sites = (north.model_copy(update=short), south.model_copy(update=declined))
    store.append(records[0].model_copy(update={"sites": sites}))
    words = Page(write_report(store)).words
    assert "12 of 20 steps: the site's hours ended; 2 skipped: not finite" in words
    assert "– Declined by the site the site is paused" in words  # noqa: RUF001


def test_a_private_run_says_what_it_promises_and_hides_what_was_not_told(
    tmp_path: Path, private: StudyConfig, records: Records
) -> None:
    store = RunStore.create(tmp_path / "run", private)
    hidden = {"examples": 1, "train_loss": None, "heldout_loss": None, "train_sec": 0}
    sites = tuple(each.model_copy(update=hidden) for each in records[0].sites)
    losses = {"train_loss": None, "heldout_loss": None}
    store.append(records[0].model_copy(update=losses | {"sites": sites}))
    words = Page(write_report(store)).words
    for phrase in (
        "each patient, in what the site sends 7.99",
        "1e-05",
        "660 steps",
        "each hospital, in the global weights",
        "3 rounds",
        "Secure aggregation: on.",
        "Training clips –",  # noqa: RUF001
        "north 1 of 1 – ",  # noqa: RUF001
    ):
        assert phrase in words
    assert "Differential privacy: off." not in words


def test_clips_are_told_by_what_drew_them_and_not_by_the_study(store: RunStore) -> None:
    clips_NTHWC = np.zeros((1, 2, 16, 16, 3), dtype=np.uint8)
    write_samples(store.samples, clips_NTHWC, fps=4)
    assert "Made by the model from noise; none" in Page(write_report(store)).words
    sampler = store.study.sampler.model_copy(update={"steps": 7, "seed": 31})
    write_drawn(store.samples, clips_NTHWC, 2, sampler, fps=4)
    words = Page(write_report(store)).words
    assert "the weights averaged over rounds, after round 2" in words
    assert f"({sampler.kind}, 7 steps, seeds from 31)" in words


def test_a_run_that_has_just_begun_reads_well(store: RunStore) -> None:
    words = Page(write_report(store)).words
    assert "Running 0 of 3 rounds" in words
    assert "No round has finished yet." in words
    assert "No clips have been drawn" in words


def test_what_virtual_hospitals_were_dealt_is_counted(
    store: RunStore, records: Records, final: RunSummary
) -> None:
    hospitals = tuple(
        HospitalSummary(site=name, patients=9, clips=20, groups={f"<b>{k}": 1 for k in range(9)})
        for name in ("one", "two")
    )
    DataSummary(partition="at random", by="label", hospitals=hospitals).write(store.root)
    store.append(records[0])
    page = Page(write_report(store))
    assert "Dealt out by the simulation: at random. Patients by label" in page.words
    assert "<b>0" in page.words and "<b>6 others" in page.words and "<b>7" not in page.words
    assert not any(tag == "b" for tag, _ in page.tags)


def test_a_failed_run_says_why(store: RunStore, final: RunSummary) -> None:
    reason = "1 of 2 sites came within 600 s"
    failed = {"state": "failed", "rounds_done": 0, "message": reason, "final_heldout_loss": None}
    store.write_summary(final.model_copy(update=failed))
    assert f"Failed 0 of 3 rounds {reason}" in Page(write_report(store)).words


def test_rounds_without_any_loss_read_well(
    store: RunStore, records: Records, final: RunSummary
) -> None:
    late = records[1].sites[1:]
    empty = {"train_loss": None, "heldout_loss": None, "sites": late}
    store.append(records[0].model_copy(update=empty))
    store.write_summary(final.model_copy(update={"final_heldout_loss": None, "rounds_done": 1}))
    assert "no site has reported one" in Page(write_report(store)).words


def test_a_large_moving_image_gives_way_to_the_film(
    store: RunStore, beating_clips: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_samples(store.samples, beating_clips, fps=8)
    monkeypatch.setattr(html, "_LARGEST_GIF_BYTES", files.gif.stat().st_size - 1)
    videos = [attributes for tag, attributes in Page(write_report(store)).tags if tag == "video"]
    assert len(videos) == 1
    assert {"autoplay", "muted", "loop", "playsinline"} <= videos[0].keys()
    assert str(videos[0]["src"]).startswith("data:video/mp4;base64,")


def test_a_damaged_run_gives_a_clear_error(store: RunStore) -> None:
    (store.root / "metrics.jsonl").write_text("rubbish\n")
    with pytest.raises(RunError, match="line 1"):
        write_report(store)


def test_an_evaluation_is_published_and_a_damaged_run_is_no_matter(
    store: RunStore, records: Records, caplog: pytest.LogCaptureFixture
) -> None:
    store.append(records[0])
    write_evaluations(store, evaluation_of(1, 410.0))
    publish_evaluation(store.root, evaluation_of(1, 410.0))
    assert "FVD-random 410.0" in Page(store.report).words
    assert (store.root / "tensorboard" / "evaluation").is_dir()
    (store.root / "summary.json").write_text("rubbish")
    publish_evaluation(store.root, evaluation_of(1, 410.0))
    assert "could not be written anew" in caplog.text


def test_a_film_that_cannot_be_shown_is_counted(store: RunStore) -> None:
    folder = EvaluationFolder.of_run(store.root).samples(4)
    folder.mkdir(parents=True)
    (folder / "samples.mp4").write_bytes(b"no film")
    assert "1 round with films is left out" in Page(write_report(store)).words


def test_headings_go_down_by_one_and_everything_has_a_name(finished_report: Path) -> None:
    tags = Page(finished_report).tags
    levels = [int(tag[1]) for tag, _ in tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(next_one <= level + 1 for level, next_one in pairwise(levels))
    assert all(attributes.get("alt") for tag, attributes in tags if tag == "img")
    assert all(attributes.get("aria-label") for tag, attributes in tags if tag in ("video", "svg"))
    assert all("scope" in attributes for tag, attributes in tags if tag == "th")
    anchors = {attributes["href"] for tag, attributes in tags if tag == "a"}
    assert anchors <= {f"#{attributes.get('id')}" for _, attributes in tags}


def test_a_long_study_of_many_sites_gives_a_small_page_that_says_what_it_leaves_out(
    store: RunStore, records: Records, final: RunSummary
) -> None:
    good, late = records[1].sites
    sites = [good.model_copy(update={"site": f"site-{number:02d}"}) for number in range(31)]
    missing = late.model_copy(update={"site": "site-31"})
    lines = (
        records[1].model_copy(update={"round": number, "sites": (*sites, missing)})
        for number in range(1, 1001)
    )
    with (store.root / "metrics.jsonl").open("w") as file:
        file.writelines(each.model_dump_json() + "\n" for each in lines)
    store.write_summary(final.model_copy(update={"rounds_done": 1000, "rounds_wanted": 1000}))
    write_evaluations(store, *(evaluation_of(each, 900.0 - each) for each in range(0, 1001, 10)))
    path = write_report(store)
    words = Page(path).words
    assert path.stat().st_size < 1_000_000
    assert "40 of 1,000 rounds, evenly chosen" in words
    assert "The last 7 rounds of 1,000" in words
    assert "site-31 ✕ No answer no answer before the deadline 1,000 1 to 1000" in words
    assert "Each point is the mean of up to 5 rounds." in words
    assert "From the lowest to the highest of 32 sites" in words

from pathlib import Path

import pytest

from client.check_site import (
    changed,
    look_at_clips,
    make_site,
    small_study,
    with_a_store_of_its_own,
)
from feat_fed.config import RulesConfig, SiteConfig, StudyConfig
from feat_fed.data import Manifest
from feat_fed.protocol import Assignment
from feat_fed_client.check import Finding, Subject, data
from feat_fed_client.session import SiteSession


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> SiteConfig:
    site = make_site(tmp_path_factory.mktemp("hospital"))
    look_at_clips(site)
    return site


@pytest.fixture
def site(scanned: SiteConfig, tmp_path: Path) -> SiteConfig:
    return with_a_store_of_its_own(scanned, tmp_path)


def subject(site: SiteConfig, study: StudyConfig | None = None, *, quick: bool = True) -> Subject:
    return Subject(site, study=study or small_study(), offline=True, quick=quick)


def test_clips_as_the_scan_left_them(site: SiteConfig) -> None:
    found = data.clips(subject(site))
    assert (found.status, found.numbers["usable"]) == ("green", 4)
    age_sec = found.numbers["scan_age_sec"]
    assert isinstance(age_sec, int) and 0 <= age_sec < 60


def test_clips_that_are_missing_in_every_way(site: SiteConfig, tmp_path: Path) -> None:
    fresh = make_site(tmp_path / "fresh", patients="a")
    assert "data scan" in data.clips(subject(fresh)).mend
    gone = changed(site, data={"paths": (tmp_path / "gone", *site.data.paths)})
    assert data.clips(subject(gone)).found == "1 of 2 data.paths do not exist"
    long = data.clips(subject(site, small_study(clips={"frames": 99})))
    assert (long.status, long.numbers["too_short"]) == ("red", 4)


def test_clips_that_wait_and_an_old_scan_are_amber(site: SiteConfig, tmp_path: Path) -> None:
    with Manifest(site.store, alone=None) as manifest, manifest.changing() as database:
        database.execute("UPDATE facts SET value = '1000' WHERE name = 'scanned_at'")
    assert "data scan" in data.clips(subject(site)).mend
    with Manifest(site.store, alone=None) as manifest, manifest.changing() as database:
        database.execute(
            "UPDATE clips SET outcome = 'review' WHERE number = (SELECT min(number) FROM clips)"
        )
    waiting = data.clips(subject(site))
    assert (waiting.status, waiting.numbers["waiting"]) == ("amber", 1)
    assert "approve" in waiting.mend


def test_patients_on_both_sides(site: SiteConfig, tmp_path: Path) -> None:
    both = data.patients(subject(site))
    assert (both.status, both.numbers) == ("green", {"training": 3, "heldout": 1})
    alone = make_site(tmp_path / "alone", patients="a")
    look_at_clips(alone)
    assert data.patients(subject(alone)).status == "amber"
    nobody = make_site(tmp_path / "nobody", patients="")
    assert data.patients(subject(nobody)).status == "red"


def label(site: SiteConfig, number: int | None, classes: int) -> Finding:
    study = small_study(model={"num_classes": classes})
    return data.label(subject(changed(site, data={"label": number}), study))


def test_a_class_that_does_not_fit_is_red(site: SiteConfig) -> None:
    assert label(site, 1, 2).status == "green"
    assert label(site, None, 0).status == "green"
    assert {label(site, each, 2).status for each in (None, 2)} == {"red"}


def test_a_codec_without_its_weights_is_red_and_so_are_its_latents(
    site: SiteConfig, tmp_path: Path
) -> None:
    codec = {"kind": "tiny", "weights_sha256": "0" * 64}
    study = small_study(codec=codec, model={"in_channels": 32})
    unset = subject(site, study)
    assert "codec_weights" in data.codec(unset).found
    assert data.latents(unset).status == "red"
    (tmp_path / "weights").mkdir()
    for half in ("encoder", "decoder"):
        (tmp_path / "weights" / f"{half}.safetensors").write_bytes(b"other")
    other = site.model_copy(update={"codec_weights": tmp_path / "weights"})
    told = data.codec(subject(other, study))
    assert "SHA-256" in told.found
    assert str(tmp_path) not in told.found


def test_latents_are_counted_and_the_rest_is_measured(site: SiteConfig) -> None:
    study = small_study()
    before = data.latents(subject(site, study, quick=False))
    assert (before.status, before.numbers["encoded"], before.numbers["clips"]) == ("green", 0, 4)
    seconds = before.numbers["encoding_sec"]
    assert isinstance(seconds, float) and 0 < seconds < 60
    assert not (site.store / "latents").exists()
    assignment = Assignment(study_id="0" * 32, round=1, task="train", first_step=0, study=study)
    SiteSession(site).clips(assignment)
    after = data.latents(subject(site, study))
    assert (after.status, after.numbers["encoded"]) == ("green", 4)
    another = data.latents(subject(site, small_study(clips={"size_px": 64})))
    assert (another.status, another.numbers["encoded"]) == ("amber", 0)


def test_latents_that_exceed_their_bound_are_red(site: SiteConfig) -> None:
    tight = data.latents(subject(changed(site, latents={"max_gb": 1e-6})))
    assert tight.status == "red"
    assert "latents.max_gb is 1e-06" in tight.found


def test_encoding_that_outlasts_a_round_says_so(
    site: SiteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "_encoding_sec", lambda *_: 9000.0)
    slow = data.latents(subject(site))
    assert slow.status == "amber"
    assert "the study waits 1 h 00 min" in slow.found
    assert "data prepare" in slow.mend


def test_rules_of_a_site_decide_what_waits(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    strict = changed(site, data={"rules": RulesConfig(min_frames=99)})
    look_at_clips(strict)
    found = data.clips(subject(strict))
    assert (found.status, found.numbers["excluded"]) == ("red", 4)
    assert "fewer frames" in found.found

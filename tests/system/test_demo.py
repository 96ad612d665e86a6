"""The main job as a user runs it: real processes, TLS, DeepSpeed, files, a browser."""

import shutil
import signal
from pathlib import Path

import pytest
import yaml

from clip_files import moving_frames, write_video
from feat_fed.report import RunStore
from feat_fed.report.evaluation_folder import EvaluationFolder
from feat_fed.report.live import StudyLive
from shared_files import media
from system.study_runs import TINY, started
from waiting import nobody_left, wait_until

pytestmark = pytest.mark.slow


def measured_study(folder: Path) -> Path:
    """Write the tiny study with an evaluation, and videos to measure by."""
    (folder / "real").mkdir()
    for number in range(4):
        frames = moving_frames(frames=6 + number, height=32, width=32)
        write_video(folder / "real" / f"{number}.mp4", frames, "libx264")
    tree = yaml.safe_load(TINY.read_text())
    # Beside the other tests, at niceness 19, it would get nothing of the processor.
    tree["evaluation"] = {"folder": "real", "num_clips": 4, "niceness": 0}
    (folder / "study.yaml").write_text(yaml.safe_dump(tree))
    return folder / "study.yaml"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    """Return the run of a whole demonstration, stopped in its second round and gone on with."""
    runs = tmp_path_factory.mktemp("runs")
    arguments = ("demo", "--study", measured_study(runs), "--runs", runs, "--run", "d")
    with started(runs / "out", *arguments) as demo:
        demo.wait_for("listening on")
        store = RunStore(runs / "d")

        def in_round_two() -> bool:
            live = StudyLive.read(store.live)
            return live is not None and live.round == 2 and live.phase == "training"

        wait_until(in_round_two, 120, demo.text)
        family = demo.family()
        assert len(family) >= 7
        demo.process.send_signal(signal.SIGINT)
        assert demo.end(60) == 130
        nobody_left(family)
        assert "stopped after round 1 of 3" in demo.text()
    assert store.summary().state == "interrupted"
    assert store.report.exists()
    with started(runs / "again", *arguments) as again:
        assert again.end() == 0, again.text()
        assert "going on with" in again.text()
        assert f"report:      {runs / 'd' / 'report.html'}" in again.text()
    assert store.summary().state == "complete"
    return store


def test_the_loss_falls_from_round_to_round(finished: RunStore) -> None:
    rounds = finished.rounds()
    scores = [record.heldout_loss for record in rounds]
    final = finished.summary().final_heldout_loss
    assert [record.round for record in rounds] == [1, 2, 3]
    assert all(score is not None for score in scores)
    assert final is not None
    falling = [*scores, final]
    assert falling == sorted(falling, reverse=True)  # type: ignore[type-var]
    assert final < 0.5 * falling[0]  # type: ignore[operator]


def test_every_site_took_part_with_deepspeed(finished: RunStore) -> None:
    assert finished.study.training.engine == "deepspeed"
    for record in finished.rounds():
        assert {site.site: site.status for site in record.sites} == {
            "hospital-1": "ok",
            "hospital-2": "ok",
        }
        assert all(site.steps == 25 and site.bytes_up > 0 for site in record.sites)


def test_rounds_are_measured_beside_the_study(finished: RunStore) -> None:
    folder = EvaluationFolder.of_run(finished.root)
    found = folder.evaluations()
    assert sorted(each.round for each in found if each.round is not None) == [0, 1, 2, 3]
    assert len({each.terms for each in found}) == 1
    assert folder.rounds_with_samples() == [0, 1, 2, 3]
    assert folder.read_best() is not None


def test_the_runs_folder_holds_what_the_readme_says(finished: RunStore) -> None:
    root = finished.root
    for name in ("study.yaml", "metrics.jsonl", "report.html", "summary.json"):
        assert (root / name).stat().st_size > 0
    for name in ("samples.mp4", "samples.gif", "contact-sheet.png"):
        assert (finished.samples / name).stat().st_size > 0
    for number in range(4):
        assert finished.checkpoint(number).exists()
        assert finished.ema(number).exists()
    for site in ("hospital-1", "hospital-2"):
        assert (root / "sites" / site / "site.yaml").exists()
        assert list((root / "sites" / site / "store" / "latents").rglob("*.*"))


def test_no_name_of_a_patient_or_file_left_a_site(finished: RunStore) -> None:
    """What the server's side wrote holds nothing of the clips' paths or headers."""
    from pydicom import dcmread

    planted = set()
    for path in (finished.root / "data").rglob("*"):
        if path.is_file():
            planted.add(path.stem)
            if path.suffix == ".dcm":
                header = dcmread(path, stop_before_pixels=True)
                planted |= {str(header.PatientID), str(header.get("PatientName", ""))}
    planted = {each for each in planted if len(each) > 5}
    assert planted
    server_files = [
        *(finished.root / name for name in ("metrics.jsonl", "summary.json", "live.json")),
        finished.report,
        finished.logs / "superlink.log",
        finished.logs / "serverapp.log",
        *(finished.root / "checkpoints").iterdir(),
    ]
    for path in server_files:
        content = path.read_bytes()
        assert not [each for each in planted if each.encode() in content], path


def test_the_report_shows_curves_and_moving_samples(finished: RunStore) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium: make browser")
    from playwright.sync_api import sync_playwright

    arguments = (
        "--no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    )
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=arguments.split())
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(finished.report.as_uri())
        assert page.locator("svg").count() >= 3
        sample = page.locator("img[src^='data:image/gif'], video").first
        looks = {sample.screenshot()}
        for _ in range(60):  # a busy machine shows few pictures a second
            page.wait_for_timeout(170)
            looks.add(sample.screenshot())
            if len(looks) > 1:
                break
        browser.close()
    assert len(looks) > 1


def test_a_finished_run_has_nothing_left_to_do(finished: RunStore, tmp_path: Path) -> None:
    runs, name = finished.root.parent, finished.root.name
    with started(tmp_path / "out", "demo", "--study", TINY, "--runs", runs, "--run", name) as again:
        assert again.end(60) == 0
        assert "complete at 3 rounds" in again.text()


def test_a_client_that_dies_ends_the_demo_with_its_log(tmp_path: Path) -> None:
    with started(
        *(tmp_path / "out", "demo", "--study", TINY, "--runs", tmp_path, "--run", "r")
    ) as demo:
        demo.wait_for("listening on")
        wait_until(lambda: len(demo.family()) >= 7, told=demo.text)
        family = demo.family()
        next(each for each in family if "site-config" in " ".join(each.cmdline())).kill()
        assert demo.end(90) == 1
        nobody_left(family)
        assert "the client of hospital-" in demo.text()
        assert "its log is" in demo.text()
        assert "Traceback" not in demo.text()


def test_real_ultrasound_makes_hospitals(tmp_path: Path) -> None:
    folder = tmp_path / "lung_us"
    folder.mkdir()
    subjects = {
        film.name.partition("Image")[0]: film for film in sorted(media("lung_us").iterdir())
    }
    for film in list(subjects.values())[:4]:  # two patients a hospital
        (folder / film.name).symlink_to(film)
    with started(
        *(tmp_path / "out", "demo", "--study", TINY, "--rounds", 1, "--data", folder),
        *("--runs", tmp_path, "--run", "real"),
    ) as demo:
        assert demo.end(240) == 0, demo.text()
    sites = RunStore(tmp_path / "real").rounds()[0].sites
    assert [site.status for site in sites] == ["ok"] * 2

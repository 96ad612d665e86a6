from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from feat_fed.config import StudyConfig
from feat_fed.errors import ConfigError, RunError
from feat_fed.report import RoundRecord, RunStore, RunSummary

Records = tuple[RoundRecord, ...]


def test_a_new_run_reads_back(store: RunStore, study: StudyConfig) -> None:
    again = RunStore(store.root)
    assert again.study == study
    assert again.rounds() == ()
    assert again.latest_round() is None
    summary = again.summary()
    assert (summary.state, summary.rounds_done, summary.rounds_wanted) == ("running", 0, 3)


def test_a_second_run_in_the_same_folder_is_refused(store: RunStore, study: StudyConfig) -> None:
    with pytest.raises(RunError, match="is a run already: resume it"):
        RunStore.create(store.root, study)


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path, study: StudyConfig) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunError, match="exists and is not a run"):
        RunStore.create(tmp_path, study)
    assert [each.name for each in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, study: StudyConfig) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot be made"):
        RunStore.create(tmp_path / "file" / "run", study)


def test_opening_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is not a run: it has no study\.yaml"):
        RunStore(tmp_path)


def test_opening_a_run_of_another_version(store: RunStore) -> None:
    with (store.root / "study.yaml").open("a") as file:
        file.write("colour: red\n")
    with pytest.raises(RunError, match="colour: unknown field"):
        RunStore(store.root)


def test_resuming_another_study_names_what_differs(store: RunStore, study: StudyConfig) -> None:
    training = study.training.model_copy(update={"local_steps": 7})
    other = study.model_copy(update={"training": training})
    with pytest.raises(RunError, match=r"training\.local_steps: 220 in the run, 7 asked"):
        RunStore.resume(store.root, other)


def test_a_resumed_run_may_go_on_for_longer(store: RunStore, study: StudyConfig) -> None:
    longer = study.model_copy(update={"rounds": 100})
    assert RunStore.resume(store.root, longer).study.rounds == 100
    assert RunStore(store.root).study == longer


def test_a_private_run_keeps_the_noise_that_it_began_with(
    tmp_path: Path, private: StudyConfig
) -> None:
    begun = RunStore.create(tmp_path / "run", private).study
    assert begun.privacy.patient is not None
    assert begun.privacy.patient.noise_multiplier is not None
    assert RunStore(tmp_path / "run").study == begun
    assert RunStore.resume(tmp_path / "run", private).study == begun
    fewer = private.model_copy(update={"rounds": 2})
    assert RunStore.resume(tmp_path / "run", fewer).study.privacy == begun.privacy
    more = private.model_copy(update={"rounds": 30})
    with pytest.raises(ConfigError, match=r"privacy\.patient\.epsilon, 8; ask for fewer rounds"):
        RunStore.resume(tmp_path / "run", more)


def test_a_run_goes_on_with_the_privacy_that_it_has(
    tmp_path: Path, store: RunStore, private: StudyConfig, study: StudyConfig
) -> None:
    begun = RunStore.create(tmp_path / "private", private)
    with pytest.raises(RunError, match="run of another study"):
        RunStore.resume(begun.root, study)
    with pytest.raises(RunError, match="run of another study"):
        RunStore.resume(store.root, private)


def test_rounds_come_back_in_order(store: RunStore, records: Records) -> None:
    for record in records:
        store.append(record)
    assert store.rounds() == records


def test_the_last_record_of_a_round_counts(store: RunStore, records: Records) -> None:
    again = records[1].model_copy(update={"seconds": 99.0})
    for record in (*records, again):
        store.append(record)
    assert store.rounds() == (records[0], again, records[2])


def test_an_append_torn_at_any_byte_is_passed_over(store: RunStore, records: Records) -> None:
    metrics = store.root / "metrics.jsonl"
    store.append(records[0])
    whole = metrics.stat().st_size
    store.append(records[1])
    full = metrics.read_bytes()
    for cut in range(whole, len(full)):
        metrics.write_bytes(full[:cut])
        assert store.rounds() == records[:1]
        store.append(records[2])
        assert store.rounds() == (records[0], records[2])


def test_a_damaged_line_is_named(store: RunStore, records: Records) -> None:
    store.append(records[0])
    with (store.root / "metrics.jsonl").open("a") as file:
        file.write('{"round": 0}\n')
    with pytest.raises(RunError, match=r"metrics\.jsonl, line 2, is not a round: round: Input"):
        store.rounds()


def test_the_summary_is_replaced(store: RunStore, final: RunSummary) -> None:
    store.write_summary(final)
    assert store.summary() == final
    (store.root / "summary.json").write_text("{")
    with pytest.raises(RunError, match=r"summary\.json is damaged"):
        store.summary()


def test_a_missing_file_is_told(store: RunStore) -> None:
    (store.root / "metrics.jsonl").unlink()
    with pytest.raises(RunError, match=r"metrics\.jsonl cannot be read"):
        store.rounds()


def test_the_latest_round_has_both_its_weights(store: RunStore) -> None:
    for number in (0, 9, 10_000):
        store.checkpoint(number).touch()
        store.ema(number).touch()
    store.checkpoint(10_001).touch()
    store.checkpoint(3).with_name(".round-20000.safetensors").touch()
    assert store.checkpoint(3).name == "round-0003.safetensors"
    assert store.ema(3).name == "ema-0003.safetensors"
    assert store.latest_round() == 10_000


@pytest.mark.parametrize("time", ["yesterday", "2026-01-31T12:00:00", "2026-01-31T12:00:00+01:00"])
def test_a_round_starts_at_a_time_in_utc(records: Records, time: str) -> None:
    with pytest.raises(ValidationError, match="started_at"):
        RoundRecord.model_validate({**records[0].model_dump(), "started_at": time})


def test_the_store_comes_without_what_draws() -> None:
    code = (
        "import sys, feat_fed.report as r; r.RunStore, r.RoundRecord\n"
        "heavy = {'matplotlib', 'torch', 'numpy', 'av', 'PIL', 'jinja2'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "r.write_report, r.write_samples\n"
        "assert 'torch' not in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

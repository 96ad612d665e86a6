"""The evaluator beside a run: what it measures, keeps, passes over, and refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from evaluated_run import add_round, complete, config_of, evaluated_run, scored
from feat_fed.config import CheckpointsConfig
from feat_fed.errors import ConfigError, DataError, RunError
from feat_fed.evaluator import bench, living
from feat_fed.evaluator.watch import watch
from feat_fed.generate import generate_clips
from feat_fed.report import RunStore, SampleFiles
from feat_fed.report.evaluation_folder import EvaluationFolder, EvaluatorLive
from feat_fed.report.run_store import lock_run
from feat_fed.train.rotation import rotate

Scores = Callable[..., None]


@pytest.fixture
def scores(monkeypatch: pytest.MonkeyPatch) -> Scores:
    """Put known numbers in place of the measured ones; the clips are drawn all the same."""

    def put(values: dict[int, float], during: Callable[[int], None] = lambda _: None) -> None:
        others = dict.fromkeys(range(10), 9.0)
        monkeypatch.setattr(bench, "evaluate", scored(others | values, during))

    return put


def watched(store: RunStore, **options: object) -> list[str]:
    """Let the evaluator do what there is; return what it told."""
    told: list[str] = []
    watch(store.root, tell=told.append, look_sec=0.0, once=True, **options)  # type: ignore[arg-type]
    return told


def measured(store: RunStore) -> list[int | None]:
    return [each.round for each in EvaluationFolder.of_run(store.root).evaluations()]


def kept_few(store: RunStore) -> RunStore:
    """Let the study keep two rounds beside the untrained one."""
    few = CheckpointsConfig(keep_last=2, keep_best=0)
    return RunStore.resume(store.root, store.study.model_copy(update={"checkpoints": few}))


def test_rounds_are_measured_once_the_newest_first(tmp_path: Path) -> None:
    store = evaluated_run(tmp_path, rounds=5, wanted=5, every_rounds=2)
    watched(store)
    assert measured(store) == [5, 4, 2, 0]
    folder = EvaluationFolder.of_run(store.root)
    assert folder.rounds_with_samples() == [0, 2, 4, 5]
    assert SampleFiles.under(folder.samples(4)).mp4.stat().st_size > 0
    before = folder.metrics.read_bytes()
    assert watched(store) == []
    assert folder.metrics.read_bytes() == before


def test_a_run_that_has_not_begun_has_nothing_to_tell(tmp_path: Path) -> None:
    store = evaluated_run(tmp_path, rounds=-1)
    assert watched(store) == []


def test_the_same_weights_give_the_same_numbers_and_others_others(tmp_path: Path) -> None:
    store = evaluated_run(tmp_path, rounds=1)
    add_round(store, 2, seed=1)  # the weights of round 1 again
    watched(store)
    by_round = {each.round: each for each in EvaluationFolder.of_run(store.root).evaluations()}
    assert by_round[2].metrics == by_round[1].metrics
    assert by_round[1].metrics != by_round[0].metrics
    assert len({each.terms for each in by_round.values()}) == 1


def test_it_ends_with_the_run_and_goes_on_with_a_longer_one(tmp_path: Path, scores: Scores) -> None:
    store = evaluated_run(tmp_path, rounds=1)

    def go_on(number: int) -> None:
        if number == 1:
            add_round(store, 2)
            complete(store)

    scores({}, go_on)
    watch(store.root, look_sec=0.0)  # and not for ever
    assert measured(store) == [1, 2, 0]
    live = EvaluatorLive.read(EvaluationFolder.of_run(store.root).live)
    assert live is not None
    assert live.state == "stopped"


def test_the_best_round_outlives_rotation(tmp_path: Path, scores: Scores) -> None:
    store = kept_few(evaluated_run(tmp_path, rounds=3))

    def rotated(number: int) -> None:
        if number == 3:  # is being measured
            for new in (4, 5, 6):
                add_round(store, new)
            rotate(store)

    scores({3: 1.0, 5: 2.0}, rotated)
    told = watched(store)
    assert store.rounds_with_files() == [0, 5, 6]
    assert measured(store) == [3, 6, 5, 0]
    assert "3 rounds (... 1, 2, 4): due, and removed by the run's rotation" in "\n".join(told)
    folder = EvaluationFolder.of_run(store.root)
    best = folder.read_best()
    assert best is not None
    assert (best.round, best.metric, best.value) == (3, "FVD-random", 1.0)
    held = {each.name for each in folder.checkpoints.iterdir()}
    assert held == {"ema-0003.safetensors", "round-0003.safetensors", "round-0003.json"}
    assert len(generate_clips(store, round_number=3)) == 2
    add_round(store, 7)
    scores({7: 0.5})
    watched(store)
    assert {each.stem for each in folder.checkpoints.iterdir()} == {"ema-0007", "round-0007"}


def test_files_that_go_as_they_are_taken_hold_of_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scores: Scores
) -> None:
    store = evaluated_run(tmp_path, rounds=2)
    scores({})
    link = living.os.link

    def too_late(source: Path, name: Path) -> None:
        if Path(source).name == "round-0002.safetensors":  # its other file is held by now
            for path in store.files_of(2):
                path.unlink(missing_ok=True)
        link(source, name)

    monkeypatch.setattr(living.os, "link", too_late)
    watched(store)
    assert measured(store) == [1, 0]
    held = EvaluationFolder.of_run(store.root).checkpoints
    assert not list(held.glob("*0002*"))


def test_where_files_have_one_name_only_they_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scores: Scores
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no such thing here")

    store = evaluated_run(tmp_path, rounds=1)
    monkeypatch.setattr(living.os, "link", refuse)
    scores({1: 1.0})
    watched(store)
    held = EvaluationFolder.of_run(store.root).checkpoints / store.ema(1).name
    assert held.read_bytes() == store.ema(1).read_bytes()
    assert not held.samefile(store.ema(1))


def test_a_damaged_round_is_passed_over_and_measured_once_it_was_done_again(
    tmp_path: Path, scores: Scores
) -> None:
    store = evaluated_run(tmp_path, rounds=2)
    scores({})
    content = bytearray(store.ema(2).read_bytes())
    content[-1] ^= 1
    store.ema(2).write_bytes(content)
    told = watched(store)
    assert measured(store) == [1, 0]
    assert any(line.startswith("round 2 is passed over: ") for line in told)
    add_round(store, 2, seed=9)
    add_round(store, 1, seed=8)
    watched(store)
    assert measured(store) == [1, 0, 2, 1]


def test_rounds_that_are_passed_over_are_held_no_longer(tmp_path: Path, scores: Scores) -> None:
    store = evaluated_run(tmp_path, rounds=2)

    def fail(number: int) -> None:
        raise DataError(f"the features of round {number} are not finite")

    scores({}, fail)
    told = watched(store)
    assert [line[:22] for line in told] == [f"round {each} is passed over" for each in (2, 1, 0)]
    assert measured(store) == []
    assert not list(EvaluationFolder.of_run(store.root).checkpoints.iterdir())


def test_a_record_of_some_of_the_metrics_does_not_stand_for_all(tmp_path: Path) -> None:
    store = evaluated_run(tmp_path, rounds=0)
    watched(store)
    folder = EvaluationFolder.of_run(store.root)
    [whole] = folder.evaluations()
    part = whole.model_copy(update={"metrics": whole.metrics[:1]})
    folder.metrics.write_text(part.model_dump_json() + "\n")
    watched(store)
    watched(store)
    assert [len(each.metrics) for each in folder.evaluations()] == [1, 2]


def test_other_terms_are_measured_anew_and_the_best_of_the_old_ones_too(
    tmp_path: Path, scores: Scores
) -> None:
    store = kept_few(evaluated_run(tmp_path, rounds=1))
    scores({1: 1.0})
    watched(store)
    for number in (2, 3, 4):
        add_round(store, number)
    rotate(store)
    watched(store, config=config_of(store).model_copy(update={"num_clips": 5}))
    assert measured(store) == [1, 0, 4, 3, 1, 0]
    best = EvaluationFolder.of_run(store.root).read_best()
    assert best is not None
    assert best.round == 1


def test_a_second_evaluator_is_turned_away(tmp_path: Path) -> None:
    store = evaluated_run(tmp_path)
    with living.living(store.root), pytest.raises(RunError, match=r"at work already \(process \d+"):
        watch(store.root)
    with lock_run(store.root):  # the server's is another lock
        watched(store)


def test_one_on_a_machine_that_the_lock_does_not_reach_is_seen_by_its_sign_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = evaluated_run(tmp_path)
    folder = EvaluationFolder.of_run(store.root)
    folder.root.mkdir()
    other = EvaluatorLive(host="elsewhere", pid=7, state="measuring", at=0.0)
    other.write(folder.live)
    with pytest.raises(RunError, match=r"process 7 on elsewhere.*again in 30 seconds"):
        watch(store.root)
    monkeypatch.setattr(living, "SILENT_SEC", 0.0)
    watched(store)
    assert measured(store) == [0]


def test_what_is_wrong_of_all_rounds_ends_it_with_the_mend(tmp_path: Path) -> None:
    store = evaluated_run(tmp_path)
    config = config_of(store)

    def refused(match: str, kind: type[Exception] = ConfigError, **changes: object) -> None:
        with pytest.raises(kind, match=match):
            watched(store, config=config.model_copy(update=changes))

    refused(r"evaluation\.folder is missing", folder=None)
    refused(r"best_by is sharpness.*choose of: FVD-random", best_by="sharpness")
    refused(r"names 'i3d'; networks.*i3d-torchscript", networks={"i3d": None})
    (tmp_path / "none").mkdir()
    refused("no video|none", DataError, folder=tmp_path / "none")
    (tmp_path / "real" / "0.mp4").rename(tmp_path / "none" / "0.mp4")
    refused("has 1 videos", DataError, folder=tmp_path / "none")
    plain = store.study.model_copy(update={"evaluation": None})
    RunStore.resume(store.root, plain)
    with pytest.raises(ConfigError, match="says nothing of evaluation"):
        watch(store.root)

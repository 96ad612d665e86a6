from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from feat_fed.report import RoundRecord, RunStore
from feat_fed.report import run_events as run_events_module
from feat_fed.report.run_events import RunEvents, write_evaluation_event
from feat_fed.report.scalars import evaluation_scalars, round_scalars
from measured_runs import evaluation_of

Records = tuple[RoundRecord, ...]


def points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the scalars of a folder's files as TensorBoard reads them: by name, step and value."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    found: dict[str, dict[int, float]] = defaultdict(dict)
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        while content:
            length = int.from_bytes(content[:8], "little")
            event = Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            if event.session_log.status == SessionLog.START:
                for values in found.values():
                    for step in [each for each in values if each >= event.step]:
                        del values[step]
            for value in event.summary.value:
                found[value.tag][event.step] = value.simple_value
    return {name: sorted(values.items()) for name, values in found.items()}


def test_each_round_is_on_the_disk_when_it_is_told(store: RunStore, records: Records) -> None:
    events = RunEvents(store, first_round=1)
    for record in records:
        events.round(record)
        steps = [step for step, _ in points(store.root / "tensorboard" / "rounds")["loss/train"]]
        assert steps == list(range(1, record.round + 1))
    found = points(store.root / "tensorboard" / "rounds")
    assert found["loss/train"] == [(1, pytest.approx(0.56)), (2, pytest.approx(0.36)),
                                   (3, pytest.approx(0.31))]  # fmt: skip
    assert found["round/sites_aggregated"] == [(1, 2.0), (2, 1.0), (3, 2.0)]
    assert [step for step, _ in found["site/south/loss_train"]] == [1, 3]
    events.close()


def test_a_round_that_is_done_again_counts_once(store: RunStore, records: Records) -> None:
    first = RunEvents(store, first_round=1)
    for record in records:
        first.round(record)
    first.close()
    second = RunEvents(store, first_round=2)
    second.round(records[1].model_copy(update={"train_loss": 0.25}))
    second.close()
    found = points(store.root / "tensorboard" / "rounds")["loss/train"]
    assert found == [(1, pytest.approx(0.56)), (2, 0.25)]


def test_whatever_breaks_costs_the_curve_alone(
    store: RunStore,
    records: Records,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_: object) -> dict[str, float]:
        raise RuntimeError("nobody thought of this")

    events = RunEvents(store, first_round=1)
    with monkeypatch.context() as patched:
        patched.setattr(run_events_module, "round_scalars", broken)
        events.round(records[0])
    events.round(records[1])
    events.close()
    assert caplog.text.count("nobody thought of this") >= 1
    assert [step for step, _ in points(store.root / "tensorboard" / "rounds")["loss/train"]] == [2]


def test_a_folder_that_cannot_be_made_costs_the_curves_alone(
    store: RunStore, records: Records, caplog: pytest.LogCaptureFixture
) -> None:
    (store.root / "tensorboard").write_text("a file")
    events = RunEvents(store, first_round=1)
    events.round(records[0])
    events.close()
    assert caplog.text.count("no events for TensorBoard") == 1


def test_evaluations_are_a_curve_of_their_own(store: RunStore) -> None:
    for number, value in ((3, 300.0), (1, 500.0)):
        write_evaluation_event(store.root, evaluation_of(number, value))
    write_evaluation_event(store.root, evaluation_of(1, 7.0, source="folder", round=None))
    found = points(store.root / "tensorboard" / "evaluation")
    assert found["quality/plain/ema/FVD-random"] == [(1, 500.0), (3, 300.0)]
    assert found["quality/plain/ema/FVD-random low"] == [(1, 450.0), (3, 270.0)]
    assert "quality/plain/ema/sharpness low" not in found


def test_names_hold_nothing_but_what_both_programs_take() -> None:
    odd = evaluation_of(1, 2.0, protocol="mine: <b>\n")
    assert "quality/mine_ _b__/ema/FVD-random" in evaluation_scalars(odd)


def test_a_rounds_scalars_say_what_is_known(store: RunStore, records: Records) -> None:
    found = round_scalars(store.study, records[1])
    assert found["bytes/sent"] == records[1].sites[0].bytes_up
    assert found["learning_rate/at_start"] == store.study.training.learning_rate
    assert found["site/south/aggregated"] == 0.0
    assert "site/south/loss_train" not in found

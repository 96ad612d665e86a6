"""The last door, before a trainer that is hostile or wrong: nothing leaves that is not listed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Error, Message, RecordDict
from safetensors.torch import save
from torch import Tensor

from feat_fed.audit import lines
from feat_fed.config import SiteConfig, SiteDataConfig, StudyConfig
from feat_fed.federate import pack
from feat_fed.model.state import state_schema
from feat_fed.privacy.accounting import NoisySteps, rdp_epsilon
from feat_fed.privacy.ledger import Budget, Ledger
from feat_fed.privacy.ledger_events import Reserved
from feat_fed.protocol import Assignment, Report
from feat_fed.wire import bundle, from_records, header_record, to_records, weights_record
from feat_fed_client import last_door
from feat_fed_client.app import let_out
from feat_fed_client.executor import Executor, _joined
from feat_fed_client.last_door import FAILED, DoorError

STUDY_ID = "a" * 32
PATIENT = {"patient": {"noise_multiplier": 1.0, "sample_rate": 0.5}}
CENTRAL = {"central": {"noise_multiplier": 1.0}}
SECRET = "patient-4711"


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the disk, which is waited for at each line."""
    monkeypatch.setattr("os.fsync", lambda _: None)


def study_with(privacy: dict[str, Any]) -> StudyConfig:
    tree = {
        "name": "tiny",
        "model": {"in_channels": 6, "hidden_size": 16, "num_trios": 1, "num_heads": 2},
        "clips": {"frames": 2, "size_px": 32},
        "training": {"engine": "torch", "local_steps": 4},
        "strategy": {"weigh_by": "equal"},
        "privacy": privacy,
    }
    return StudyConfig.model_validate(tree)


def asked(privacy: dict[str, Any], task: str = "train") -> Message:
    fields = {"study_id": STUDY_ID, "round": 3, "task": task, "first_step": 0}
    told = Assignment.model_validate(fields | {"study": study_with(privacy)})
    message = Message(to_records(told), dst_node_id=1, message_type=task)
    message.metadata.__dict__["_message_id"] = "1"
    return message


def site(store: Path, **privacy: Any) -> SiteConfig:
    tree = {"name": "a", "data": SiteDataConfig(paths=(Path("clips"),)), "store": store}
    return SiteConfig.model_validate(tree | {"privacy": privacy})


def settled(store: Path, round_number: int = 3, *, settle: bool = True) -> Ledger:
    ledger = Ledger(store, "a")
    of = ledger.reserve(
        Reserved(
            study_id=STUDY_ID,
            study="tiny",
            round=round_number,
            noise_multiplier=1.0,
            sample_rate=0.5,
            steps=5,
        ),
        budget=Budget(None, 1e-5),
    )
    if settle:
        ledger.settle(of, steps=5)  # four and one that was skipped, as of report()
    return ledger


WEIGHTS = {
    name: torch.ones(each.shape, dtype=each.dtype)
    for name, each in state_schema(study_with({}).model).items()
}


def report(**changes: Any) -> Report:
    """All that a trainer knows."""
    fields = {
        "study_id": STUDY_ID,
        "round": 3,
        "task": "train",
        "site": "a",
        "outcome": "ok",
        "examples": 37,
        "patients": 11,
        "steps": 4,
        "skipped_steps": 1,
        "train_loss": 0.123,
        "heldout_loss": 0.456,
        "train_sec": 7.8,
        "holds": "b" * 64,
    }
    return Report.model_validate(fields | changes)


def sent(
    at: SiteConfig,
    privacy: dict[str, Any],
    told: Report | RecordDict,
    weights: dict[str, Tensor] | list[bytes] | None = WEIGHTS,
) -> tuple[Report, list[bytes]]:
    """Return what leaves of a trainer's reply."""
    message = asked(privacy, told.task if isinstance(told, Report) else "train")
    buckets = weights if isinstance(weights, list) else pack(weights) if weights else []
    content = told if isinstance(told, RecordDict) else to_records(told, buckets)
    reply, _ = let_out(lambda: Message(content, reply_to=message), message, at)
    return from_records(reply.content, Report)


def test_without_privacy_a_report_leaves_as_it_is(tmp_path: Path) -> None:
    assert sent(site(tmp_path), {}, report()) == (report(), pack(WEIGHTS))
    scored = report(task="evaluate", steps=0, patients=None, train_loss=None, train_sec=0.0)
    scored = scored.model_copy(update={"skipped_steps": 0})
    assert sent(site(tmp_path), {}, scored, None) == (scored, [])
    assert not (tmp_path / "privacy").exists()


@pytest.mark.parametrize("privacy", [PATIENT, CENTRAL, PATIENT | CENTRAL])
def test_under_privacy_no_loss_count_or_time_leaves(
    privacy: dict[str, Any], tmp_path: Path
) -> None:
    settled(tmp_path)
    left, buckets = sent(site(tmp_path), privacy, report())
    assert left.model_dump(exclude_defaults=True, exclude={"ledger"}) == {
        "study_id": STUDY_ID,
        "round": 3,
        "task": "train",
        "site": "a",
        "outcome": "ok",
        "examples": 1,
        "steps": 4,
        "holds": "b" * 64,
    }
    assert buckets == pack(WEIGHTS)
    scored, _ = sent(site(tmp_path), privacy, report(task="evaluate", steps=0), None)
    assert (scored.examples, scored.heldout_loss, scored.outcome) == (1, None, "ok")


@pytest.mark.parametrize(
    ("tell", "leaves"),
    [
        ("losses", {"train_loss", "heldout_loss"}),
        ("counts", {"examples", "patients", "skipped_steps"}),
        ("times", {"train_sec"}),
    ],
)
def test_the_sites_policy_lets_out_what_it_names_and_no_more(
    tell: str, leaves: set[str], tmp_path: Path
) -> None:
    settled(tmp_path)
    left, _ = sent(site(tmp_path, tell=[tell]), PATIENT, report())
    hidden = {"train_loss", "heldout_loss", "examples", "patients", "skipped_steps", "train_sec"}
    same = {name for name in hidden if getattr(left, name) == getattr(report(), name)}
    assert same == leaves


def test_every_field_of_a_report_is_on_a_list_of_the_doors() -> None:
    listed = last_door._ALWAYS | last_door._NOT_DONE | last_door._TRAINED
    listed = listed.union(*last_door._TOLD.values()) | last_door._AGREED | {"ledger"}
    assert set(Report.model_fields) <= listed


def test_a_refusal_carries_nothing_but_its_code(tmp_path: Path) -> None:
    told = report(outcome="failed", code="memory", reference="12345678")
    left, _ = sent(site(tmp_path), {}, told, None)
    dumped = left.model_dump(exclude_defaults=True)
    assert {"train_loss", "examples", "steps", "patients"}.isdisjoint(dumped)
    assert (left.code, left.reference) == ("memory", "12345678")


def stopped(
    caplog: pytest.LogCaptureFixture, outcome: tuple[Report, list[bytes]], why: str
) -> None:
    told, buckets = outcome
    assert (told.outcome, told.code, buckets) == ("failed", "internal", [])
    assert why in caplog.text
    assert told.reference is not None and told.reference in caplog.text
    assert (told.examples, told.train_loss) == (0, None)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"round": 2}, "of another round"),
        ({"study_id": "b" * 32}, "of another study id"),
        ({"task": "evaluate"}, "of another task"),
        ({"site": "b"}, "of another site"),
    ],
)
def test_an_answer_to_something_else_stays(
    changes: dict[str, Any], why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    message = asked({})
    buckets = [] if "task" in changes else pack(WEIGHTS)
    content = to_records(report(**changes), buckets)
    reply, _ = let_out(lambda: Message(content, reply_to=message), message, site(tmp_path))
    stopped(caplog, from_records(reply.content, Report), why)


def test_an_update_without_a_settled_reservation_of_this_round_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stopped(caplog, sent(site(tmp_path), PATIENT, report()), "is not in the privacy ledger")
    settled(tmp_path, 2)  # of another round
    stopped(caplog, sent(site(tmp_path), PATIENT, report()), "is not in the privacy ledger")
    ledger = settled(tmp_path, 3, settle=False)
    stopped(caplog, sent(site(tmp_path), PATIENT, report()), "is not settled")
    of = ledger.read().last_of(STUDY_ID, 3)
    assert of is not None
    ledger.settle(of, steps=3)
    stopped(caplog, sent(site(tmp_path), PATIENT, report()), "settled with 3")
    of_three = report(steps=2, skipped_steps=1)
    assert sent(site(tmp_path), PATIENT, of_three)[0].outcome == "ok"


def test_without_the_protection_that_the_site_demands_nothing_good_leaves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the trainer made of privacy.require."""
    careful = site(tmp_path, require=["patient"])
    stopped(caplog, sent(careful, CENTRAL, report()), "privacy.require demands: patient")
    settled(tmp_path)
    assert sent(careful, PATIENT, report())[0].outcome == "ok"


def renamed(name: str) -> dict[str, Tensor]:
    first, *_ = WEIGHTS
    return {name if each == first else each: tensor for each, tensor in WEIGHTS.items()}


@pytest.mark.parametrize(
    ("weights", "why"),
    [
        (None, "0 buckets"),
        (renamed(SECRET), "unknown"),
        (WEIGHTS | {SECRET: torch.zeros(1)}, "1 are unknown"),
        (dict(list(WEIGHTS.items())[1:]), "missing"),
        ({name: each.double() for name, each in WEIGHTS.items()}, "bytes in"),
        ({name: each.half() for name, each in WEIGHTS.items()}, "another dtype"),
        ({name: each[..., None] for name, each in WEIGHTS.items()}, "another shape"),
        ({name: each * torch.nan for name, each in WEIGHTS.items()}, "not finite"),
        ([SECRET.encode()], "not a safetensors file"),
        ([save(WEIGHTS, {"note": SECRET})], "more than its tensors"),
        ([*pack(WEIGHTS), b""], "not a safetensors file"),
    ],
)
def test_weights_of_another_layout_or_with_something_beside_them_stay(
    weights: Any, why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settled(tmp_path)
    stopped(caplog, sent(site(tmp_path), PATIENT, report(), weights), why)
    assert len(Ledger(tmp_path, "a").read().reservations[2].released) == 0


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (lambda header: header.replace('{"dtype"', f'{{"note":"{SECRET}","dtype"', 1), "["),
        (lambda header: header.replace('"dtype"', '"dtype":"F32","dtype"', 1), "["),
        (lambda header: header.replace(":", " \t:"), "more than its tensors"),
        (lambda header: header.rstrip() + " " * 4096, "more than its tensors"),
    ],
)
def test_a_text_between_the_lines_of_a_header_stays(
    changed: Callable[[str], str], why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    [bucket] = pack(WEIGHTS)
    size = int.from_bytes(bucket[:8], "little")
    header = changed(bucket[8 : 8 + size].decode()).encode()
    header += b" " * (-len(header) % 8)  # tensors lie where they can be read
    planted = len(header).to_bytes(8, "little") + header + bucket[8 + size :]
    assert planted != bucket
    stopped(caplog, sent(site(tmp_path), {}, report(), [planted]), why)


def test_fields_and_records_beside_the_protocols_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = json.loads(report().model_dump_json()) | {"note": SECRET}
    with pytest.raises(DoorError, match="no report of the protocol"):
        _joined([b"report", json.dumps(told).encode()], asked({}))
    for parts in ([b"report"], [b"error", b"x", b"y"], [b"error", b"1"], []):
        with pytest.raises(DoorError):
            _joined(parts, asked({}))
    content = to_records(report(), pack(WEIGHTS))
    content["beside"] = header_record(report())
    stopped(caplog, sent(site(tmp_path), {}, content), "records beside its header")
    stopped(caplog, sent(site(tmp_path), {}, RecordDict()), "without a header")
    no_report = RecordDict({"arrays": weights_record(pack(WEIGHTS))})
    stopped(caplog, sent(site(tmp_path), {}, no_report), "without a header")


def test_the_text_of_a_trainers_error_stays(tmp_path: Path) -> None:
    message = asked({})
    reply, _ = let_out(
        lambda: Message(Error(77, SECRET), reply_to=message), message, site(tmp_path)
    )
    assert (reply.error.code, reply.error.reason) == (2, FAILED)


def test_what_left_is_in_both_logs_with_the_epsilon_and_once_if_it_is_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the process does it that holds the server's message."""
    settled(tmp_path)
    at = site(tmp_path, delta=1e-6)
    told = to_records(report(), pack(WEIGHTS))
    monkeypatch.setattr(
        Executor, "_work", lambda _self, _client, message, _: Message(told, reply_to=message)
    )
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    fab = type("Fab", (), {"content": bundle()[0]})
    executor = Executor("127.0.0.1:1", b"secret", lambda _: at)
    for _ in range(2):
        reply = executor._recorded(None, "flwr-clientapp", fab, asked(PATIENT), context)  # type: ignore[arg-type]
        left, _ = from_records(reply.content, Report)
        leaving = [each.event for each in lines(tmp_path / "audit")][-1]
        head = Ledger(tmp_path, "a").read().head
        assert head is not None and left.ledger is not None
        assert (left.ledger.line, left.ledger.hash) == (4, head.hash)
        assert (leaving["ledger_line"], leaving["ledger_hash"]) == (4, head.hash)
        steps = [NoisySteps(1.0, 0.5, 5)]
        assert leaving["epsilon"] == rdp_epsilon(steps, delta=1e-6)
        assert leaving["delta"] == 1e-6
        assert "train_loss" not in leaving["report_fields"]
    [of] = Ledger(tmp_path, "a").read().reservations.values()
    assert of.released == [leaving["weights_sha256"]]
    told = to_records(report(task="evaluate", steps=0))
    scored = executor._recorded(None, "flwr-clientapp", fab, asked(PATIENT, "evaluate"), context)  # type: ignore[arg-type]
    leaving = [each.event for each in lines(tmp_path / "audit")][-1]
    assert from_records(scored.content, Report)[0].ledger is None
    assert leaving["epsilon"] == rdp_epsilon(steps, delta=1e-6)
    assert "ledger_line" not in leaving

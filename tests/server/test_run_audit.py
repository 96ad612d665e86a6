"""What the coordinator's audit log says of a study."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Error

from fake_sites import STUDY, Answer, honest, run
from feat_fed.audit import AuditLog, lines, verify
from feat_fed.errors import FederationError, StorageError
from feat_fed.federate import pack
from feat_fed.report.round_manifest import RoundManifest
from feat_fed.report.run_store import RunStore
from feat_fed_server import again as again_module
from feat_fed_server import asking as asking_module
from feat_fed_server.run_audit import RunAudit
from feat_fed_server.standing import standing_of


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking_module, "POLL_SEC", 0.01)
    monkeypatch.setattr(again_module, "ASK_AGAIN_SEC", 0.01)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore.create(tmp_path / "run", STUDY)


def events(store: RunStore, kind: str = "") -> list[dict[str, Any]]:
    told = [line.event for line in lines(store.root / "audit")]
    return [each for each in told if kind in ("", each["kind"])]


def failing() -> Answer:
    return lambda assignment, weights: Error(2, "patient 4711")


def test_a_study_from_its_first_line_to_its_last(store: RunStore) -> None:
    run(store, {"a": honest("a", 1.0), "b": honest("b", 2.0)})
    kinds = [each["kind"] for each in events(store)]
    assert kinds[:3] == ["log-began", "study-started", "round-started"]
    assert kinds[-1] == "study-ended"
    assert kinds.count("site-connected") == 2
    per_round = [each for each in kinds if each in ("site-asked", "reply-received")]
    assert len(per_round) == 2 * 2 * 3  # two sites, asked and answering, two rounds and scoring
    assert [each["files"] for each in events(store, "checkpoint-written")] == [
        RoundManifest.model_validate_json(store.manifest(number).read_bytes()).files
        for number in (1, 2)
    ]
    accepted = events(store, "reply-accepted")
    assert [(each["round"], each["site"]) for each in accepted] == [
        (1, "a"), (1, "b"), (2, "a"), (2, "b"),
    ]  # fmt: skip
    assert not verify(store.root / "audit").problems


def test_what_is_asked_is_in_the_log_before_it_is_sent_and_the_answer_as_it_came(
    store: RunStore,
) -> None:
    seen: list[int] = []
    sent: list[str] = []

    def watching(assignment: Any, weights: Any) -> Any:
        seen.append(len([e for e in events(store, "site-asked") if e["site"] == "a"]))
        if assignment.task == "train":
            buckets = pack({name: each + 1.0 for name, each in weights.items()})
            sent.append(hashlib.sha256(b"".join(buckets)).hexdigest())
        return honest("a", 1.0)(assignment, weights)

    run(store, {"a": watching, "b": honest("b", 2.0)})
    assert seen == [1, 2, 3]
    received = [each for each in events(store, "reply-received") if each["site"] == "a"]
    assert [each.get("weights_sha256") for each in received] == [*sent, None]


def test_a_reply_that_failed_is_told_by_code_and_without_its_text(store: RunStore) -> None:
    run(store, {"a": honest("a", 1.0), "b": honest("b", 2.0), "c": failing()})
    errors = [each for each in events(store, "reply-received") if each["site"] == "c"]
    assert {each["error"] for each in errors} == {2}
    assert events(store, "site-failed")[0]["site"] == "c"
    content = b"".join(each.read_bytes() for each in (store.root / "audit").glob("*.jsonl"))
    assert b"4711" not in content


def test_a_study_that_goes_on_says_from_what(store: RunStore) -> None:
    sites = {"a": honest("a", 1.0), "b": honest("b", 2.0)}
    run(store, sites)
    longer = RunStore.resume(store.root, STUDY.model_copy(update={"rounds": 3}))
    run(longer, sites)
    [resumed] = events(store, "study-resumed")
    assert resumed["after_round"] == 2
    assert resumed["files"] == events(store, "checkpoint-written")[1]["files"]


def test_a_study_without_an_audit_log_asks_nobody(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    (store.root / "audit").write_text("in the way")
    with pytest.raises(StorageError):
        run(store, {"a": honest("a", 1.0), "b": honest("b", 2.0)})
    assert not store.rounds()


def test_an_answer_that_cannot_be_noted_is_no_fault_of_the_site(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StorageError("the disk is full")

    with monkeypatch.context() as patch, pytest.raises(StorageError):
        patch.setattr(RunAudit, "received", full)
        run(store, {"a": honest("a", 1.0), "b": honest("b", 2.0)})
    run(RunStore(store.root), {"a": honest("a", 1.0), "b": honest("b", 2.0)})
    assert not any(standing_of(store).of(site).offences for site in "ab")


def test_a_study_that_ends_early_leaves_its_log_open(store: RunStore) -> None:
    with pytest.raises(FederationError):
        run(store, {"a": honest("a", 1.0), "b": failing()})
    assert not events(store, "study-ended")  # the ServerApp says so
    assert AuditLog.of_run(store.root, "tiny", "").last("round-started")

import contextlib
import dataclasses
import hashlib
import io
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Error, Message, RecordDict
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab

from feat_fed import __version__
from feat_fed.audit import lines, verify
from feat_fed.bundle import bundle_files
from feat_fed.config import SiteConfig, SiteDataConfig, StudyConfig, load_study
from feat_fed.errors import ConfigError, StorageError
from feat_fed.federate import pack
from feat_fed.model.state import state_schema
from feat_fed.protocol import Assignment, Report
from feat_fed.tasks import TakenTask
from feat_fed.wire import bundle, from_records, to_records
from feat_fed_client import executor as executor_module
from feat_fed_client.executor import (
    FAILED,
    REFUSALS,
    Executor,
    _joined,
    _parts,
    refusal,
)
from feat_fed_client.known_study import remember_study
from feat_fed_client.site_audit import SiteAudit
from feat_fed_client.supervision import Death, Patience
from feat_fed_client.trust import MAX_BUNDLE_BYTES, trusted_bundles

CLIENT = TaskType.CLIENT_APP.value


def site(store: Path, *hashes: str) -> SiteConfig:
    return SiteConfig(
        name="a",
        data=SiteDataConfig(paths=(Path("clips"),)),
        store=store,
        trusted_bundles=hashes,
    )


def executor(store: Path, *hashes: str) -> Executor:
    return Executor("127.0.0.1:1", b"secret", lambda _: site(store, *hashes))


def fab(content: bytes, claimed: str | None = None) -> Fab:
    return Fab(claimed or hashlib.sha256(content).hexdigest(), content, {})


def refused(store: Path, content: bytes, *hashes: str, claimed: str | None = None) -> str | None:
    return refusal(CLIENT, fab(content, claimed), trusted_bundles(site(store, *hashes)))


def test_our_own_bundle_is_trusted_and_holds_no_code(tmp_path: Path) -> None:
    content, digest = bundle()
    assert refused(tmp_path, content) is None
    assert digest == hashlib.sha256(content).hexdigest()
    assert list(bundle_files()) == ["pyproject.toml"]
    assert not any(name.endswith(".py") for name in zipfile.ZipFile(io.BytesIO(content)).namelist())


def test_the_bundle_is_the_same_every_time() -> None:
    assert bundle() == bundle()


def test_a_changed_bundle_is_refused_whatever_hash_it_claims(tmp_path: Path) -> None:
    content, digest = bundle()
    changed = content + b"x"
    assert refused(tmp_path, changed) == "bundle"
    assert refused(tmp_path, changed, claimed=digest) == "bundle"
    assert refused(tmp_path, bytes(MAX_BUNDLE_BYTES + 1)) == "size"


def test_an_approved_bundle_of_another_version_is_taken_and_then_ours_is_not(
    tmp_path: Path,
) -> None:
    other = b"another version's bundle"
    digest = hashlib.sha256(other).hexdigest()
    assert refused(tmp_path, other, digest) is None
    assert refused(tmp_path, bundle()[0], digest) == "bundle"


@pytest.mark.parametrize("task", [each.value for each in TaskType if each.value != CLIENT])
def test_every_other_kind_of_task_is_refused(task: str, tmp_path: Path) -> None:
    trusted = trusted_bundles(site(tmp_path))
    assert refusal(task, fab(bundle()[0]), trusted) == "task"


def asked() -> Message:
    told = Assignment(
        study_id="a" * 32, round=3, task="train", first_step=0, study=load_study("demo")
    )
    message = Message(to_records(told), dst_node_id=1, message_type="train")
    message.metadata.__dict__["_message_id"] = "1"
    return message


def context() -> Context:
    return Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})


def test_a_reply_comes_whole_from_the_child_to_who_sends_it() -> None:
    report = Report(study_id="a" * 32, round=3, task="train", site="a", outcome="ok", examples=1)
    replies = [
        Message(to_records(report, [b"x" * 9, b""]), reply_to=asked()),
        Message(Error(2, FAILED), reply_to=asked()),
    ]
    first, second = (_joined(_parts(each), asked()) for each in replies)
    sent = report.model_copy(update={"version": __version__})
    assert from_records(first.content, Report) == (sent, [b"x" * 9, b""])
    assert (second.error.code, second.error.reason) == (2, FAILED)
    assert second.metadata.reply_to_message_id == "1"


def test_the_supernode_hears_of_a_task_while_its_message_comes_and_its_answer_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives a task away as the message begins to come, and forgets one that is silent for 60 s.

    No thread may be there in between, where the work is forked.
    """
    told: list[str] = []

    @contextlib.contextmanager
    def heartbeat(_: object) -> Iterator[None]:
        told.append("hears")
        yield
        told.append("silent")

    def step(name: str, result: object = None) -> Callable[..., object]:
        def note(*_: object) -> object:
            told.append(name)
            return result

        return note

    comes = asked(), context(), None, fab(bundle()[0])
    steps = {
        "_heartbeat": heartbeat,
        "pull_task_input": step("message", comes),
        "push_message": step("answer"),
        "push_task_output": step("done"),
    }
    for name, replaced in steps.items():
        monkeypatch.setattr(executor_module, name, replaced)
    monkeypatch.setattr(Executor, "_recorded", step("work"))
    executor(tmp_path)._answer(TakenTask(CLIENT, "token"))
    assert told == ["hears", "message", "silent", "work", "hears", "answer", "silent", "done"]


def test_a_trainer_that_dies_each_time_is_reported_with_a_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(executor_module, "_heartbeat", lambda _: contextlib.nullcontext())
    dying = dataclasses.replace(executor(tmp_path), patience=Patience(pause_sec=0.01))
    monkeypatch.setattr(Executor, "_reply", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    reply = dying._work(None, asked(), context())  # type: ignore[arg-type]
    report, _ = from_records(reply.content, Report)
    assert (report.outcome, report.code, report.round) == ("failed", "internal", 3)
    assert report.reference is not None
    assert report.reference in caplog.text


def recorded(
    store: Path, message: Message, *, content: bytes | None = None, task: str = CLIENT
) -> Message:
    """Answer as the process does that holds a message."""
    received = fab(bundle()[0] if content is None else content)
    return executor(store)._recorded(None, task, received, message, context())  # type: ignore[arg-type]


def events(store: Path) -> list[dict[str, Any]]:
    return [line.event for line in lines(store / "audit")]


def works(monkeypatch: pytest.MonkeyPatch, reply: Callable[[Message], Message]) -> None:
    monkeypatch.setattr(Executor, "_work", lambda _self, _client, message, _: reply(message))


def must_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    works(monkeypatch, lambda _: pytest.fail("it was run"))


WEIGHTS = {
    name: torch.zeros(each.shape, dtype=each.dtype)
    for name, each in state_schema(load_study("demo").model).items()
}


def update(message: Message) -> Message:
    report = Report(study_id="a" * 32, round=3, task="train", site="a", outcome="ok", examples=7)
    return Message(to_records(report, pack(WEIGHTS)), reply_to=message)


def test_what_came_and_what_leaves_is_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    works(monkeypatch, update)
    reply = recorded(tmp_path, asked())
    report, buckets = from_records(reply.content, Report)
    assert report.outcome == "ok"
    began, task, study, assignment, decided, leaving = events(tmp_path)
    assert (began["owner"], began["name"]) == ("site", "a")
    assert (task["decision"], task["bundle_sha256"]) == ("run", bundle()[1])
    assert (study["study"], study["study_id"]) == ("demo", "a" * 32)
    assert (assignment["round"], assignment["weights_bytes"]) == (3, 0)
    assert decided["outcome"] == "trained"
    assert (leaving["message"], leaving["tensors"]) == ("update", len(WEIGHTS))
    assert leaving["weights_bytes"] == sum(map(len, buckets))
    assert leaving["weights_sha256"] == hashlib.sha256(b"".join(buckets)).hexdigest()
    layout = "".join(f"{name} F32 {list(each.shape)}\n" for name, each in sorted(WEIGHTS.items()))
    assert leaving["layout_sha256"] == hashlib.sha256(layout.encode()).hexdigest()
    assert not {"epsilon", "ledger_line"} & leaving.keys()  # of studies with DP-SGD alone
    assert {"site", "examples"} <= set(leaving["report_fields"])
    assert "train_loss" not in leaving["report_fields"]
    recorded(tmp_path, asked())
    assert [each["kind"] for each in events(tmp_path)].count("study-seen") == 1
    assert not verify(tmp_path / "audit").problems


@pytest.mark.parametrize(
    ("content", "task", "code"),
    [(b"planted", CLIENT, "bundle"), (None, TaskType.AGENT_APP.value, "task")],
)
def test_a_refused_task_gets_a_phrase_and_is_logged_and_not_run(
    content: bytes | None, task: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    must_not_work(monkeypatch)
    reply = recorded(tmp_path, asked(), content=content, task=task)
    assert reply.error.reason == REFUSALS[code]  # type: ignore[index]
    _, received, leaving = events(tmp_path)
    assert (received["decision"], received["code"]) == ("refused", code)
    assert leaving["message"] == "refusal"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Message(RecordDict(), dst_node_id=1, message_type="train"),
        lambda: Message(Error(1, "a text of the server's"), reply_to=asked()),
    ],
)
def test_a_message_that_is_no_assignment_is_refused_and_not_run(
    make: Callable[[], Message], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    must_not_work(monkeypatch)
    message = make()
    message.metadata.__dict__["_message_id"] = "1"
    assert recorded(tmp_path, message).error.reason == FAILED
    assert [each["kind"] for each in events(tmp_path)][-2:] == ["message-refused", "leaving"]


def test_without_an_audit_log_nothing_is_trained_or_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    must_not_work(monkeypatch)
    (tmp_path / "audit").write_text("a file in the folder's place")
    report, buckets = from_records(recorded(tmp_path, asked()).content, Report)
    assert (report.outcome, report.code, buckets) == ("failed", "storage", [])
    assert report.reference is not None and report.reference in caplog.text


def test_an_update_whose_leaving_cannot_be_logged_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    works(monkeypatch, update)

    def full(*_: object) -> None:
        raise StorageError("no space")

    monkeypatch.setattr(SiteAudit, "leaving", full)
    report, buckets = from_records(recorded(tmp_path, asked()).content, Report)
    assert (report.outcome, report.code, buckets) == ("failed", "storage", [])


def test_every_error_leaves_as_a_code_and_none_of_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A site's file that broke, decisions that cannot be read, an application that raises."""

    def broken(_: object) -> SiteConfig:
        raise ConfigError("/data/patient-4711 is wrong")

    no_file = dataclasses.replace(executor(tmp_path), site_of=broken)
    replies = [no_file._recorded(None, CLIENT, fab(bundle()[0]), asked(), context())]  # type: ignore[arg-type]
    (tmp_path / "trusted-bundles.json").write_text("patient-4711")
    replies.append(recorded(tmp_path, asked()))
    (tmp_path / "trusted-bundles.json").unlink()
    monkeypatch.setattr(executor_module, "_heartbeat", lambda _: contextlib.nullcontext())
    died = Death("internal", "patient-4711")
    monkeypatch.setattr(executor_module, "supervised", lambda *_, **__: died)
    replies.append(recorded(tmp_path, asked()))
    raising = Executor._reply(no_file, asked(), context(), lambda _: None, 0.0)
    replies.append(raising)
    texts = [each.error.reason if each.has_error() else str(each.content) for each in replies]
    assert not any("4711" in text for text in texts)
    assert (replies[0].error.reason, replies[3].error.reason) == (FAILED, FAILED)
    codes = [from_records(each.content, Report)[0].code for each in replies[1:3]]
    assert codes == ["config", "internal"]


_TWO_TASKS = """
import sys
from pathlib import Path
from feat_fed.config import SiteConfig, SiteDataConfig
from feat_fed.tasks import TakenTask
from feat_fed_client import executor
site = SiteConfig(name="a", data=SiteDataConfig(paths=(Path("clips"),)), store=Path(sys.argv[1]))
executor.taken_tasks = lambda *_: iter([TakenTask("x", "y")] * 2)
seen = []
def in_child(_):
    seen.append("opacus" in sys.modules)
    (site.store / "study.json").write_bytes(Path(sys.argv[2]).read_bytes())
    return ""
executor.in_child = in_child
executor.Executor("127.0.0.1:1", b"secret", lambda _: site).run()
print(seen)
"""


@pytest.mark.parametrize("private", [False, True])
def test_what_a_private_study_takes_is_imported_before_its_next_task(
    tmp_path: Path, private: bool
) -> None:
    """In the process that forks, after the first task has told of the study."""
    privacy = {"patient": {"noise_multiplier": 1.0, "sample_rate": 0.5}} if private else {}
    tree = load_study("demo").model_dump(mode="json") | {"strategy": {"weigh_by": "equal"}}
    study = StudyConfig.model_validate(tree | {"privacy": privacy})
    store, told = tmp_path / "store", tmp_path / "told"
    store.mkdir()
    assignment = Assignment(study_id="a" * 32, round=1, task="train", first_step=0, study=study)
    remember_study(told, assignment)
    command = [sys.executable, "-c", _TWO_TASKS, store, told / "study.json"]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == f"[False, {private}]"


def test_a_site_file_that_broke_does_not_end_the_executor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> SiteConfig:
        raise ConfigError("it is wrong")

    taken: list[str] = []
    monkeypatch.setattr(executor_module, "taken_tasks", lambda *_: iter([TakenTask("x", "y")] * 2))
    monkeypatch.setattr(executor_module, "in_child", lambda _: taken.append("task") or "")
    dataclasses.replace(executor(tmp_path), site_of=broken).run()
    assert len(taken) == 2


_LIKE_THE_EXECUTOR = """
import runpy, sys
import feat_fed_client.executor
from feat_fed.data.inventory.pool import Limits, Task, work_on
from loaded_modules import loaded
def main(arguments):
    task = Task("x", (arguments,), 0)
    print([each for _, each in work_on([task], loaded, workers=1, limits=Limits())])
feat_fed_client.executor.main = main
sys.argv[1:] = ["torch", "flwr", "feat_fed_client.executor", "feat_fed.data.inventory.pool"]
runpy.run_module("feat_fed_client", run_name="__main__", alter_sys=True)
"""


def test_processes_that_it_spawns_do_not_import_it_again(tmp_path: Path) -> None:
    (tmp_path / "loaded_modules.py").write_text(
        "import sys\ndef loaded(names):\n    return [each for each in names if each in sys.modules]"
    )
    told = subprocess.run(
        [sys.executable, "-c", _LIKE_THE_EXECUTOR],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert told.stdout.strip() == "[['feat_fed.data.inventory.pool']]"

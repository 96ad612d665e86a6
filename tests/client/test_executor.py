import contextlib
import dataclasses
import hashlib
import io
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from flwr.app import Context, Error, Message, RecordDict
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab

from feat_fed.bundle import bundle_files
from feat_fed.config import SiteConfig, SiteDataConfig, load_study
from feat_fed.protocol import Assignment, Report
from feat_fed.wire import bundle, from_records, to_records
from feat_fed_client import executor as executor_module
from feat_fed_client.executor import (
    FAILED,
    REFUSED_BUNDLE,
    REFUSED_TASK,
    Executor,
    _forked,
    _joined,
    _parts,
    trusted_bundles,
)
from feat_fed_client.supervision import Patience

CLIENT = TaskType.CLIENT_APP.value


def site(*hashes: str) -> SiteConfig:
    return SiteConfig(
        name="a",
        data=SiteDataConfig(paths=(Path("clips"),)),
        store=Path("store"),
        trusted_bundles=hashes,
    )


def executor(*hashes: str) -> Executor:
    return Executor(
        "127.0.0.1:1", b"secret", trusted_bundles(site(*hashes)), lambda _: site(*hashes)
    )


def fab(content: bytes, claimed: str | None = None) -> Fab:
    return Fab(claimed or hashlib.sha256(content).hexdigest(), content, {})


def test_our_own_bundle_is_trusted_and_holds_no_code() -> None:
    content, digest = bundle()
    assert executor().refusal(CLIENT, fab(content)) is None
    assert digest == hashlib.sha256(content).hexdigest()
    assert list(bundle_files()) == ["pyproject.toml"]
    assert not any(name.endswith(".py") for name in zipfile.ZipFile(io.BytesIO(content)).namelist())


def test_the_bundle_is_the_same_every_time() -> None:
    assert bundle() == bundle()


def test_a_changed_bundle_is_refused_whatever_hash_it_claims() -> None:
    content, digest = bundle()
    changed = content + b"x"
    assert executor().refusal(CLIENT, fab(changed)) == REFUSED_BUNDLE
    assert executor().refusal(CLIENT, fab(changed, claimed=digest)) == REFUSED_BUNDLE


def test_an_approved_bundle_of_another_version_is_taken_and_then_ours_is_not() -> None:
    other = b"another version's bundle"
    approved = executor(hashlib.sha256(other).hexdigest())
    assert approved.refusal(CLIENT, fab(other)) is None
    assert approved.refusal(CLIENT, fab(bundle()[0])) == REFUSED_BUNDLE


@pytest.mark.parametrize("task", [each.value for each in TaskType if each.value != CLIENT])
def test_every_other_kind_of_task_is_refused(task: str) -> None:
    assert executor().refusal(task, fab(bundle()[0])) == REFUSED_TASK


def test_how_a_child_ended_is_told() -> None:
    def fail() -> None:
        raise ValueError("its text stays in the log")

    assert _forked(lambda: None) == ""
    assert _forked(fail) == "exit status 1"
    assert _forked(lambda: os.kill(os.getpid(), signal.SIGKILL)) == "signal 9"


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
    assert from_records(first.content, Report) == (report, [b"x" * 9, b""])
    assert (second.error.code, second.error.reason) == (2, FAILED)
    assert second.metadata.reply_to_message_id == "1"


def test_a_trainer_that_dies_each_time_is_reported_with_a_code(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(executor_module, "_heartbeat", lambda _: contextlib.nullcontext())
    dying = dataclasses.replace(executor(), patience=Patience(pause_sec=0.01))
    monkeypatch.setattr(Executor, "_reply", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    reply = dying._work(None, asked(), context())  # type: ignore[arg-type]
    report, _ = from_records(reply.content, Report)
    assert (report.outcome, report.code, report.round) == ("failed", "internal", 3)
    assert report.reference is not None
    assert report.reference in caplog.text


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

"""What leaves a site when something goes wrong there: a code, never a text."""

import datetime as dt
import errno
import itertools
import logging
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from feat_fed.config import LimitsConfig, SiteConfig, SiteDataConfig, StudyConfig
from feat_fed.errors import (
    CheckpointError,
    ClipError,
    ConfigError,
    DataError,
    FeatFedError,
    ProtocolError,
    StorageError,
    TrainingError,
)
from feat_fed.federate import pack
from feat_fed.model import FEAT
from feat_fed.protocol import FAILURES, Assignment, Report, Verdict
from feat_fed.wire import from_records, to_records
from feat_fed_client import app as app_module
from feat_fed_client import known_study
from feat_fed_client.app import failure_code, make_app
from feat_fed_client.history import note_report, past_rounds
from feat_fed_client.known_study import recall_study

MESSAGE_IDS = itertools.count()

SECRET = "MUELLER^ANNA born 1950 in /data/ward-7"

STUDY = StudyConfig.model_validate(
    {
        "name": "tiny",
        "model": {"in_channels": 6, "hidden_size": 16, "num_trios": 1, "num_heads": 2},
        "clips": {"frames": 2, "size_px": 16},
    }
)


@pytest.fixture
def site(tmp_path: Path) -> SiteConfig:
    data = SiteDataConfig(paths=(tmp_path / SECRET.replace("/", "_"),))
    return SiteConfig(name="hospital-a", data=data, store=tmp_path / "store")


def ask(site: SiteConfig, content: RecordDict) -> Message:
    app: ClientApp = make_app(lambda _: site)
    message = Message(content, dst_node_id=1, message_type="train")
    message.metadata.__dict__["_message_id"] = str(next(MESSAGE_IDS))
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    return app(message, context)


def assignment(**more: Any) -> RecordDict:
    told = Assignment(study_id="a" * 32, round=3, task="train", first_step=0, study=STUDY, **more)
    return to_records(told, pack(FEAT(STUDY.model).state_dict()))


@pytest.mark.parametrize("error", [DataError(SECRET), RuntimeError(SECRET), KeyError(SECRET)])
def test_an_error_leaves_as_a_code_and_its_text_stays_in_the_log(
    error: Exception,
    site: SiteConfig,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(app_module.SiteSession, "run", fail)
    caplog.set_level(logging.ERROR)
    reply = ask(site, assignment())
    report, buckets = from_records(reply.content, Report)
    assert (report.outcome, report.round, report.site) == ("failed", 3, "hospital-a")
    assert report.code == ("data" if isinstance(error, DataError) else "internal")
    assert not buckets
    assert SECRET not in str(reply.content)
    assert report.reference is not None
    assert report.reference in caplog.text
    assert SECRET in caplog.text


def test_a_round_that_the_sites_hours_forbid_is_declined_and_says_none_of_them(
    site: SiteConfig, caplog: pytest.LogCaptureFixture
) -> None:
    now = dt.datetime.now()
    begin, end = now + dt.timedelta(hours=1), now + dt.timedelta(hours=2)
    hours = f"{begin:%H:%M}-{end:%H:%M}"
    limits = LimitsConfig.model_validate({"hours": [hours], "gb_per_round": 1})
    caplog.set_level(logging.INFO)
    reply = ask(site.model_copy(update={"limits": limits}), assignment())
    report, buckets = from_records(reply.content, Report)
    assert (report.outcome, report.code, report.reference) == ("declined", "hours", None)
    assert not buckets
    assert hours in caplog.text and hours not in str(reply.content)
    assert [each.report for each in past_rounds(site.store)] == [report]


def test_a_paused_site_declines_without_an_error(
    site: SiteConfig, caplog: pytest.LogCaptureFixture
) -> None:
    site.store.mkdir()
    (site.store / "paused").touch()
    report, _ = from_records(ask(site, assignment()).content, Report)
    assert (report.outcome, report.code, report.steps) == ("declined", "paused", 0)
    assert "Traceback" not in caplog.text


def test_a_round_of_too_many_bytes_is_declined(site: SiteConfig) -> None:
    small = site.model_copy(update={"limits": LimitsConfig(gb_per_round=1e-9)})
    report, _ = from_records(ask(small, assignment()).content, Report)
    assert (report.outcome, report.code) == ("declined", "traffic")


def test_a_site_that_declines_is_asked_only_as_often_as_its_traffic_allows(
    site: SiteConfig,
) -> None:
    site.store.mkdir()
    (site.store / "paused").touch()
    size = sum(map(len, pack(FEAT(STUDY.model).state_dict())))
    small = site.model_copy(update={"limits": LimitsConfig(gb_per_round=3 * size / 1e9)})
    codes = [from_records(ask(small, assignment()).content, Report)[0].code for _ in range(4)]
    assert codes == ["paused", "paused", "traffic", "traffic"]


def test_an_update_counts_whenever_it_is_sent(
    site: SiteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = dict(FEAT(STUDY.model).state_dict())
    done = Report(
        study_id="a" * 32, round=3, task="train", site=site.name, outcome="ok", examples=1, steps=1
    )
    monkeypatch.setattr(app_module.SiteSession, "run", lambda *_: (done, weights))
    size = sum(map(len, pack(FEAT(STUDY.model).state_dict())))
    small = site.model_copy(update={"limits": LimitsConfig(gb_per_round=4.5 * size / 1e9)})
    codes = [from_records(ask(small, assignment()).content, Report)[0].code for _ in range(3)]
    assert codes == [None, None, "traffic"]


def test_training_may_last_as_long_as_the_server_waits_less_a_part_for_sending(
    site: SiteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    until: list[float] = []

    class Session:
        def __init__(self, *_: object, train_until: float, **__: object) -> None:
            until.append(train_until)
            raise DataError("enough")

    monkeypatch.setattr(app_module, "SiteSession", Session)
    for ttl_sec in (1e6, 100.0):
        message = Message(assignment(), dst_node_id=1, message_type="train", ttl=ttl_sec)
        app_module.answer(message, site, arrived_at=1000.0)
    assert until == pytest.approx([1000 + 0.9 * STUDY.sites.round_sec, 1090])


def test_training_ends_before_an_answer_would_be_late(
    site: SiteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    until: list[float] = []

    class Session:
        def __init__(self, *_: object, train_until: float, **__: object) -> None:
            until.append(train_until)
            raise DataError("enough")

    monkeypatch.setattr(app_module, "SiteSession", Session)
    content = assignment(answer_within_sec=200.0)
    message = Message(content, dst_node_id=1, message_type="train", ttl=1e6)
    app_module.answer(message, site, arrived_at=1000.0)
    assert until == pytest.approx([1180])


def test_what_the_server_said_of_the_last_update_is_kept_and_logged_once(
    site: SiteConfig, caplog: pytest.LogCaptureFixture
) -> None:
    report = Report(study_id="a" * 32, round=2, task="train", site="h", outcome="ok", examples=1)
    site.store.mkdir(exist_ok=True)
    note_report(site.store, report)
    verdict = Verdict(round=2, outcome="refused", code="norm", in_a_row=2)
    for _ in range(2):
        ask(site, assignment(verdict=verdict))
    assert past_rounds(site.store)[0].verdict == verdict
    told = [each.message for each in caplog.records if "refused it" in each.message]
    assert told == [
        "round 2: the server refused it: the update was far larger than the others' (refusal 2 of "
        "3 in a row, after which the server asks this site no more)"
    ]


def test_a_missing_data_folder_is_a_failure_of_data(site: SiteConfig) -> None:
    reply = ask(site, assignment())
    assert from_records(reply.content, Report)[0].code == "data"
    assert "MUELLER" not in str(reply.content)


def test_weights_of_another_model_are_not_accepted(site: SiteConfig) -> None:
    content = assignment()
    del content["arrays"]
    assert from_records(ask(site, content).content, Report)[0].code == "protocol"


@pytest.mark.parametrize("text", ["", "{}", '{"protocol": 9}'])
def test_a_message_that_is_no_assignment_is_told_so_by_a_fixed_phrase(
    text: str, site: SiteConfig
) -> None:
    content = RecordDict({"config": ConfigRecord({"feat-fed": text})})
    with pytest.raises(app_module.Unreadable, match=FAILURES["protocol"]):
        ask(site, content)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), "config"),
        (DataError("x"), "data"),
        (ClipError("x"), "data"),
        (CheckpointError("x"), "checkpoint"),
        (TrainingError("x"), "training"),
        (ProtocolError("x"), "protocol"),
        (FeatFedError("x"), "internal"),
        (MemoryError("x"), "memory"),
        (StorageError("x"), "storage"),
        (OSError(errno.ENOSPC, "x"), "storage"),
        (OSError(errno.EROFS, "x"), "storage"),
        (FileNotFoundError(errno.ENOENT, "x"), "internal"),
    ],
)
def test_codes(error: Exception, code: str) -> None:
    assert failure_code(error) == code


def test_a_full_disk_is_one_whatever_was_to_be_written(tmp_path: Path) -> None:
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise DataError("a latent cannot be written") from error
    except DataError as error:
        assert failure_code(error) == "storage"
    database = sqlite3.connect(tmp_path / "manifest.sqlite")
    database.execute("PRAGMA max_page_count = 1")
    with pytest.raises(sqlite3.OperationalError) as full:
        database.executescript("CREATE TABLE a (x); CREATE TABLE b (x);")
    assert failure_code(full.value) == "storage"


def test_the_servers_study_is_kept_for_check_and_no_full_disk_fails_a_round(
    site: SiteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(site, assignment())
    known = recall_study(site.store)
    assert known is not None
    assert (known.study.model, known.versions) == (STUDY.model, None)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(known_study, "write_bytes_atomically", full)
    report, _ = from_records(ask(site, assignment()).content, Report)
    assert report.code == "data"  # of the missing folder, as without the full disk

import json

import pytest
from pydantic import ValidationError

from feat_fed.config import load_study
from feat_fed.errors import ProtocolError
from feat_fed.protocol import MAX_HEADER_BYTES, Assignment, Report, Versions, parse_header

REPORT = Report(
    study_id="0" * 32, round=2, task="train", site="a", outcome="ok", examples=5, steps=3
)


def changed(**fields: object) -> str:
    return json.dumps({**json.loads(REPORT.model_dump_json()), **fields})


def test_headers_survive_the_wire() -> None:
    assignment = Assignment(
        study_id="f" * 32, round=1, task="train", first_step=0, study=load_study("demo")
    )
    assert parse_header(Assignment, assignment.model_dump_json()) == assignment
    assert parse_header(Report, REPORT.model_dump_json()) == REPORT


@pytest.mark.parametrize(
    "fields",
    [
        {"protocol": 2},
        {"round": 0},
        {"round": "1e9"},
        {"study_id": "../../etc"},
        {"site": "Mr Smith"},
        {"examples": -1},
        {"examples": 10**12},
        {"examples": 0},
        {"train_loss": "NaN"},
        {"note": "patient 4711"},
        {"reference": "Patient 4711"},
        {"outcome": "failed"},
        {"outcome": "failed", "code": "patient 4711"},
        {"code": "data"},
    ],
)
def test_a_header_that_breaks_the_schema_is_refused_without_quoting_it(
    fields: dict[str, object],
) -> None:
    with pytest.raises(ProtocolError) as told:
        parse_header(Report, changed(**fields))
    assert not any(str(value) in str(told.value) for value in fields.values() if value != 2)


@pytest.mark.parametrize("text", ["", "[]", "null", "{" * 10_000, '{"train_loss": NaN}'])
def test_what_is_no_header_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError, match="no Report"):
        parse_header(Report, text)


def test_a_long_header_is_refused_unread() -> None:
    with pytest.raises(ProtocolError, match="at most"):
        parse_header(Report, " " * (MAX_HEADER_BYTES + 1))


def test_versions_are_versions_and_nothing_else() -> None:
    assert Versions.installed().feat_fed
    for text in ("1.0; rm -rf", "a" * 33, "", "1.0\n", "/etc"):
        with pytest.raises(ValidationError):
            Versions(feat_fed=text, python="3.11")


def test_a_version_that_is_no_plain_one_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"feat-fed": "0.1", "python": "3.11", "torch": "2.13 (of ours)"}
    monkeypatch.setattr("feat_fed.protocol.installed_versions", lambda: found)
    assert Versions.installed() == Versions(feat_fed="0.1", python="3.11", torch=None)

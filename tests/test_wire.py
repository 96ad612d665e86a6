"""What a message carries is measured once, and told as both ends' audit logs tell it."""

from __future__ import annotations

import hashlib

import pytest
from flwr.app import ArrayRecord, RecordDict

from feat_fed import wire
from feat_fed.config.base import StrictModel
from feat_fed.errors import ProtocolError
from feat_fed.wire import (
    Carried,
    carried,
    digest_of_buckets,
    from_records,
    to_records,
    weights_record,
)


class WeightsHeader(StrictModel):
    bytes: int


def test_what_is_carried_is_all_buckets_one_after_the_other() -> None:
    buckets = [b"one", b"two"]
    told = carried(RecordDict({"arrays": weights_record(buckets)}))
    assert told == Carried(6, hashlib.sha256(b"onetwo").hexdigest())
    assert told.sha256 == digest_of_buckets(buckets)


def test_records_of_any_name_count() -> None:
    content = RecordDict({"a": weights_record([b"one"]), "other": weights_record([b"two"])})
    assert carried(content) == Carried(6, digest_of_buckets([b"one", b"two"]))


def test_nothing_has_no_digest() -> None:
    assert carried(RecordDict({"arrays": ArrayRecord()})) == Carried(0, None)


def test_a_message_has_no_records_of_other_names() -> None:
    content = to_records(WeightsHeader(bytes=3), [b"one"])
    assert from_records(content, WeightsHeader) == (WeightsHeader(bytes=3), [b"one"])
    content["more"] = weights_record([b"two"])
    with pytest.raises(ProtocolError, match="records beside its header"):
        from_records(content, WeightsHeader)


def test_it_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    content = RecordDict({"arrays": weights_record([b"one"])})
    first = carried(content)
    monkeypatch.setattr(wire, "digest_of_buckets", None)
    assert carried(content) is first

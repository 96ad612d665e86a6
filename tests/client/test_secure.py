"""A site's part in secure aggregation, asked by a server that may be hostile."""

import base64
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from feat_fed.config import SiteConfig
from feat_fed.config.privacy import PrivacyConfig, SitePrivacyConfig
from feat_fed.federate import digest_of, pack
from feat_fed.joining import fingerprint, read_public_key
from feat_fed.model import FEAT
from feat_fed.protocol import Assignment, Report, Task, enclose, opened
from feat_fed.secagg import (
    KeyOffer,
    Roster,
    ServerSecAgg,
    Session,
    ShareOffer,
    Shares,
    UnmaskRequest,
)
from feat_fed.wire import from_records, message_type, to_records
from feat_fed_client.app import answer, let_out
from feat_fed_client.keys import make_site_key
from feat_fed_client.round_files import tidy
from masking_hospitals import Hospitals, secure_study

STUDY_ID = "a" * 32
STUDY = secure_study()
WEIGHTS = {name: each.detach() for name, each in FEAT(STUDY.model).state_dict().items()}


@pytest.fixture
def hospitals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hospitals:
    return Hospitals(tmp_path, monkeypatch, {"a": 0.5, "b": 0.25, "c": 0.125, "d": 1.0})


class Server:
    """Asks the sites stage by stage; it keeps to the protocol unless it is told otherwise."""

    def __init__(self, hospitals: Hospitals, attempt: int = 1) -> None:
        self.hospitals = hospitals
        self.attempt = attempt
        session = Session(study_id=STUDY_ID, round=1, attempt=attempt)
        config = STUDY.privacy.secure_aggregation
        assert config is not None
        self.core = ServerSecAgg.begin(session, config)

    def told(self, task: Task, **more: Any) -> Assignment:
        fields: dict[str, Any] = {"study_id": STUDY_ID, "round": 1, "task": task, "first_step": 0}
        fields |= {"study": STUDY, "attempt": self.attempt}
        return Assignment.model_validate(fields | more)

    def ask(self, site: str, task: Task, **more: Any) -> tuple[Report, list[bytes]]:
        told = self.told(task, **more)
        weights = pack(WEIGHTS) if task == "train" else ()
        message = Message(to_records(told, weights), dst_node_id=1, message_type=message_type(task))
        config = self.hospitals.sites[site]
        reply, _ = let_out(lambda: answer(message, config), message, config)
        return from_records(reply.content, Report)

    def keys(self) -> Roster:
        for site in self.hospitals.sites:
            report, _ = self.ask(site, "keys")
            offer = opened(report.enclosed, KeyOffer)
            self.core.take_keys(offer, sender=site, identity=self.hospitals.public[site])
        return self.core.roster()

    def shares(self) -> None:
        told = enclose(self.keys())
        for site in self.hospitals.sites:
            report, _ = self.ask(site, "shares", enclosed=told)
            self.core.take_shares(opened(report.enclosed, ShareOffer), sender=site)

    def train(self, site: str) -> tuple[Report, list[bytes]]:
        told = enclose(self.core.deal()[site])
        return self.ask(site, "train", enclosed=told, weights=digest_of(WEIGHTS))


def unmask_of(*sites: str, attempt: int = 1) -> str:
    session = Session(study_id=STUDY_ID, round=1, attempt=attempt)
    return enclose(UnmaskRequest(session=session, survivors=sites))


def test_a_server_that_asks_for_a_plain_update_gets_none(hospitals: Hospitals) -> None:
    report, buckets = Server(hospitals).ask("a", "train", attempt=None)
    assert (report.outcome, report.code, buckets) == ("failed", "agreement", [])
    assert not hospitals.trained


def test_each_stage_is_answered_again_with_the_same(hospitals: Hospitals) -> None:
    server = Server(hospitals)
    server.shares()
    roster = enclose(server.core.roster())
    for task, told in (("keys", {}), ("shares", {"enclosed": roster})):
        one, other = (server.ask("a", task, **told)[0].enclosed for _ in range(2))  # type: ignore[arg-type]
        assert one == other
    (_, first), (_, second) = server.train("a"), server.train("a")
    assert first == second
    assert hospitals.trained == [("a", 1)]


def test_fewer_updates_than_the_study_needs_are_not_unmasked(hospitals: Hospitals) -> None:
    server = Server(hospitals)
    server.shares()
    server.train("a")
    report, _ = server.ask("a", "unmask", enclosed=unmask_of("a", "b"))
    assert (report.outcome, report.code) == ("failed", "agreement")
    report, _ = server.ask("a", "unmask", enclosed=unmask_of("a", "b", "c"))
    assert opened(report.enclosed, Shares).seeds.keys() == {*"abc"}


def test_a_round_is_not_unmasked_twice_though_its_secrets_were_tidied_away(
    hospitals: Hospitals,
) -> None:
    server = Server(hospitals)
    server.shares()
    server.train("a")
    assert server.ask("a", "unmask", enclosed=unmask_of("a", "b", "c"))[0].outcome == "ok"
    store = hospitals.sites["a"].store
    for other in "bcd":  # a server may name as many studies as it likes
        told = server.told("keys", study_id=other * 32)
        message = Message(to_records(told), dst_node_id=1, message_type=message_type("keys"))
        answer(message, hospitals.sites["a"])
    tidy(store, study_id="e" * 32)
    assert not (store / "secagg" / STUDY_ID / "state.json").exists()
    for attempt in (1, 2):
        report, _ = Server(hospitals, attempt).ask("a", "keys")
        assert (report.outcome, report.code) == ("failed", "agreement")


def test_a_study_that_had_masks_gets_no_update_without(hospitals: Hospitals) -> None:
    server = Server(hospitals)
    server.shares()
    server.train("a")
    plain = STUDY.model_copy(update={"privacy": PrivacyConfig()})
    told = {"attempt": None, "study": plain, "weights": digest_of(WEIGHTS)}
    report, buckets = server.ask("a", "train", **told)
    assert (report.outcome, report.code, buckets) == ("failed", "agreement", [])


def test_another_attempt_is_masked_anew_and_not_trained_again(hospitals: Hospitals) -> None:
    sent = []
    for attempt in (1, 2):
        server = Server(hospitals, attempt)
        server.shares()
        sent.append(server.train("a")[1])
    assert sent[0] != sent[1]
    assert hospitals.trained == [("a", 1)]


def test_a_site_that_comes_with_another_key_is_not_believed(
    hospitals: Hospitals, caplog: pytest.LogCaptureFixture
) -> None:
    Server(hospitals).shares()
    store = hospitals.sites["b"].store
    for name in ("virtual-site.key", "virtual-site.pub"):
        (store / name).unlink()
    public = make_site_key(store / "virtual-site.key").read_text().strip()
    hospitals.public["b"] = public
    roster = (server := Server(hospitals, attempt=2)).keys()
    caplog.set_level(logging.ERROR)
    report, _ = server.ask("a", "shares", enclosed=enclose(roster))
    assert (report.outcome, report.code) == ("failed", "agreement")
    assert "b comes with a key of fingerprint" in caplog.text
    told = SitePrivacyConfig(peers={"b": fingerprint(read_public_key(public.encode()))})
    hospitals.sites["a"] = hospitals.sites["a"].model_copy(update={"privacy": told})
    report, _ = server.ask("a", "shares", enclosed=enclose(roster))
    assert report.outcome == "ok"


def test_a_damaged_list_of_peers_is_not_begun_anew_without_a_word(
    hospitals: Hospitals, caplog: pytest.LogCaptureFixture
) -> None:
    (server := Server(hospitals)).shares()
    peers = hospitals.sites["a"].store / "peers.json"
    peers.write_bytes(peers.read_bytes()[:-5])
    caplog.set_level(logging.ERROR)
    report, _ = server.ask("a", "shares", enclosed=enclose(server.core.roster()))
    assert report.outcome == "failed"
    assert "put it back from a backup" in caplog.text


def test_a_paused_site_offers_keys_for_what_it_has_trained_alone(hospitals: Hospitals) -> None:
    server = Server(hospitals)
    server.shares()
    server.train("a")
    for site in "ab":
        (hospitals.sites[site].store / "paused").touch()
    again = Server(hospitals, attempt=2)
    assert again.ask("a", "keys")[0].outcome == "ok"
    report, _ = again.ask("b", "keys")
    assert (report.outcome, report.code) == ("declined", "paused")


def test_a_site_that_demands_more_of_a_study_offers_no_keys(hospitals: Hospitals) -> None:
    demands = SitePrivacyConfig(require=("patient",))
    hospitals.sites["a"] = hospitals.sites["a"].model_copy(update={"privacy": demands})
    report, _ = Server(hospitals).ask("a", "keys")
    assert (report.outcome, report.code) == ("declined", "protection")


@pytest.mark.parametrize("enclosed", [None, "AAAA", enclose(STUDY)])
def test_what_is_no_message_of_the_stage_is_refused(
    enclosed: str | None, hospitals: Hospitals
) -> None:
    server = Server(hospitals)
    server.keys()
    report, _ = server.ask("a", "shares", enclosed=enclosed)
    assert (report.outcome, report.code) == ("failed", "protocol")


def test_the_last_door_lets_nothing_but_the_stages_message_and_masked_updates_out(
    hospitals: Hospitals,
) -> None:
    server = Server(hospitals)
    site = hospitals.sites["a"]
    told = server.told("keys")
    offer, _ = server.ask("a", "keys")
    text = base64.b64encode(b'{"patient": "ANNA MUELLER"}').decode()
    for enclosed in (text, enclose(Roster.model_construct())):
        passed = with_report(site, told, offer.model_copy(update={"enclosed": enclosed}))
        assert (passed.outcome, passed.code, passed.enclosed) == ("failed", "internal", None)
    trained = offer.model_copy(
        update={"task": "train", "examples": 1, "steps": 1, "enclosed": None}
    )
    assert with_report(site, server.told("train"), trained, pack(WEIGHTS)).outcome == "failed"


def with_report(
    site: SiteConfig, told: Assignment, report: Report, buckets: Sequence[bytes] = ()
) -> Report:
    """What is left of a reply of the trainer's, whatever that is, on the other side."""
    message = Message(to_records(told), dst_node_id=1, message_type=message_type(told.task))
    content = to_records(report, buckets)
    reply, _ = let_out(lambda: Message(content, reply_to=message), message, site)
    return from_records(reply.content, Report)[0]

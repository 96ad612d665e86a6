"""From a token to an admitted key, and every way in which that is refused."""

import datetime as dt
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from feat_fed.errors import ConfigError, ProtocolError
from feat_fed.joining import JoinRequest, Token, fingerprint
from feat_fed.protocol import (
    BAD_REQUEST,
    EXPIRED_TOKEN,
    PENDING_KEY,
    REVOKED_KEY,
    UNKNOWN_KEY,
    UNKNOWN_TOKEN,
    USED_TOKEN,
)
from feat_fed_server.admissions import Admissions, JoinRefusedError, read_site_key
from feat_fed_server.certificates import TlsFiles, make_ca
from feat_fed_server.join_desk import JoinDesk


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = TlsFiles(tmp_path_factory.mktemp("tls"))
    make_ca(files)
    return files.ca_certificate


@pytest.fixture
def admissions(tmp_path: Path) -> Admissions:
    return Admissions(tmp_path)


def invite(admissions: Admissions, ca: Path, site: str = "a", days: float = 1) -> Token:
    path = admissions.invite(site, address="127.0.0.1:1", ca_certificate=ca, days=days)
    assert path.stat().st_mode & 0o077 == 0
    return Token.parse(path.read_text())


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def sent(request: JoinRequest) -> bytes:
    return request.model_dump_json().encode()


def code(admissions: Admissions, content: bytes) -> int:
    with pytest.raises(JoinRefusedError) as refusal:
        admissions.receive(content)
    return refusal.value.code


def pem(request: JoinRequest, tmp_path: Path) -> bytes:
    (tmp_path / "x.pub").write_text(request.public_key)
    return read_site_key(tmp_path / "x.pub")[0]


def test_a_request_waits_until_it_is_approved(
    admissions: Admissions, ca: Path, tmp_path: Path
) -> None:
    token, key = invite(admissions, ca), new_key()
    request = JoinRequest.make(token, key)
    assert admissions.receive(sent(request)) == (request, "pending")
    assert admissions.receive(sent(request)) == (request, "pending")  # the answer was lost
    assert admissions.members(["a", "b"]) == {}
    assert JoinDesk(admissions).code_of(pem(request, tmp_path)) == PENDING_KEY
    waiting = admissions.pending("a")
    assert waiting is not None and waiting.fingerprint == fingerprint(key.public_key())
    admissions.approve(waiting, replace=False)
    assert admissions.members(["a", "b"]) == {pem(request, tmp_path): "a"}
    assert admissions.receive(sent(request)) == (request, "admitted")
    assert admissions.pending("a") is None
    assert not admissions.token_file("a").exists()


def test_one_key_does_not_serve_two_hospitals(admissions: Admissions, ca: Path) -> None:
    key = new_key()
    first, second = (JoinRequest.make(invite(admissions, ca, site), key) for site in ("a", "b"))
    admissions.approve(first, replace=False)
    with pytest.raises(ConfigError, match="b asks with the key of a"):
        admissions.approve(second, replace=False)
    assert list(admissions.members(["a", "b"]).values()) == ["a"]


def test_nothing_at_the_server_lets_anybody_join(admissions: Admissions, ca: Path) -> None:
    token = invite(admissions, ca)
    kept = b"".join(each.read_bytes() for each in admissions.keys.rglob("*") if each.is_file())
    assert token.id.encode() in kept
    assert token.seed.encode() not in kept


def test_a_token_serves_one_key(admissions: Admissions, ca: Path) -> None:
    token = invite(admissions, ca)
    admissions.receive(sent(JoinRequest.make(token, new_key())))
    assert code(admissions, sent(JoinRequest.make(token, new_key()))) == USED_TOKEN


def test_a_token_expires(admissions: Admissions, ca: Path) -> None:
    late = invite(admissions, ca, days=-0.01)
    assert code(admissions, sent(JoinRequest.make(late, new_key()))) == EXPIRED_TOKEN


def test_a_request_that_came_in_time_may_come_again(admissions: Admissions, ca: Path) -> None:
    token = invite(admissions, ca)
    request = sent(JoinRequest.make(token, new_key()))
    admissions.receive(request)
    file = admissions.keys / "invited" / "a.json"
    yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    kept = admissions.invitation("a")
    assert kept is not None
    file.write_text(kept.model_copy(update={"expires_at": yesterday}).model_dump_json())
    assert admissions.receive(request)[1] == "pending"


def test_another_servers_token_an_older_one_and_another_sites_are_unknown(
    admissions: Admissions, ca: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    foreign = invite(Admissions(tmp_path / "other"), ca)
    older = invite(admissions, ca)
    newer = invite(admissions, ca)
    of_b = newer.model_copy(update={"site": "b"})
    for token in (foreign, older, of_b):
        assert code(admissions, sent(JoinRequest.make(token, new_key()))) == UNKNOWN_TOKEN
    assert list(admissions.keys.glob("pending/*")) == []


def tampered(request: JoinRequest, token: Token) -> list[dict[str, Any]]:
    other = JoinRequest.make(token, new_key())
    wrong_secret = JoinRequest.make(token.model_copy(update={"seed": "0" * 64}), new_key())
    whole = request.model_dump()
    return [
        whole | {"public_key": other.public_key},
        whole | {"key_signature": other.key_signature},
        whole | {"token_signature": wrong_secret.token_signature},
        whole | {"public_key": other.public_key, "key_signature": other.key_signature},
        whole | {"site": "b"},
        whole | {"site": "../../etc/passwd"},
        whole | {"version": 2},
        whole | {"extra": 1},
        whole | {"public_key": request.public_key + " comment"},
        whole | {"public_key": "ecdsa-sha2-nistp384 " + "A" * 200},
        whole | {"token_id": "0" * 64},
        whole | {"key_signature": "===="},
    ]


def test_a_request_that_was_touched_is_refused(admissions: Admissions, ca: Path) -> None:
    import json

    token = invite(admissions, ca)
    request = JoinRequest.make(token, new_key())
    for tree in tampered(request, token):
        assert code(admissions, json.dumps(tree).encode()) == BAD_REQUEST
    for content in (b"", b"[]", b"\xff", b"x" * 5000, sent(request)[:-1]):
        assert code(admissions, content) == BAD_REQUEST
    assert admissions.receive(sent(request))[1] == "pending"


def test_a_site_that_has_a_key_gets_another_on_demand_alone(
    admissions: Admissions, ca: Path, tmp_path: Path
) -> None:
    first = JoinRequest.make(invite(admissions, ca), new_key())
    admissions.receive(sent(first))
    admissions.approve(first, replace=False)
    token = invite(admissions, ca)
    assert token.replaces == first.fingerprint
    second = JoinRequest.make(token, new_key())
    assert admissions.receive(sent(second))[1] == "pending"
    with pytest.raises(ConfigError, match="--replace"):
        admissions.approve(second, replace=False)
    assert admissions.members(["a"]) == {pem(first, tmp_path): "a"}
    admissions.approve(second, replace=True)
    assert admissions.members(["a"]) == {pem(second, tmp_path): "a"}
    [gone] = admissions.revoked()
    assert (gone.public_key, gone.why) == (first.public_key, "replaced")
    desk = JoinDesk(admissions)
    assert desk.code_of(pem(first, tmp_path)) == REVOKED_KEY
    assert desk.code_of(b"stranger") == UNKNOWN_KEY


def test_a_revoked_key_never_comes_back(admissions: Admissions, ca: Path) -> None:
    key = new_key()
    request = JoinRequest.make(invite(admissions, ca), key)
    admissions.receive(sent(request))
    admissions.approve(request, replace=False)
    assert admissions.revoke("a")
    assert admissions.members(["a"]) == {}
    assert code(admissions, sent(request)) == UNKNOWN_TOKEN
    again = JoinRequest.make(invite(admissions, ca), key)
    assert code(admissions, sent(again)) == REVOKED_KEY
    with pytest.raises(ConfigError, match="revoked"):
        admissions.approve(again, replace=True)
    admissions.key_file("a").write_text(request.public_key)
    with pytest.raises(ConfigError, match="revoked"):
        admissions.members(["a"])


def test_a_token_after_a_revocation_asks_for_another_key(admissions: Admissions, ca: Path) -> None:
    request = JoinRequest.make(invite(admissions, ca), new_key())
    admissions.receive(sent(request))
    admissions.approve(request, replace=False)
    admissions.revoke("a")
    token = invite(admissions, ca)
    assert token.replaces == request.fingerprint
    back = JoinRequest.make(token, new_key())
    assert admissions.receive(sent(back)) == (back, "pending")
    admissions.approve(back, replace=False)
    assert list(admissions.members(["a"]).values()) == ["a"]


def test_revoking_a_request_frees_nothing_but_a_new_token(admissions: Admissions, ca: Path) -> None:
    request = JoinRequest.make(invite(admissions, ca), new_key())
    admissions.receive(sent(request))
    assert not admissions.revoke("a")
    assert admissions.pending("a") is None
    assert code(admissions, sent(request)) == UNKNOWN_TOKEN


def test_a_token_survives_a_mail_and_a_part_of_it_is_told(ca: Path, admissions: Admissions) -> None:
    token = invite(admissions, ca)
    line = token.line()
    assert "\n" not in line
    wrapped = "\n".join(line[first : first + 76] for first in range(0, len(line), 76))
    assert Token.parse(f"  {wrapped}\r\n") == token
    touched = line[:60] + ("B" if line[60] != "B" else "C") + line[61:]
    for broken in (
        line[:-1],
        line[: len(line) // 2],
        touched,
        line + ".x",
        f"{line[:60]}—{line[60:]}",
    ):
        with pytest.raises(ConfigError, match="not whole"):
            Token.parse(broken)
    with pytest.raises(ConfigError, match="no join token"):
        Token.parse("hello")


@given(st.text() | st.binary().map(lambda it: f"feat-fed-join-1.{it!r}.x"))
def test_no_text_breaks_the_reading_of_a_token(text: str) -> None:
    with pytest.raises(ConfigError):
        Token.parse(text)


@given(st.binary())
def test_no_bytes_break_the_reading_of_a_request(content: bytes) -> None:
    with pytest.raises(ProtocolError):
        JoinRequest.parse(content)

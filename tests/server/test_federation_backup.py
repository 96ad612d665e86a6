"""A federation that comes back from a backup is the same server to the same hospitals."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from feat_fed.archive import read_contents
from feat_fed.cli.main import run_app
from feat_fed.joining import JoinRequest, Token
from feat_fed_server.admissions import Admissions
from feat_fed_server.certificates import TlsFiles


@pytest.fixture
def federation(tmp_path: Path) -> Path:
    """The file of one with an admitted hospital, a revoked one, one that asks, and one to come."""
    file = tmp_path / "here" / "federation.yaml"
    file.parent.mkdir()
    file.write_text("address: coordinator.example.org:9443\nsites: [a, b, c, d]\n")
    (file.parent / "runs").mkdir()
    (file.parent / "runs" / "other.txt").write_text("no part of it")
    assert run_app(["provision", str(file)]) == 0
    admissions = Admissions(file.parent)
    for site in "abc":
        token = Token.parse(admissions.token_file(site).read_text())
        request = JoinRequest.make(token, ec.generate_private_key(ec.SECP384R1()))
        admissions.receive(request.model_dump_json().encode())
        if site != "c":
            admissions.approve(request, replace=False)
    admissions.revoke("b")
    return file


def test_one_without_private_keys_has_none_and_says_what_to_do(
    federation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, to = tmp_path / "x.tar", tmp_path / "there"
    assert run_app(["backup", str(federation), str(path)]) == 0
    names = set(read_contents(path).files)
    assert names == {
        "federation.yaml",
        *("tls/ca.crt", "tls/server.crt"),
        *("sites/a.pub", "sites/revoked.json", "sites/pending/c.join"),
        *("sites/invited/a.json", "sites/invited/c.json", "sites/invited/d.json"),
    }
    assert b"PRIVATE KEY" not in path.read_bytes()
    assert run_app(["restore", str(path), str(to)]) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "revoke again what was revoked after" in told and "put ca.key back" in told
    old, new = Admissions(federation.parent), Admissions(to)
    assert new.members("abcd") == old.members("abcd") and len(new.members("abcd")) == 1
    assert new.revoked() == old.revoked() and new.pending("c") == old.pending("c")
    # As it says: with the CA's key, the server is the one that hospitals know.
    (to / "tls" / "ca.key").write_bytes(TlsFiles(federation.parent / "tls").ca_key.read_bytes())
    assert run_app(["provision", "renew", str(to / "federation.yaml")]) == 0
    TlsFiles(to / "tls").require()


def test_one_with_private_keys_keeps_them_to_its_owner(federation: Path, tmp_path: Path) -> None:
    path, to = tmp_path / "x.tar", tmp_path / "there"
    assert run_app(["backup", str(federation), str(path), "--private-keys"]) == 0
    assert path.stat().st_mode & 0o077 == 0
    assert run_app(["restore", str(path), str(to)]) == 0
    for name in ("tls/ca.key", "tls/server.key", "tokens/d.token"):
        assert (to / name).read_bytes() == (federation.parent / name).read_bytes()
        assert (to / name).stat().st_mode & 0o077 == 0
    TlsFiles(to / "tls").require()


def test_a_federation_that_is_wrong_is_not_put_in_place(
    federation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.tar"
    assert run_app(["backup", str(federation), str(path)]) == 0
    assert run_app(["restore", str(path), str(federation.parent)]) == 1
    assert "replaces nothing" in capsys.readouterr().err
    federation.write_text("address: nowhere\n")
    assert run_app(["backup", str(federation), str(tmp_path / "y.tar")]) == 1
    assert not (tmp_path / "y.tar").exists()

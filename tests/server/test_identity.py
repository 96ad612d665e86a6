import ssl
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509

from feat_fed.errors import ConfigError, ProtocolError
from feat_fed_client.keys import check_site_key, make_site_key
from feat_fed_server import certificates
from feat_fed_server.admissions import Admissions
from feat_fed_server.certificates import (
    TlsFiles,
    certified_hosts,
    make_ca,
    make_server_certificate,
)
from feat_fed_server.roster import FileRoster, KeyRoster, SimulatedRoster


@pytest.fixture
def tls(tmp_path: Path) -> TlsFiles:
    files = TlsFiles(tmp_path)
    make_ca(files)
    make_server_certificate(files, hosts=("localhost", "127.0.0.1", "::1"))
    return files


def test_the_certificate_is_good_for_its_hosts(tls: TlsFiles) -> None:
    tls.require()
    certificate = x509.load_pem_x509_certificate(tls.certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    certificate.verify_directly_issued_by(
        x509.load_pem_x509_certificate(tls.ca_certificate.read_bytes())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.certificate, tls.key)


def test_private_keys_are_their_owners_alone(tls: TlsFiles, tmp_path: Path) -> None:
    make_site_key(tmp_path / "site.key")
    for path in (tls.key, tls.ca_key, tmp_path / "site.key"):
        assert path.stat().st_mode & 0o077 == 0


def test_an_expired_certificate_says_how_to_renew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates, "VALID_DAYS", -0.02)  # half an hour ago
    files = TlsFiles(tmp_path)
    make_ca(files)
    make_server_certificate(files, hosts=("localhost",))
    with pytest.raises(ConfigError, match="expired on"):
        files.require()


def test_a_renewed_certificate_is_of_the_same_ca(tls: TlsFiles) -> None:
    before = tls.certificate.read_bytes()
    make_server_certificate(tls, hosts=certified_hosts(tls))
    assert tls.certificate.read_bytes() != before
    authority = x509.load_pem_x509_certificate(tls.ca_certificate.read_bytes())
    x509.load_pem_x509_certificate(tls.certificate.read_bytes()).verify_directly_issued_by(
        authority
    )
    assert tls.warnings() == []


def test_what_ends_soon_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "VALID_DAYS", 20.5)
    monkeypatch.setattr(certificates, "CA_VALID_DAYS", 80.5)
    files = TlsFiles(tmp_path)
    make_ca(files)
    make_server_certificate(files, hosts=("localhost",))
    server, authority = files.warnings()
    assert "ends in 20 days" in server and "provision renew" in server
    assert "CA ends in 80 days" in authority


def test_missing_certificates_name_the_command(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="feat-fed provision"):
        TlsFiles(tmp_path).require()


def test_a_key_is_never_replaced(tmp_path: Path) -> None:
    make_site_key(tmp_path / "site.key")
    before = (tmp_path / "site.key").read_bytes()
    with pytest.raises(ConfigError, match="exists"):
        make_site_key(tmp_path / "site.key")
    assert (tmp_path / "site.key").read_bytes() == before


def test_the_public_half_never_takes_the_private_ones_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="public half"):
        make_site_key(tmp_path / "site.pub")
    assert not (tmp_path / "site.pub").exists()


def test_a_host_that_is_no_name_is_refused(tls: TlsFiles) -> None:
    assert certified_hosts(tls) == ("localhost", "127.0.0.1", "::1")
    with pytest.raises(ConfigError, match="xn--"):
        make_server_certificate(tls, hosts=("höst",))


def test_a_wrong_key_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="feat-fed keygen"):
        check_site_key(tmp_path / "absent.key")
    (tmp_path / "text.key").write_text("hello")
    with pytest.raises(ConfigError, match="not an OpenSSH private key"):
        check_site_key(tmp_path / "text.key")


@pytest.fixture
def admissions(tmp_path: Path) -> Admissions:
    (tmp_path / "sites").mkdir()
    return Admissions(tmp_path)


def test_public_keys_make_the_roster(admissions: Admissions, tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_site_key(admissions.keys / f"{name}.key")
    keys = admissions.members(["a", "b", "c"])
    path = tmp_path / "roster.json"
    KeyRoster(keys).save(path)
    roster = FileRoster(path)
    key_of = {name: key for key, name in keys.items()}
    nodes = [
        SimpleNamespace(node_id=7, public_key=key_of["b"]),
        SimpleNamespace(node_id=9, public_key=b"stranger"),
    ]
    assert roster.expected == ("a", "b")
    assert roster.online(nodes) == {"b": 7}  # type: ignore[arg-type]
    assert roster.check(7, "b") == "b"
    with pytest.raises(ProtocolError, match="another site's name"):
        roster.check(7, "a")
    KeyRoster({key_of["a"]: "a"}).save(path)
    assert roster.expected == ("a",)
    assert roster.online(nodes) == {}  # type: ignore[arg-type]
    with pytest.raises(ProtocolError, match="taken out"):
        roster.check(7, "b")


def test_a_shared_and_a_damaged_public_key_are_refused(admissions: Admissions) -> None:
    make_site_key(admissions.keys / "a.key")
    (admissions.keys / "b.pub").write_bytes((admissions.keys / "a.pub").read_bytes())
    with pytest.raises(ConfigError, match=r"same key as a\.pub"):
        admissions.members(["a", "b"])
    (admissions.keys / "b.pub").write_text("ssh-rsa nonsense")
    with pytest.raises(ConfigError, match="none in OpenSSH's form"):
        admissions.members(["a", "b"])


def test_simulated_sites_are_named_in_the_order_of_their_registration() -> None:
    roster = SimulatedRoster(("a", "b"))
    first = SimpleNamespace(node_id=8, registered_at="2026-01-01T00:00:00+00:00")
    second = SimpleNamespace(node_id=7, registered_at="2026-01-01T00:00:00.000001+00:00")
    assert roster.online([first]) == {"a": 8}  # type: ignore[list-item]
    assert roster.online([second, first]) == {"a": 8, "b": 7}  # type: ignore[list-item]
    assert roster.check(7, "b") == "b"
    with pytest.raises(ProtocolError, match="a reports under another site's name"):
        roster.check(8, "b")

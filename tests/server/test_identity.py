import ssl
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509

from feat_fed.errors import ConfigError, ProtocolError
from feat_fed_client.keys import check_site_key, make_site_key
from feat_fed_server import certificates
from feat_fed_server.certificates import (
    TlsFiles,
    certified_hosts,
    make_ca,
    make_server_certificate,
)
from feat_fed_server.roster import ClaimedRoster, KeyRoster, read_public_keys


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
    assert certified_hosts(tls) == {"localhost", "127.0.0.1", "::1"}
    with pytest.raises(ConfigError, match="xn--"):
        make_server_certificate(tls, hosts=("höst",))


def test_a_wrong_key_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="feat-fed keygen"):
        check_site_key(tmp_path / "absent.key")
    (tmp_path / "text.key").write_text("hello")
    with pytest.raises(ConfigError, match="not an OpenSSH private key"):
        check_site_key(tmp_path / "text.key")


def test_public_keys_make_the_roster(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_site_key(tmp_path / f"{name}.key")
    keys = read_public_keys(tmp_path, ["a", "b"])
    roster = KeyRoster(keys)
    roster.save(tmp_path / "roster.json")
    again = KeyRoster.load(tmp_path / "roster.json")
    key_of = {name: key for key, name in keys.items()}
    nodes = [
        SimpleNamespace(node_id=7, public_key=key_of["b"]),
        SimpleNamespace(node_id=9, public_key=b"stranger"),
    ]
    assert again.expected == ("a", "b")
    assert again.online(nodes) == {"b": 7}  # type: ignore[arg-type]
    assert again.check(7, "b") == "b"
    with pytest.raises(ProtocolError, match="another site's name"):
        again.check(7, "a")


def test_a_missing_and_a_shared_public_key_are_refused(tmp_path: Path) -> None:
    make_site_key(tmp_path / "a.key")
    with pytest.raises(ConfigError, match=r"b\.pub"):
        read_public_keys(tmp_path, ["a", "b"])
    (tmp_path / "b.pub").write_bytes((tmp_path / "a.pub").read_bytes())
    with pytest.raises(ConfigError, match=r"same key as a\.pub"):
        read_public_keys(tmp_path, ["a", "b"])
    (tmp_path / "b.pub").write_text("ssh-rsa nonsense")
    with pytest.raises(ConfigError, match="not an OpenSSH public key"):
        read_public_keys(tmp_path, ["a", "b"])


def test_a_simulated_site_keeps_the_name_it_gave() -> None:
    roster = ClaimedRoster(("a", "b"))
    nodes = [SimpleNamespace(node_id=7), SimpleNamespace(node_id=8)]
    assert roster.online(nodes) == {"node-7": 7, "node-8": 8}  # type: ignore[arg-type]
    roster.check(7, "a")
    assert roster.online(nodes) == {"a": 7, "node-8": 8}  # type: ignore[arg-type]

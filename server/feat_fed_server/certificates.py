"""The coordinator's CA and the server's certificate (X.509, RFC 5280)."""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from feat_fed.atomic import write_bytes_atomically
from feat_fed.errors import ConfigError

VALID_DAYS: float = 825
CA_VALID_DAYS: float = 3650
"""So that hospitals keep their ca.crt while server certificates come and go."""

SOON_DAYS = 30
CA_SOON_DAYS = 90
"""Before their end it is time to say so; a new CA has to reach every hospital."""


@dataclass(frozen=True)
class TlsFiles:
    """Where a federation's certificates lie; the CA's key is only needed to make more."""

    folder: Path

    @property
    def ca_certificate(self) -> Path:
        """The CA's certificate, which every hospital gets from a person."""
        return self.folder / "ca.crt"

    @property
    def ca_key(self) -> Path:
        """The CA's private key."""
        return self.folder / "ca.key"

    @property
    def certificate(self) -> Path:
        """The server's certificate."""
        return self.folder / "server.crt"

    @property
    def key(self) -> Path:
        """The server's private key."""
        return self.folder / "server.key"

    def require(self) -> None:
        """Raise :class:`ConfigError` unless what a server needs is there and still valid."""
        for path in (self.ca_certificate, self.certificate, self.key):
            if not path.is_file():
                raise ConfigError(
                    f"{path} is missing: run `feat-fed provision` on the federation's file"
                )
        try:
            certificate = x509.load_pem_x509_certificate(self.certificate.read_bytes())
        except ValueError as error:
            raise ConfigError(f"{self.certificate} is not a PEM certificate") from error
        if certificate.not_valid_after_utc < dt.datetime.now(dt.UTC):
            raise ConfigError(
                f"{self.certificate} expired on {certificate.not_valid_after_utc:%Y-%m-%d}: "
                "`feat-fed provision renew` makes another; hospitals keep their ca.crt"
            )

    def warnings(self) -> list[str]:
        """Say which certificates end soon, and what to do."""
        told = []
        days = _days_left(self.certificate)
        if days < SOON_DAYS:
            told.append(
                f"the server's certificate ends in {days} days: `feat-fed provision renew` makes "
                "another; hospitals keep their ca.crt"
            )
        ca_days = _days_left(self.ca_certificate)
        if ca_days < CA_SOON_DAYS:
            told.append(
                f"the CA ends in {ca_days} days: make a new one before (delete the tls folder, run "
                "`feat-fed provision`) and give its ca.crt to every hospital"
            )
        return told


def _days_left(path: Path) -> int:
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    return (certificate.not_valid_after_utc - dt.datetime.now(dt.UTC)).days


def certified_hosts(files: TlsFiles) -> tuple[str, ...]:
    """Return the names and addresses that the server's certificate is good for."""
    certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return tuple(str(each.value) for each in names)


def make_ca(files: TlsFiles) -> None:
    """Write a new CA."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = _name("feat-fed federation CA")
    certificate = (
        _builder(name, name, key.public_key(), days=CA_VALID_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )
    _write_key(files.ca_key, key)
    write_bytes_atomically(
        files.ca_certificate, certificate.public_bytes(serialization.Encoding.PEM)
    )


def make_server_certificate(files: TlsFiles, *, hosts: tuple[str, ...]) -> None:
    """Write a server certificate for ``hosts`` (names or IP addresses), signed by the CA."""
    ca = x509.load_pem_x509_certificate(files.ca_certificate.read_bytes())
    ca_key = serialization.load_pem_private_key(files.ca_key.read_bytes(), None)
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{files.ca_key} is not an elliptic-curve key")
    key = ec.generate_private_key(ec.SECP384R1())
    certificate = (
        _builder(_name(hosts[0][:64]), ca.subject, key.public_key(), days=VALID_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([_alternative(host) for host in hosts]), critical=False
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()),
            critical=False,
        )
        .sign(ca_key, hashes.SHA384())
    )
    _write_key(files.key, key)
    write_bytes_atomically(files.certificate, certificate.public_bytes(serialization.Encoding.PEM))


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    *,
    days: float,
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        # An hour back, since clocks of hospitals differ.
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError as error:
        raise ConfigError(
            f"{host!r} is not a host name in ASCII; write an international name as xn--..."
        ) from error


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    write_bytes_atomically(
        path,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        mode=0o600,
    )

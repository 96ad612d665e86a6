"""The site's own key: made at the hospital; only its public half is given away."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from feat_fed.atomic import write_bytes_atomically
from feat_fed.config import SiteConfig
from feat_fed.errors import ConfigError


def make_site_key(path: Path) -> Path:
    """Write a private key (EC P-384, OpenSSH format, readable by its owner alone).

    Returns
    -------
    Path
        The public key beside it (``.pub``), which goes to the coordinator.

    Raises
    ------
    ConfigError
        If a key is there already; it is not replaced.
    """
    public_path = path.with_suffix(".pub")
    if path == public_path:
        raise ConfigError(f"{path} is the name of the public half; name the key site.key, say")
    for each in (path, public_path):
        if each.exists():
            raise ConfigError(f"{each} exists; delete it first if the key is to be replaced")
    if not path.parent.is_dir():
        raise ConfigError(f"the folder {path.parent} does not exist; make it first")
    key = ec.generate_private_key(ec.SECP384R1())
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    write_bytes_atomically(public_path, public + b"\n")
    # The private half last: where it is, the public one is too.
    write_bytes_atomically(
        path,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        ),
        mode=0o600,
    )
    return public_path


def check_site_key(path: Path) -> None:
    """Raise :class:`ConfigError` unless ``path`` holds a key that Flower will take."""
    if not path.is_file():
        raise ConfigError(
            f"server.private_key: {path} does not exist; make it with `feat-fed keygen {path}` "
            "and send the .pub file to the coordinator"
        )
    try:
        key = serialization.load_ssh_private_key(path.read_bytes(), None)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"server.private_key: {path} is not an OpenSSH private key without a passphrase"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(
            f"server.private_key: {path} is not an elliptic-curve key; "
            "make one with `feat-fed keygen`"
        )


def identity_key(site: SiteConfig) -> ec.EllipticCurvePrivateKey:
    """Return the key with which a site signs what other sites get to see.

    It is the one with which it speaks to the server; a virtual site, which has none, gets one.

    Raises
    ------
    ConfigError
        If it cannot be used.
    """
    if site.server is not None:
        path = site.server.private_key
    else:
        path = site.store / "virtual-site.key"
        if not path.exists():
            path.with_suffix(".pub").unlink(missing_ok=True)  # of one that a kill left half
            make_site_key(path)
    check_site_key(path)
    return cast(
        ec.EllipticCurvePrivateKey, serialization.load_ssh_private_key(path.read_bytes(), None)
    )

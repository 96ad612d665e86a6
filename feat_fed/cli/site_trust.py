"""What `feat-fed site trust` shows and changes: the bundles of applications that may run here."""

from __future__ import annotations

import re

from feat_fed.bundle import bundle_files
from feat_fed.config import SiteConfig
from feat_fed.errors import ConfigError
from feat_fed_client.trust import (
    approve,
    last_asked,
    own_bundle,
    trusted_bundles,
    withdraw,
)

_WHY = {
    "bundle": "it is not approved here",
    "size": "it is too large to be one of feat-fed",
    "task": "it asked for another kind of task",
}


def trust_lines(site: SiteConfig) -> list[str]:
    """Return what may run, what this installation builds, and what was last asked for."""
    content, own = own_bundle()
    trusted = trusted_bundles(site)
    lines = [f"bundles that may run at {site.name}:"] + (
        [f"  {each}{' (of this installation)' if each == own else ''}" for each in sorted(trusted)]
        or ["  none"]
    )
    lines += [
        f"this installation builds {own}, of {len(content)} bytes, with these files and no code:"
    ]
    for name, text in bundle_files().items():
        lines += [f"  {name}", *(f"    {each}".rstrip() for each in text.decode().splitlines())]
    asked = last_asked(site)
    if asked is None:
        return [*lines, "the server has asked for nothing yet"]
    lines.append(f"the server last asked for {asked.bundle_sha256}, of {asked.bundle_bytes} bytes")
    if asked.code is not None:
        lines.append(f"  it was refused: {_WHY[asked.code]}")
    if asked.code == "bundle" and asked.bundle_sha256 not in trusted:
        lines.append(
            "  ask the coordinator which version of feat-fed it is, over another way than this "
            "server; to approve it:\n"
            f"  feat-fed site trust SITE.YAML {asked.bundle_sha256}"
        )
    return lines


def change_trust(site: SiteConfig, *, approved: str | None, withdrawn: str | None) -> str:
    """Approve or withdraw a bundle; return what to tell.

    Raises
    ------
    ConfigError
        If it is no SHA-256, or if both are asked for.
    """
    if approved is not None and withdrawn is not None:
        raise ConfigError("a hash to approve and --withdraw: one of the two")
    digest = (approved or withdrawn or "").strip().lower()
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise ConfigError(f"{digest!r} is no SHA-256: write its 64 hexadecimal digits")
    if approved is not None:
        approve(site, digest)
        return (
            f"{site.name} approves {digest}: such a bundle has this installation's own code run, "
            "as every approved one does"
        )
    withdraw(site, digest)
    left = trusted_bundles(site)
    return f"{site.name} lets {digest} run no more" + ("" if left else ", and so nothing at all")

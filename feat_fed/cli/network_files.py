"""``--network NAME=PATH:SHA256``: files of feature networks on the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from feat_fed.config import NetworkFileConfig
from feat_fed.errors import ConfigError

_SHA256 = re.compile(r"[0-9A-Fa-f]{64}")


def network_files(given: Sequence[str]) -> dict[str, NetworkFileConfig]:
    """Return the files by the network's name.

    Raises
    ------
    ConfigError
        If a text is not of that form, or a name is unknown or given twice.
    """
    from feat_fed.evaluate.protocol import NetworkName

    names = [each for each in get_args(NetworkName) if each != "random"]
    found: dict[str, NetworkFileConfig] = {}
    for text in given:
        name, _, rest = text.partition("=")
        if name not in names or not rest:
            raise ConfigError(
                f"--network {text!r} is not NAME=PATH or NAME=PATH:SHA256 with one of the names "
                f"{', '.join(names)}"
            )
        if name in found:
            raise ConfigError(f"--network {name} is given twice; leave one out")
        path, colon, sha256 = rest.rpartition(":")
        has_digest = bool(colon) and _SHA256.fullmatch(sha256) is not None
        if path and not has_digest and not Path(rest).exists() and Path(path).exists():
            raise ConfigError(
                f"--network {name}: {sha256!r} is no SHA-256, which has 64 digits from 0 to f; "
                f"`sha256sum {path}` tells it"
            )
        found[name] = NetworkFileConfig(
            path=Path(path if has_digest else rest), sha256=sha256.lower() if has_digest else None
        )
    return found

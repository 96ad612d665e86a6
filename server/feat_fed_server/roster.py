"""Which Flower node is which site."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.node_pb2 import NodeInfo

from feat_fed.atomic import write_bytes_atomically
from feat_fed.errors import ConfigError, ProtocolError


class Roster(Protocol):
    """Tells sites apart; node ids change when a site reconnects, names do not."""

    expected: tuple[str, ...]
    """Sites that may take part, as far as they are known beforehand."""

    def online(self, nodes: Iterable[NodeInfo]) -> dict[str, int]:
        """Return the node id of every known site among the connected nodes."""

    def check(self, node_id: int, claimed: str) -> str:
        """Return the site's name, or raise :class:`ProtocolError` if it claims another's."""


class KeyRoster:
    """Sites by public key, as the coordinator registered them."""

    def __init__(self, names_by_key: Mapping[bytes, str]) -> None:
        self._names_by_key = dict(names_by_key)
        self._names_by_node: dict[int, str] = {}
        self.expected = tuple(sorted(self._names_by_key.values()))

    def online(self, nodes: Iterable[NodeInfo]) -> dict[str, int]:
        """Return the node id of every registered site that is connected."""
        found: dict[str, int] = {}
        for node in nodes:
            if name := self._names_by_key.get(node.public_key):
                found[name] = self._node(node.node_id, name)
        return found

    def check(self, node_id: int, claimed: str) -> str:
        """Return the name that belongs to the node's key."""
        name = self._names_by_node[node_id]
        if claimed != name:
            raise ProtocolError(f"{name} reports under another site's name", refusal="name")
        return name

    def _node(self, node_id: int, name: str) -> int:
        self._names_by_node[node_id] = name
        return node_id

    def save(self, path: Path) -> None:
        """Write the roster for the ServerApp's process."""
        names = {key.decode(): name for key, name in self._names_by_key.items()}
        write_bytes_atomically(path, json.dumps(names, indent=1).encode())

    @classmethod
    def load(cls, path: Path) -> KeyRoster:
        """Read what :meth:`save` wrote."""
        return cls({key.encode(): name for key, name in json.loads(path.read_text()).items()})


class ClaimedRoster:
    """Sites of a simulation, where nodes have no keys: a node's name is ``site-ID``.

    A name that the node reports is believed, and is its name from then on.
    """

    def __init__(self, expected: tuple[str, ...]) -> None:
        self.expected = expected
        self._claims: dict[int, str] = {}

    def online(self, nodes: Iterable[NodeInfo]) -> dict[str, int]:
        """Return all nodes."""
        return {
            self._claims.get(node.node_id, f"node-{node.node_id}"): node.node_id for node in nodes
        }

    def check(self, node_id: int, claimed: str) -> str:
        """Return the claim."""
        return self._claims.setdefault(node_id, claimed)


def read_public_keys(folder: Path, names: Iterable[str]) -> dict[bytes, str]:
    """Read ``NAME.pub`` of every site.

    Returns
    -------
    dict
        The site's name by its public key (PEM, as Flower wants it).

    Raises
    ------
    ConfigError
        If a file is missing, not an EC public key, or if two sites have one key.
    """
    found: dict[bytes, str] = {}
    missing = [name for name in names if not (folder / f"{name}.pub").is_file()]
    if missing:
        raise ConfigError(
            f"public keys are missing in {folder}: {', '.join(f'{name}.pub' for name in missing)}; "
            "each hospital makes its own with `feat-fed keygen` and sends the .pub file"
        )
    for name in names:
        path = folder / f"{name}.pub"
        pem = _read_public_key(path)
        if pem in found:
            raise ConfigError(
                f"{path} holds the same key as {found[pem]}.pub; each site needs its own"
            )
        found[pem] = name
    return found


def _read_public_key(path: Path) -> bytes:
    try:
        key = serialization.load_ssh_public_key(path.read_bytes())
    except ValueError as error:
        raise ConfigError(f"{path} is not an OpenSSH public key") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ConfigError(f"{path} is not an elliptic-curve key; use `feat-fed keygen`")
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )

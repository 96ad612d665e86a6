"""Which Flower node is which site."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from flwr.proto.node_pb2 import NodeInfo

from feat_fed.atomic import write_bytes_atomically
from feat_fed.errors import ProtocolError
from feat_fed.joining import key_pem, read_public_key


class Roster(Protocol):
    """Tells sites apart; node ids change when a site reconnects, names do not."""

    @property
    def expected(self) -> tuple[str, ...]:
        """Sites that may take part, as far as they are known beforehand."""

    def online(self, nodes: Iterable[NodeInfo]) -> dict[str, int]:
        """Return the node id of every known site among the connected nodes."""

    def has(self, node_id: int) -> bool:
        """Return whether a node that was online is still a known site's."""

    def check(self, node_id: int, claimed: str) -> str:
        """Return the site's name, or raise :class:`ProtocolError` if it claims another's."""

    def is_key_of(self, site: str, public_key: str) -> bool:
        """Return whether a key (OpenSSH) is a site's, as far as the sites' keys are known."""


class KeyRoster:
    """Sites by public key, as the coordinator registered them."""

    def __init__(self, names_by_key: Mapping[bytes, str]) -> None:
        self._names_by_key = dict(names_by_key)
        self._keys_by_node: dict[int, bytes] = {}

    @property
    def expected(self) -> tuple[str, ...]:
        """Names of the registered sites."""
        return tuple(sorted(self._names().values()))

    def name_of(self, public_key: bytes) -> str | None:
        """Return the name that a key (PEM) is registered under."""
        return self._names().get(public_key)

    def online(self, nodes: Iterable[NodeInfo]) -> dict[str, int]:
        """Return the node id of every registered site that is connected."""
        found: dict[str, int] = {}
        for node in nodes:
            if name := self.name_of(node.public_key):
                found[name] = node.node_id
                self._keys_by_node[node.node_id] = node.public_key
        return found

    def has(self, node_id: int) -> bool:
        """Return whether the node's key is still registered."""
        return self.name_of(self._keys_by_node[node_id]) is not None

    def check(self, node_id: int, claimed: str) -> str:
        """Return the name that belongs to the node's key."""
        name = self.name_of(self._keys_by_node[node_id])
        if name is None:
            raise ProtocolError("a site whose key has been taken out since")
        if claimed != name:
            raise ProtocolError(f"{name} reports under another site's name", refusal="name")
        return name

    def is_key_of(self, site: str, public_key: str) -> bool:
        """Return whether a key is registered for the site."""
        return self.name_of(key_pem(read_public_key(public_key.encode()))) == site

    def save(self, path: Path) -> None:
        """Write the roster for the processes of the study."""
        names = {key.decode(): name for key, name in self._names().items()}
        write_bytes_atomically(path, json.dumps(names, indent=1).encode())

    def _names(self) -> Mapping[bytes, str]:
        return self._names_by_key


class FileRoster(KeyRoster):
    """What :meth:`KeyRoster.save` wrote, and writes again when who may take part changes."""

    def __init__(self, path: Path) -> None:
        super().__init__({})
        self._path = path
        self._seen: tuple[int, int] | None = None

    def _names(self) -> Mapping[bytes, str]:
        stat = self._path.stat()
        if self._seen != (seen := (stat.st_ino, stat.st_mtime_ns)):
            names = json.loads(self._path.read_text())
            self._names_by_key = {key.encode(): name for key, name in names.items()}
            self._seen = seen
        return self._names_by_key


class SimulatedRoster:
    """Sites of a simulation, where nodes have no keys: Flower registers them one after the other.

    Parameters
    ----------
    expected
        Names, in the order of Flower's partition numbers, which is that of registration.
    """

    def __init__(self, expected: tuple[str, ...]) -> None:
        self.expected = expected
        self._names: dict[int, str] = {}

    def online(self, nodes: Iterable[NodeInfo]) -> dict[str, int]:
        """Return the node id of every site that is registered."""
        in_order = sorted(nodes, key=lambda node: node.registered_at)
        found = {name: node.node_id for name, node in zip(self.expected, in_order, strict=False)}
        self._names |= {node: name for name, node in found.items()}
        return found

    def has(self, node_id: int) -> bool:
        """Return True: there are no keys that could be taken out."""
        return True

    def check(self, node_id: int, claimed: str) -> str:
        """Return the node's name."""
        name = self._names[node_id]
        if claimed != name:
            raise ProtocolError(f"{name} reports under another site's name", refusal="name")
        return name

    def is_key_of(self, site: str, public_key: str) -> bool:
        """Return True: no key is known."""
        return True

"""The place that the site's SuperNode holds at the server, given up for one that was killed.

The server keeps a killed SuperNode's place for a minute, in case it is only slow, and turns the
next one with the same key away. A client that finds what its own store's SuperNode left says
that it is gone; so a site is back within seconds, and is asked again for what it lost.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from pathlib import Path

import httpx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL
from flwr.proto.fleet_pb2 import DeactivateNodeRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from pydantic import ValidationError

from feat_fed.atomic import write_bytes_atomically
from feat_fed.config import ServerLinkConfig
from feat_fed.config.base import StrictModel
from feat_fed_client.bounded_calls import BoundedFleetClient

_UNTOLD = (httpx.HTTPError, RuntimeError, ValueError, DecodeError)
"""What comes of a call that a server answers not at all, or not as Flower does."""

_FORGOTTEN = (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN, httpx.codes.NOT_FOUND)

log = logging.getLogger(__name__)


class _Mark(StrictModel):
    node_id: int
    inode: int
    """Of the folder: a copy of the store on another machine has no say in this connection."""


@dataclass(frozen=True)
class Connection:
    """What is known of it in the store; whoever uses it holds the client's lock.

    Parameters
    ----------
    folder
        Of the client's own state in the site's store.
    """

    folder: Path
    link: ServerLinkConfig

    def note(self, node_id: int) -> None:
        """Note that our SuperNode is connected; the id is the server's for the site's key."""
        mark = _Mark(node_id=node_id, inode=self.folder.stat().st_ino)
        if mark != self._read():
            write_bytes_atomically(self._path, mark.model_dump_json().encode())

    def give_up(self) -> None:
        """Tell the server that our SuperNode has ended, in case it could not; try it once."""
        mark = self._read()
        if mark is None or mark.inode != self.folder.stat().st_ino:
            return
        try:
            with self._client() as client:
                client.DeactivateNode(DeactivateNodeRequest(node_id=mark.node_id))
        except _UNTOLD as error:
            # It knows it already, is another server by now, or is away: nothing is held there.
            log.debug("no connection was given up: %s", type(error).__name__)
        self._path.unlink(missing_ok=True)

    def is_forgotten(self, node_id: int) -> bool:
        """Whether the server says that it knows of no such SuperNode of ours."""
        request = SendNodeHeartbeatRequest(
            node=Node(node_id=node_id), heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL
        )
        try:
            with self._client() as client:
                return not client.SendNodeHeartbeat(request).success
        except httpx.HTTPStatusError as error:
            return error.response.status_code in _FORGOTTEN
        except _UNTOLD:
            return False

    @property
    def _path(self) -> Path:
        return self.folder / "connection.json"

    def _read(self) -> _Mark | None:
        with contextlib.suppress(OSError, ValidationError):
            return _Mark.model_validate_json(self._path.read_bytes())
        return None

    def _client(self) -> BoundedFleetClient:
        key = serialization.load_ssh_private_key(self.link.private_key.read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError("a site's key is an elliptic-curve key")
        return BoundedFleetClient.from_server_address(
            self.link.address,
            insecure=False,
            root_certificates=self.link.ca_certificate.read_bytes(),
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                NodeAuthHttpInterceptor(key, key.public_key()),
            ],
        )

"""What we ask of the SuperLink on loopback: register sites, start a run, see how it stands."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

import httpx
from flwr.common.constant import Status, SubStatus
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fab_pb2 import Fab
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from feat_fed.errors import FederationError
from feat_fed.wire import bundle

log = logging.getLogger(__name__)


class SuperLinkClient:
    """Speak to the Control API of our own SuperLink."""

    def __init__(self, control_port: int) -> None:
        self._client = ControlHttpClient.from_server_address(
            server_address=f"127.0.0.1:{control_port}",
            insecure=True,
            root_certificates=None,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr-cli")],
        )

    def register_sites(self, names_by_key: Mapping[bytes, str]) -> None:
        """Admit the sites' public keys.

        Raises
        ------
        FederationError
            If one cannot be registered: Flower takes none a second time that was taken out.
        """
        for key, name in names_by_key.items():
            try:
                self._client.RegisterNode(RegisterNodeRequest(public_key=key, name=name))
            except (httpx.HTTPError, RuntimeError) as error:
                raise FederationError(
                    f"{name}: its key cannot be registered; one that was taken out while the "
                    "study runs comes back only when the server is started again"
                ) from error

    def remove_sites(self, public_keys: Collection[bytes]) -> None:
        """Take sites' public keys out and drop their connections."""
        if not public_keys:
            return
        nodes = self._client.ListNodes(ListNodesRequest()).nodes_info
        for node in nodes:
            if node.public_key in public_keys:
                try:
                    self._client.UnregisterNode(UnregisterNodeRequest(node_id=node.node_id))
                except (httpx.HTTPError, RuntimeError) as error:
                    # Flower 1.41 takes out one that never connected, and answers 500 all the same.
                    log.debug("a node was taken out: %s", type(error).__name__)

    def start_run(self) -> int:
        """Start the ServerApp of this installation and return Flower's id of the run."""
        content, digest = bundle()
        answer = self._client.StartRun(StartRunRequest(fab=Fab(hash_str=digest, content=content)))
        if not answer.HasField("run_id"):
            raise FederationError("Flower did not start the run; the SuperLink's log says why")
        return int(answer.run_id)

    def finished(self, run_id: int) -> bool | None:
        """Return None while the run goes on, then whether it completed."""
        try:
            runs = self._client.ListRuns(ListRunsRequest(run_id=run_id)).run_dict
        except httpx.HTTPError as error:
            raise FederationError(f"the SuperLink does not answer: {error}") from error
        status = runs[run_id].status
        if status.status != Status.FINISHED:
            return None
        return bool(status.sub_status == SubStatus.COMPLETED)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

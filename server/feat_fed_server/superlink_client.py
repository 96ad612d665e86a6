"""What we ask of the SuperLink on loopback: register sites, start a run, see how it stands."""

from __future__ import annotations

from collections.abc import Mapping

import httpx
from flwr.common.constant import Status, SubStatus
from flwr.proto.control_pb2 import ListRunsRequest, RegisterNodeRequest, StartRunRequest
from flwr.proto.fab_pb2 import Fab
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from feat_fed.errors import FederationError
from feat_fed.wire import bundle


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
        """Admit the sites' public keys."""
        for key, name in names_by_key.items():
            self._client.RegisterNode(RegisterNodeRequest(public_key=key, name=name))

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

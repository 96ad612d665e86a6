from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import pytest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest, SendNodeHeartbeatResponse

from feat_fed.config import ServerLinkConfig
from feat_fed_client.connection import Connection


class Server:
    """Answers a heartbeat with a status, or does not."""

    def __init__(self, status: int | None, *, success: bool = True) -> None:
        self._status = status
        self._success = success

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def SendNodeHeartbeat(self, request: SendNodeHeartbeatRequest) -> SendNodeHeartbeatResponse:
        if self._status is None:
            raise httpx.ConnectError("refused")
        assert request.node.node_id == 7
        url = httpx.Request("POST", "https://server")
        httpx.Response(self._status, request=url).raise_for_status()
        return SendNodeHeartbeatResponse(success=self._success)


@pytest.mark.parametrize(
    ("server", "forgotten"),
    [
        (Server(200), False),
        (Server(200, success=False), True),
        (Server(401), True),  # a server that was started again: the key is known, the node is not
        (Server(503), False),
        (Server(None), False),  # away again
    ],
)
def test_whether_the_server_has_forgotten_our_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server, forgotten: bool
) -> None:
    link = ServerLinkConfig(
        address="127.0.0.1:1", ca_certificate=tmp_path / "ca.crt", private_key=tmp_path / "site.key"
    )
    monkeypatch.setattr(Connection, "_client", lambda self: server)
    assert Connection(tmp_path, link).is_forgotten(7) is forgotten

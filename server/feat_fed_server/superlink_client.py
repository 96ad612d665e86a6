"""What we ask of the SuperLink on loopback: register sites, start a run, see how it stands."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import httpx
from flwr.common.constant import Status, SubStatus
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fab_pb2 import Fab
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.constant import NodeStatus
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from feat_fed.errors import ChildError
from feat_fed.wire import bundle

_ANSWER_SEC = 5.0


@dataclass(frozen=True)
class RunEnd:
    """How a run of Flower's has ended."""

    completed: bool
    details: str
    """Flower's words; a path may be in them."""


class SuperLinkClient:
    """Speak to the Control API of our own SuperLink; each call takes some seconds at most.

    Raises
    ------
    ChildError
        From each call, if the SuperLink does not answer or refuses.
    """

    def __init__(self, control_port: int) -> None:
        self._client = ControlHttpClient(
            f"http://127.0.0.1:{control_port}",
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr-cli")],
            timeout=_ANSWER_SEC,
        )

    def register_sites(self, names_by_key: Mapping[bytes, str]) -> list[str]:
        """Admit the sites' public keys, as far as that was not done.

        Returns
        -------
        list
            Names of sites whose key was taken out before: this SuperLink takes none again.
        """
        with _answering():
            known = {node.public_key: node.status for node in self._nodes()}
            for key, name in names_by_key.items():
                if key not in known:
                    self._client.RegisterNode(RegisterNodeRequest(public_key=key, name=name))
        gone = NodeStatus.UNREGISTERED
        return [name for key, name in names_by_key.items() if known.get(key) == gone]

    def remove_sites(self, public_keys: Collection[bytes]) -> None:
        """Take sites' public keys out and drop their connections."""
        with _answering():
            nodes = [node for node in self._nodes() if node.public_key in public_keys]
        for node in nodes:
            # Flower 1.41 takes out one that never connected, and answers 500 all the same.
            with contextlib.suppress(ChildError), _answering():
                self._client.UnregisterNode(UnregisterNodeRequest(node_id=node.node_id))

    def _nodes(self) -> Sequence[NodeInfo]:
        nodes: Sequence[NodeInfo] = self._client.ListNodes(ListNodesRequest()).nodes_info
        return nodes

    def start_run(self) -> int:
        """Start the ServerApp of this installation and return Flower's id of the run."""
        content, digest = bundle()
        fab = Fab(hash_str=digest, content=content)
        with _answering():
            answer = self._client.StartRun(StartRunRequest(fab=fab))
        if not answer.HasField("run_id"):
            raise ChildError("Flower did not start the run; the SuperLink's log says why")
        return int(answer.run_id)

    def stop_run(self, run_id: int) -> None:
        """End a run whose ServerApp is gone, so that the sites are rid of its messages."""
        with _answering():
            self._client.StopRun(StopRunRequest(run_id=run_id))

    def end_of(self, run_id: int) -> RunEnd | None:
        """Return how a run has ended, or None while it goes on."""
        with _answering():
            runs = self._client.ListRuns(ListRunsRequest(run_id=run_id)).run_dict
        status = runs[run_id].status
        if status.status != Status.FINISHED:
            return None
        return RunEnd(status.sub_status == SubStatus.COMPLETED, status.details)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except httpx.HTTPError as error:
        raise ChildError(f"the SuperLink does not answer: {error}") from error

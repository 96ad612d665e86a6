"""Flower's SuperLink as a process with two listeners.

``python -m feat_fed_server.superlink`` serves Flower's own application twice: whole on
loopback, for the ServerApp and for us, and through :class:`~feat_fed_server.door.FleetDoor`
with TLS on the address that hospitals reach.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from flwr.common.constant import ISOLATION_MODE_PROCESS, TRANSPORT_TYPE_GRPC_RERE
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app

from feat_fed_server.door import FleetDoor, LoggedHandshake
from feat_fed_server.whole_bodies import WholeBodies

_GRACE_SEC = 2
_LOOK_SEC = 0.05
LOOPBACK = "127.0.0.1"


class _Listener(uvicorn.Server):
    """A server whose signals are another one's business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(app: FastAPI, arguments: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT."""
    inside = uvicorn.Server(
        uvicorn.Config(
            WholeBodies(app),
            host=LOOPBACK,
            port=arguments.control_port,
            access_log=False,
            log_config=None,
            timeout_graceful_shutdown=_GRACE_SEC,
        )
    )
    config = uvicorn.Config(
        FleetDoor(WholeBodies(app), site_of=_registered(app)),
        host=arguments.host,
        port=arguments.port,
        ssl_certfile=arguments.certificate,
        ssl_keyfile=arguments.key,
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_SEC,
    )
    config.load()
    if config.ssl is None:
        raise RuntimeError("the door has no certificate")
    config.ssl.sslobject_class = LoggedHandshake
    door = _Listener(config)
    serving = asyncio.create_task(_open_when_registered(door, app, arguments.sites))
    await inside.serve()
    door.should_exit = True
    serving.cancel() if not door.started else None
    with contextlib.suppress(asyncio.CancelledError):
        await serving


async def _open_when_registered(door: uvicorn.Server, app: FastAPI, sites: int) -> None:
    """Serve once all sites are registered: one that came earlier would be turned away for good."""
    state = app.state.linkstate_factory.state()
    while len(state.get_node_info()) < sites:
        await asyncio.sleep(_LOOK_SEC)
    await door.serve()


def flower_app(arguments: argparse.Namespace) -> FastAPI:
    """Build Flower's SuperLink application; its own networking stays off."""
    config = SuperLinkLifespanConfig(
        control_address="",
        health_server_address=None,
        host=LOOPBACK,
        port=arguments.control_port,
        insecure=True,
        certificates=None,
        superexec_auth_secret=Path(arguments.secret).read_bytes(),
        authn_plugin=NoOpControlAuthnPlugin(),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type=TRANSPORT_TYPE_GRPC_RERE,
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=None,
        ssl_certfile=None,
        ssl_keyfile=None,
        database=":flwr-in-memory:",
        isolation=ISOLATION_MODE_PROCESS,
        runtime_dependency_install=False,
    )
    return create_app(config, SuperLinkLifespan)


def _registered(app: FastAPI) -> Callable[[bytes], str | None]:
    """Return a look-up of the name under which a public key is registered."""
    factory = app.state.linkstate_factory

    def site_of(public_key: bytes) -> str | None:
        state = factory.state()
        node_id = state.get_node_id_by_public_key(public_key)
        if node_id is None:
            return None
        return str(state.get_node_info(node_ids=[node_id])[0].name)

    return site_of


def main() -> None:
    """Parse the command line that :mod:`feat_fed_server.launch` writes, and serve."""
    parser = argparse.ArgumentParser(prog="python -m feat_fed_server.superlink")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--control-port", type=int, required=True)
    parser.add_argument("--secret", required=True)
    parser.add_argument("--sites", type=int, required=True, help="open the door when registered")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    flower = logging.getLogger("flwr")
    flower.propagate = False  # it has a handler of its own
    # Our own question, each second of a run that may last for days.
    flower.addFilter(lambda record: "ListRuns" not in record.getMessage())
    app = flower_app(arguments)
    # Uvicorn's choice (uvloop, where it is installed) halves what TLS costs.
    with asyncio.Runner(loop_factory=uvicorn.Config(app).get_loop_factory()) as runner:
        runner.run(serve(app, arguments))


if __name__ == "__main__":
    main()

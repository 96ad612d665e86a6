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
import ssl
from functools import partial
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from flwr.common.constant import ISOLATION_MODE_PROCESS, TRANSPORT_TYPE_GRPC_RERE
from flwr.server.superlink.linkstate import linkstate_factory
from flwr.supercore.protobuf.translation import ProtobufTranslationMiddleware
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app
from flwr.superlink.routers.fleet.node_auth import NodeAuthMiddleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from feat_fed.part_store import store_parts_in
from feat_fed.parts import PartFolder
from feat_fed_server.admissions import Admissions
from feat_fed_server.bounded_answers import BoundedAnswers, most_answer_bytes
from feat_fed_server.door import FleetDoor
from feat_fed_server.gate import Gate, GatedServer
from feat_fed_server.join_desk import JoinDesk
from feat_fed_server.link_meter import LinkMeter
from feat_fed_server.roster import FileRoster
from feat_fed_server.whole_bodies import WholeBodies

log = logging.getLogger(__name__)

_GRACE_SEC = 2
_KEEP_ALIVE_SEC = 15
# The ServerApp reads the links a moment after a round's last reply has come.
_HOUSEKEEPING_SEC = 0.2
_LOOK_SEC = 0.05
LOOPBACK = "127.0.0.1"

_FLEET_LAYERS: tuple[object, ...] = (
    BaseHTTPMiddleware,
    ProtobufTranslationMiddleware,
    NodeAuthMiddleware,
)
"""Errors into answers, bodies into messages, and who has signed."""


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
    meter, gate = LinkMeter(Path(arguments.links)), Gate()
    config = _door_config(app, arguments, meter, gate)
    door = GatedServer(config, gate)
    serving = asyncio.create_task(_open_when_registered(door, app, arguments.sites))
    housekeeping = asyncio.create_task(_keep_house(meter, _Certificate(config)))
    await inside.serve()
    door.should_exit = True
    serving.cancel() if not door.started else None
    housekeeping.cancel()
    for task in (serving, housekeeping):
        with contextlib.suppress(asyncio.CancelledError):
            await task
    meter.write()


def _door_config(
    app: FastAPI, arguments: argparse.Namespace, meter: LinkMeter, gate: Gate
) -> uvicorn.Config:
    folder = arguments.federation and Path(arguments.federation).parent
    door = FleetDoor(
        WholeBodies(fleet_app(app)),
        site_of=FileRoster(Path(arguments.roster)).name_of,
        desk=JoinDesk(Admissions(folder) if folder else None),
        gate=gate,
        meter=meter,
    )
    config = uvicorn.Config(
        door,
        host=arguments.host,
        port=arguments.port,
        ssl_certfile=arguments.certificate,
        ssl_keyfile=arguments.key,
        lifespan="off",
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        # Behind a proxy, a header could name any address.
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_SEC,
        timeout_graceful_shutdown=_GRACE_SEC,
    )
    config.load()
    return config


async def _keep_house(meter: LinkMeter, certificate: _Certificate) -> None:
    while True:
        await asyncio.sleep(_HOUSEKEEPING_SEC)
        try:
            meter.write()
            certificate.take_new_one()
        except OSError as error:
            log.error("a file of the run cannot be used: %s", error.strerror)


class _Certificate:
    """Lets a server certificate that was renewed serve new connections, without a restart."""

    def __init__(self, config: uvicorn.Config) -> None:
        if config.ssl is None or config.ssl_certfile is None:
            raise RuntimeError("the door has no certificate")
        self._context = config.ssl
        self._certificate, self._key = Path(config.ssl_certfile), config.ssl_keyfile
        self._seen_ns = self._certificate.stat().st_mtime_ns

    def take_new_one(self) -> None:
        """See whether the file is another one, and use it."""
        if (seen_ns := self._certificate.stat().st_mtime_ns) == self._seen_ns:
            return
        with contextlib.suppress(ssl.SSLError):  # the key is not there yet: look again
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._certificate, self._key)
            self._context.load_cert_chain(self._certificate, self._key)
            self._seen_ns = seen_ns
            log.info("the server's certificate was renewed")


async def _open_when_registered(door: uvicorn.Server, app: FastAPI, sites: int) -> None:
    """Serve once all sites are registered: one that came earlier would be turned away for good."""
    state = app.state.linkstate_factory.state()
    while len(state.get_node_info()) < sites:
        await asyncio.sleep(_LOOK_SEC)
    await door.serve()


def fleet_app(app: FastAPI) -> ASGIApp:
    """Return Flower's application behind those of its layers alone that the Fleet API needs.

    The other six look at all requests to find that they are not for them, or that they are turned
    off here, and what a site sends and gets is hundreds of requests a round.

    Raises
    ------
    RuntimeError
        If Flower has not got the layers of 1.41.
    """
    layers = app.user_middleware
    classes: list[object] = [each.cls for each in layers]
    if [each for each in classes if each in _FLEET_LAYERS] != list(_FLEET_LAYERS):
        raise RuntimeError("Flower's SuperLink has other layers than that of Flower 1.41")
    app.user_middleware = [layers[classes.index(each)] for each in _FLEET_LAYERS]
    stack = app.build_middleware_stack()
    app.user_middleware = layers

    async def served(scope: Scope, receive: Receive, send: Send) -> None:
        await stack({**scope, "app": app}, receive, send)

    return served


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
    store_parts_in(PartFolder.of_environment())
    checkpoints = Path(arguments.checkpoints)
    linkstate_factory.InMemoryLinkState = partial(  # type: ignore[attr-defined, assignment]
        BoundedAnswers, most_bytes=lambda: most_answer_bytes(checkpoints)
    )
    return create_app(config, SuperLinkLifespan)


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
    parser.add_argument("--roster", required=True, help="who may take part")
    parser.add_argument("--links", required=True, help="where to count what goes over the wire")
    parser.add_argument("--checkpoints", required=True, help="they tell how large an answer is")
    parser.add_argument("--federation", help="its file; hospitals may ask to join")
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

"""Behind the door stand Flower's own layers that the Fleet API needs, and no others."""

from __future__ import annotations

import argparse
import asyncio
import base64
import datetime as dt
import json
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.message_pb2 import PullObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.server.superlink.linkstate import linkstate_factory
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.primitives.asymmetric import (
    generate_key_pairs,
    public_key_to_bytes,
    sign_message,
)
from flwr.superlink.routers.fleet.middlewares import FleetEventLogMiddleware
from google.protobuf.message import Message

from feat_fed_server.superlink import fleet_app, flower_app

RUN = 5


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    name = "InMemoryLinkState"
    monkeypatch.setattr(linkstate_factory, name, getattr(linkstate_factory, name))
    (tmp_path / "secret").write_bytes(bytes(32))
    arguments = {"control_port": 1, "secret": tmp_path / "secret", "checkpoints": tmp_path}
    return flower_app(argparse.Namespace(**arguments))


class Site:
    """A registered SuperNode, which signs what it asks."""

    def __init__(self, app: FastAPI) -> None:
        self.private, public = generate_key_pairs()
        self.public = public_key_to_bytes(public)
        state = app.state.linkstate_factory.state()
        self.node_id = state.create_node(
            owner_aid="", owner_name="", public_key=self.public, heartbeat_interval=30
        )
        self.fleet = fleet_app(app)

    def ask(self, call: str, request: Message, *, signed_by: object = None) -> tuple[int, bytes]:
        signed_at = dt.datetime.now(dt.UTC).isoformat()
        signature = sign_message(signed_by or self.private, signed_at.encode())
        headers = {
            "content-type": "application/protobuf",
            TIMESTAMP_HEADER: signed_at,
            FLEET_HTTP_PUBLIC_KEY_HEADER: base64.b64encode(self.public).decode(),
            FLEET_HTTP_SIGNATURE_HEADER: base64.b64encode(signature).decode(),
        }
        content = request.SerializeToString()

        async def answered() -> httpx.Response:
            way = httpx.ASGITransport(self.fleet, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=way, base_url="https://server") as client:
                return await client.post(f"/v1/fleet/{call}", content=content, headers=headers)

        answer = asyncio.run(answered())
        return answer.status_code, answer.content


def test_a_sites_call_is_answered(app: FastAPI) -> None:
    site = Site(app)
    request = PullMessagesRequest(node=Node(node_id=site.node_id))
    status, _ = site.ask("pull-messages", request)
    assert status == 200


def test_what_another_key_signed_is_refused(app: FastAPI) -> None:
    site, other = Site(app), generate_key_pairs()[0]
    request = PullMessagesRequest(node=Node(node_id=site.node_id))
    assert site.ask("pull-messages", request, signed_by=other)[0] == 401


def test_who_says_to_be_another_node_is_refused(app: FastAPI) -> None:
    site, other = Site(app), Site(app)
    request = PullObjectRequest(node=Node(node_id=other.node_id), run_id=RUN, object_id="a" * 64)
    assert site.ask("pull-object", request)[0] == 401


def test_an_error_within_becomes_an_answer_that_tells_nothing(app: FastAPI) -> None:
    site = Site(app)
    request = PullObjectRequest(node=Node(node_id=site.node_id), run_id=RUN, object_id="a" * 64)
    status, body = site.ask("pull-object", request)
    assert status == 500  # no such run
    assert json.loads(body).keys() == {"detail"}


def test_flower_itself_keeps_all_of_its_layers(app: FastAPI) -> None:
    before = list(app.user_middleware)
    fleet_app(app)
    assert app.user_middleware == before
    assert any(each.cls is FleetEventLogMiddleware for each in before)


def test_another_flower_is_told(app: FastAPI) -> None:
    app.user_middleware.pop()
    app.user_middleware = [each for each in app.user_middleware if "Auth" not in str(each.cls)]
    with pytest.raises(RuntimeError, match=r"Flower 1\.41"):
        fleet_app(app)

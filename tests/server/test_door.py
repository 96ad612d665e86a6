import base64
import datetime as dt
import logging
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from flwr.common.constant import TIMESTAMP_HEADER
from starlette.types import Receive, Scope, Send

from feat_fed.protocol import UNKNOWN_KEY, WRONG_CLOCK
from feat_fed_server.door import FLEET_PATHS, FleetDoor

KEYS = {b"key of a": "hospital-a"}


async def flower(scope: Scope, receive: Receive, send: Send) -> None:
    """Stand in for Flower: answer 403 to an activation and 200 with the body to the rest."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    status = 403 if scope["path"] == "/v1/fleet/activate-node" else 200
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body})


def call(
    path: str,
    *,
    method: str = "POST",
    key: bytes = b"key of a",
    content: Any = b"hello",
    skew_sec: float = 0,
) -> httpx.Response:
    import asyncio

    async def ask() -> httpx.Response:
        door = FleetDoor(flower, site_of=KEYS.get, max_body_bytes=100)
        transport = httpx.ASGITransport(door)
        async with httpx.AsyncClient(transport=transport, base_url="https://door") as client:
            now = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=skew_sec)
            headers = {
                "flwr-public-key": base64.b64encode(key).decode(),
                TIMESTAMP_HEADER: now.isoformat(),
            }
            return await client.request(method, path, headers=headers, content=content)

    return asyncio.run(ask())


@pytest.mark.parametrize("path", sorted(FLEET_PATHS - {"/v1/fleet/activate-node"}))
def test_a_registered_sites_calls_pass_untouched(path: str) -> None:
    answer = call(path)
    assert (answer.status_code, answer.content) == (200, b"hello")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/docs",
        "/openapi.json",
        "/health",
        "/v1/control/start-run",
        "/v1/runtime/acquire-task",
        "/v1/fleet/register-node",
        "/v1/fleet/unregister-node",
        "/v1/fleet/pull-messages/",
        "/v1/fleet/../control/start-run",
        "//v1/fleet/pull-messages",
    ],
)
def test_nothing_else_is_there(path: str) -> None:
    assert call(path).status_code == 404


def test_another_method_is_not_there() -> None:
    assert call("/v1/fleet/pull-messages", method="GET").status_code == 404


@pytest.mark.parametrize("key", [b"", b"another key"])
@pytest.mark.parametrize(("path", "status"), [("activate-node", 404), ("pull-messages", 401)])
def test_a_stranger_is_told_that_its_key_is_unknown(
    path: str, status: int, key: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    answer = call(f"/v1/fleet/{path}", key=key)
    assert (answer.status_code, answer.json()["code"]) == (status, UNKNOWN_KEY)
    assert "its key is not registered" in caplog.text


def test_a_large_body_is_refused_by_its_header() -> None:
    assert call("/v1/fleet/push-object", content=b"x" * 101).status_code == 413


def test_a_large_body_without_a_length_is_cut_off() -> None:
    async def chunks() -> Any:
        for _ in range(5):
            yield b"x" * 50

    with pytest.raises(AssertionError):  # the transport's: no answer was made
        call("/v1/fleet/push-object", content=chunks())


def test_a_refusal_by_flower_leaves_a_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    assert call("/v1/fleet/activate-node").status_code == 403
    assert "hospital-a: its key is in use" in caplog.text


def test_the_lookup_sees_the_whole_key() -> None:
    seen: list[bytes] = []
    lookup: Callable[[bytes], str | None] = lambda key: seen.append(key)  # noqa: E731
    import asyncio

    door = FleetDoor(flower, site_of=lookup)

    async def ask() -> None:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(door), base_url="https://door"
        ) as client:
            headers = {"flwr-public-key": base64.b64encode(b"whole").decode()}
            await client.post("/v1/fleet/get-run", headers=headers)

    asyncio.run(ask())
    assert seen == [b"whole"]


@pytest.mark.parametrize("skew_sec", [30, -400])
def test_a_wrong_clock_is_told_to_both_sides(
    skew_sec: float, caplog: pytest.LogCaptureFixture
) -> None:
    answer = call("/v1/fleet/activate-node", skew_sec=skew_sec)
    assert (answer.status_code, answer.json()["code"]) == (404, WRONG_CLOCK)
    assert "hospital-a: its clock differs by" in caplog.text


@pytest.mark.parametrize("skew_sec", [3, -200])
def test_a_clock_that_flower_takes_passes(skew_sec: float) -> None:
    assert call("/v1/fleet/pull-messages", skew_sec=skew_sec).status_code == 200

import argparse
import asyncio
import base64
import datetime as dt
import logging
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from feat_fed.protocol import BAD_SIGNATURE, UNKNOWN_KEY, WRONG_CLOCK
from feat_fed.report.links import Links
from feat_fed_server import door as door_module
from feat_fed_server.door import FLEET_PATHS, FleetDoor
from feat_fed_server.link_meter import LinkMeter
from feat_fed_server.superlink import flower_app

KEY, STRANGER = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
KEYS = {public_key_to_bytes(KEY.public_key()): "hospital-a"}
PULL = "/v1/fleet/pull-messages"


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
    status = {"/v1/fleet/activate-node": 403, "/v1/fleet/get-fab": 500}.get(scope["path"], 200)
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body})


def signed(
    key: ec.EllipticCurvePrivateKey = KEY,
    *,
    by: ec.EllipticCurvePrivateKey | None = None,
    skew_sec: float = 0,
) -> dict[str, str]:
    now = (dt.datetime.now(dt.UTC) + dt.timedelta(seconds=skew_sec)).isoformat()
    public = public_key_to_bytes(key.public_key())
    return {
        FLEET_HTTP_PUBLIC_KEY_HEADER: base64.b64encode(public).decode(),
        TIMESTAMP_HEADER: now,
        FLEET_HTTP_SIGNATURE_HEADER: base64.b64encode(
            sign_message(by or key, now.encode())
        ).decode(),
    }


def ask(*requests: dict[str, Any], app: ASGIApp = flower, **door: Any) -> list[httpx.Response]:
    """Make requests of one door, one after the other."""

    async def run() -> list[httpx.Response]:
        transport = httpx.ASGITransport(FleetDoor(app, site_of=KEYS.get, **door))
        async with httpx.AsyncClient(transport=transport, base_url="https://door") as client:
            return [
                await client.request(
                    **{"method": "POST", "url": PULL, "headers": signed(), "content": b"hello"} | it
                )
                for it in requests
            ]

    return asyncio.run(run())


def call(path: str, **how: Any) -> httpx.Response:
    [answer] = ask({"url": path, **how})
    return answer


@pytest.mark.parametrize(
    "path", sorted(FLEET_PATHS - {"/v1/fleet/activate-node", "/v1/fleet/get-fab"})
)
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


@pytest.mark.parametrize(
    "path",
    [
        "/v1/fleet/pull%2Dmessages",
        "/v1/fleet%2Fpull-messages",
        "/V1/fleet/pull-messages",
        "/v1/fleet/%2e%2e/control/start-run",
        "/v1/fleet/pull-messages;/v1/control/start-run",
        "/v1/fleet/pull-messages%00",
        "/v1/fleet/pull-messages?x=1",
        "/feat-fed/../v1/control/start-run",
    ],
)
def test_a_path_that_is_written_in_another_way_is_another_path(path: str) -> None:
    assert call(path).status_code == 404


def test_of_all_that_flower_serves_ten_calls_come_through(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x" * 32)
    arguments = argparse.Namespace(
        control_port=1, secret=str(tmp_path / "secret"), checkpoints=str(tmp_path)
    )
    served = flower_app(arguments).openapi()["paths"]
    pairs = {(method.upper(), path) for path, methods in served.items() for method in methods}
    asked = sorted(pairs | {("GET", "/docs"), ("GET", "/openapi.json"), ("POST", "/docs")})
    assert len(asked) > 50
    passed: list[str] = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        passed.append(scope["path"])
        await flower(scope, receive, send)

    for method, path in asked:
        ask({"method": method, "url": path}, app=note)
    assert sorted(passed) == sorted(FLEET_PATHS)


@pytest.mark.parametrize(("path", "status"), [("activate-node", 404), ("pull-messages", 401)])
@pytest.mark.parametrize("headers", [signed(STRANGER), {}, {"flwr-public-key": "?"}])
def test_a_stranger_is_told_that_its_key_is_unknown(
    path: str, status: int, headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    answer = call(f"/v1/fleet/{path}", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (status, UNKNOWN_KEY)
    assert answer.headers["connection"] == "close"
    assert "its key is not registered" in caplog.text


@pytest.mark.parametrize(("path", "status"), [("activate-node", 404), ("push-object", 401)])
def test_who_names_a_sites_key_must_have_signed_with_it(path: str, status: int) -> None:
    async def flower(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("it came through")

    for headers in (signed(by=STRANGER), signed() | {TIMESTAMP_HEADER: "2026-01-01T00:00:00Z"}):
        [answer] = ask({"url": f"/v1/fleet/{path}", "headers": headers}, app=flower)
        assert (answer.status_code, answer.json()["code"]) == (status, BAD_SIGNATURE)


def test_a_flood_of_a_stranger_is_cut_short_and_a_site_of_its_address_comes_through(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(door_module, "STRANGERS_PER_SEC", 0.0)
    flood = {"headers": signed(STRANGER)}
    *answers, site = ask(*[flood] * 100, {})
    counts = [sum(each.status_code == status for each in answers) for status in (401, 503)]
    assert counts == [60, 40]
    assert (site.status_code, site.content) == (200, b"hello")
    assert len(caplog.records) < 30


def test_a_site_that_asks_too_often_is_to_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "SITE_BURST", 3.0)
    monkeypatch.setattr(door_module, "SITE_PER_SEC", 0.0)
    assert [each.status_code for each in ask({}, {}, {}, {})] == [200, 200, 200, 503]


@pytest.mark.parametrize("length", ["8388609", "9" * 5000, "-1", "1e3", "²"])
def test_a_large_body_is_refused_by_its_header(length: str) -> None:
    headers = [*signed().items(), ("content-length", length.encode())]
    assert call("/v1/fleet/push-object", headers=headers, content=None).status_code == 413


def test_a_large_body_without_a_length_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b"x" * 50

    monkeypatch.setattr(door_module, "MAX_BODY_BYTES", 100)
    assert call("/v1/fleet/push-object", content=chunks()).status_code == 413


def test_a_site_is_never_answered_500(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("broken")

    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        return

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        raise TimeoutError

    assert call("/v1/fleet/get-fab").status_code == 503
    for app in (broken, silent, slow):
        [answer] = ask({}, app=app)
        assert answer.status_code == 503
    assert "Flower could not answer a call of hospital-a" in caplog.text
    assert "a call of hospital-a failed" in caplog.text


@pytest.mark.parametrize("size", [0, 1, 64 * 1024, 64 * 1024 + 1, 5 * 1024**2])
def test_an_answer_is_given_to_the_line_in_parts(size: int, tmp_path: Path) -> None:
    """uvicorn, given all of it at once, hangs up some seconds later, whether it has gone or not."""
    whole, sent = bytes(size), list[Message]()
    meter = LinkMeter(tmp_path / "links.json", clock=lambda: float(len(sent)))

    async def flower(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": whole})

    async def run() -> httpx.Response:
        door = FleetDoor(flower, site_of=KEYS.get, meter=meter)

        async def line(scope: Scope, receive: Receive, send: Send) -> None:
            async def noted(message: Message) -> None:
                await send(message)
                sent.append(message)

            await door(scope, receive, noted)

        transport = httpx.ASGITransport(line)
        async with httpx.AsyncClient(transport=transport, base_url="https://door") as client:
            return await client.post("/v1/fleet/pull-object", headers=signed())

    assert asyncio.run(run()).content == whole
    parts = [len(each["body"]) for each in sent[1:]]
    assert max(parts) <= 64 * 1024 and sum(parts) == size
    assert len(parts) == max(1, math.ceil(size / (64 * 1024)))
    link = meter.links().sites["hospital-a"]
    assert (link.down_bytes, link.down_sec) == (size, len(sent))  # and the way is measured


def test_a_site_that_hangs_up_is_no_failure_of_flowers(caplog: pytest.LogCaptureFixture) -> None:
    async def flower(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    arrives = [{"type": "http.request", "body": b"x", "more_body": True}]

    async def receive() -> Message:
        return arrives.pop() if arrives else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        pass

    headers = [(name.encode(), value.encode()) for name, value in signed().items()]
    path = "/v1/fleet/push-object"
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode()}
    scope |= {"query_string": b"", "headers": headers, "client": ("127.0.0.1", 1)}
    caplog.set_level(logging.INFO)
    asyncio.run(FleetDoor(flower, site_of=KEYS.get)(scope, receive, send))
    assert "hospital-a hung up in the middle of a call" in caplog.text
    assert "could not answer" not in caplog.text


def test_a_refusal_by_flower_leaves_a_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    assert call("/v1/fleet/activate-node").status_code == 403
    assert "hospital-a: its key is in use" in caplog.text


@pytest.mark.parametrize("skew_sec", [30, -400])
def test_a_wrong_clock_is_told_to_both_sides(
    skew_sec: float, caplog: pytest.LogCaptureFixture
) -> None:
    answer = call("/v1/fleet/activate-node", headers=signed(skew_sec=skew_sec))
    assert (answer.status_code, answer.json()["code"]) == (404, WRONG_CLOCK)
    assert "hospital-a: its clock differs by" in caplog.text


@pytest.mark.parametrize("skew_sec", [3, -200])
def test_a_clock_that_flower_takes_passes(skew_sec: float) -> None:
    assert call(PULL, headers=signed(skew_sec=skew_sec)).status_code == 200


def test_what_goes_over_the_wire_is_counted_by_site_and_leg(tmp_path: Path) -> None:
    path = tmp_path / "links.json"
    Links.model_validate({"sites": {"hospital-a": {"up_bytes": 7}}}).write(path)
    meter = LinkMeter(path)
    push, pull = (
        {"url": f"/v1/fleet/{it}-object", "content": b"x" * 40} for it in ("push", "pull")
    )
    ask(push, push, pull, {"content": b"y" * 1000}, meter=meter)
    meter.write()
    link = Links.read(path).sites["hospital-a"]
    assert (link.up_bytes, link.down_bytes) == (87, 40)


def test_seconds_count_once_where_parts_are_on_their_way_together(tmp_path: Path) -> None:
    now = 0.0
    meter = LinkMeter(tmp_path / "links.json", clock=lambda: now)
    first, second = meter.begin("a", "up"), meter.begin("a", "up")
    now = 2.0
    first.end()
    first.end()
    now = 3.0
    assert meter.links().sites["a"].up_sec == 3.0
    second.end()
    now = 9.0
    assert meter.links().sites["a"].up_sec == 3.0

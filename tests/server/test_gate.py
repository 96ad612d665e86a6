"""The gate on a real socket: who takes up places, and who gets one all the same."""

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from feat_fed.processes import free_port
from feat_fed_server import gate as gate_module
from feat_fed_server.certificates import TlsFiles, make_ca, make_server_certificate
from feat_fed_server.gate import Gate, GatedServer

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Streams]]
HEAD = b"POST / HTTP/1.1\r\nhost: x\r\n"
REQUEST = HEAD + b"content-length: 0\r\n\r\n"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(b"content-length", b"4")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"here"})


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    files = TlsFiles(tmp_path_factory.mktemp("tls"))
    make_ca(files)
    make_server_certificate(files, hosts=("127.0.0.1",))
    return files


def at_a_gate(tls: TlsFiles, story: Callable[[Connect, Gate, int], Awaitable[None]]) -> None:
    async def run() -> None:
        gate, port = Gate(), free_port()
        config = uvicorn.Config(
            app,
            port=port,
            lifespan="off",
            ws="none",
            log_config=None,
            ssl_certfile=tls.certificate,
            ssl_keyfile=tls.key,
            timeout_graceful_shutdown=1,
        )
        config.load()
        server = GatedServer(config, gate)
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        context = ssl.create_default_context(cafile=str(tls.ca_certificate))

        async def connect() -> Streams:
            return await asyncio.open_connection("127.0.0.1", port, ssl=context)

        try:
            await asyncio.wait_for(story(connect, gate, port), 30)
        finally:
            server.should_exit = True
            await serving

    asyncio.run(run())


async def answer(streams: Streams, request: bytes = REQUEST) -> bytes:
    reader, writer = streams
    writer.write(request)
    return await reader.readuntil(b"here")


async def end(streams: Streams) -> bytes:
    """Read until the other side hangs up."""
    try:
        return await streams[0].read()
    except ConnectionError:
        return b""
    finally:
        streams[1].close()


def trust_another_ca(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as plain, pytest.raises(ssl.SSLError):
        ssl.create_default_context().wrap_socket(plain, server_hostname="127.0.0.1")


def test_requests_come_through_one_after_the_other(tls: TlsFiles) -> None:
    async def story(connect: Connect, gate: Gate, port: int) -> None:
        streams = await connect()
        for _ in range(3):
            assert b"200 OK" in await answer(streams)
        assert b"200 OK" in await answer(streams, HEAD + b"x-long: " + b"y" * 15_000 + b"\r\n\r\n")
        streams[1].close()

    at_a_gate(tls, story)


def test_a_head_that_never_ends_is_cut_off(tls: TlsFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "HEAD_SEC", 0.3)

    async def story(connect: Connect, gate: Gate, port: int) -> None:
        silent, slow, second = [await connect() for _ in range(3)]
        await answer(second)
        for streams in (slow, second):
            streams[1].write(HEAD)
        for streams in (silent, slow, second):
            assert await end(streams) == b""
        large = await connect()
        large[1].write(HEAD + b"x: " + b"y" * gate_module.MAX_HEAD_BYTES)
        assert await end(large) == b""
        assert not gate.visitors

    at_a_gate(tls, story)


def test_who_never_shakes_hands_is_cut_off(
    tls: TlsFiles, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gate_module, "HANDSHAKE_SEC", 0.3)

    async def story(connect: Connect, gate: Gate, port: int) -> None:
        silent = await asyncio.open_connection("127.0.0.1", port)
        assert await end(silent) == b""
        plain = await asyncio.open_connection("127.0.0.1", port)
        plain[1].write(REQUEST)
        await end(plain)
        await asyncio.to_thread(trust_another_ca, port)
        await asyncio.sleep(0.1)
        assert not gate.visitors

    at_a_gate(tls, story)
    assert "turned away 127.0.0.1: it spoke plain HTTP" in caplog.text
    assert "turned away 127.0.0.1: it does not trust this server's certificate" in caplog.text


def test_strangers_make_room_and_a_site_keeps_its_place(
    tls: TlsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_module, "MAX_CONNECTIONS_EACH", 4)

    async def story(connect: Connect, gate: Gate, port: int) -> None:
        site = await connect()
        gate.prove(site[1].get_extra_info("sockname"))
        strangers = [await connect() for _ in range(3)]
        shaking = await asyncio.open_connection("127.0.0.1", port)  # makes no room for itself
        assert await end(strangers[0]) == b""
        newcomer = await connect()
        assert b"200 OK" in await answer(newcomer)
        for _ in range(3):
            strangers.append(await connect())
        assert await end(shaking) == b""
        assert len(gate.visitors) == 4
        assert b"200 OK" in await answer(site)
        for streams in (site, newcomer, *strangers):
            streams[1].close()

    at_a_gate(tls, story)


def test_sites_that_fill_all_places_keep_them(
    tls: TlsFiles, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gate_module, "MAX_CONNECTIONS", 2)
    caplog.set_level(logging.WARNING)

    async def story(connect: Connect, gate: Gate, port: int) -> None:
        sites = [await connect() for _ in range(2)]
        for each in sites:
            gate.prove(each[1].get_extra_info("sockname"))
        with pytest.raises((ConnectionError, ssl.SSLError)):
            await connect()
        for each in sites:
            assert b"200 OK" in await answer(each)
            each[1].close()

    at_a_gate(tls, story)
    assert "too many connections" in caplog.text


def test_a_flood_of_connections_is_not_even_shaken_hands_with(
    tls: TlsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_module, "CONNECTIONS_BURST", 5.0)
    monkeypatch.setattr(gate_module, "CONNECTIONS_PER_SEC", 0.0)

    async def story(connect: Connect, gate: Gate, port: int) -> None:
        taken = [await connect() for _ in range(5)]
        with pytest.raises((ConnectionError, ssl.SSLError)):
            await connect()
        for each in taken:
            assert b"200 OK" in await answer(each)
            each[1].close()

    at_a_gate(tls, story)

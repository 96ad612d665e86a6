"""The door's probe: for registered sites that sign alone, and bounded."""

import asyncio
import base64
import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from starlette.types import Receive, Scope, Send

from feat_fed.protocol import (
    BAD_SIGNATURE,
    MAX_PROBE_BYTES,
    PROBE_ANSWER_HEADER,
    PROBE_BYTES_HEADER,
    PROBE_PATH,
    TOO_OFTEN,
    UNKNOWN_KEY,
    WRONG_CLOCK,
    ProbeAnswer,
    parse_header,
)
from feat_fed_server import probe
from feat_fed_server.door import FleetDoor

KEYS = {name: ec.generate_private_key(ec.SECP384R1()) for name in ("a", "b", "c", "stranger")}
SITES = {public_key_to_bytes(KEYS[name].public_key()): name for name in ("a", "b", "c")}

Ask = Callable[..., Awaitable[httpx.Response]]


async def flower(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("a probe is none of Flower's business")


def signed(name: str, *, by: str | None = None, skew_sec: float = 0) -> dict[str, str]:
    now = (dt.datetime.now(dt.UTC) + dt.timedelta(seconds=skew_sec)).isoformat()
    signature = sign_message(KEYS[by or name], now.encode())
    key = public_key_to_bytes(KEYS[name].public_key())
    return {
        FLEET_HTTP_PUBLIC_KEY_HEADER: base64.b64encode(key).decode(),
        TIMESTAMP_HEADER: now,
        FLEET_HTTP_SIGNATURE_HEADER: base64.b64encode(signature).decode(),
    }


def at_a_door(story: Callable[[Ask], Awaitable[Any]]) -> Any:
    """Let ``story`` make requests of one door."""

    async def run() -> Any:
        door = FleetDoor(flower, site_of=SITES.get)
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(door), base_url="https://door"
        ) as client:

            async def ask(
                headers: dict[str, str], *, content: Any = b"", down: object = 0
            ) -> httpx.Response:
                headers = headers | {PROBE_BYTES_HEADER: str(down)}
                return await client.post(PROBE_PATH, headers=headers, content=content)

            return await story(ask)

    return asyncio.run(run())


def once(headers: dict[str, str], **how: Any) -> httpx.Response:
    async def story(ask: Ask) -> httpx.Response:
        return await ask(headers, **how)

    return at_a_door(story)  # type: ignore[no-any-return]


def test_bytes_are_counted_and_as_many_as_asked_for_come_back() -> None:
    answer = once(signed("a"), content=b"x" * 100_000, down=70_000)
    told = parse_header(ProbeAnswer, answer.headers[PROBE_ANSWER_HEADER])
    assert (answer.status_code, len(answer.content)) == (200, 70_000)
    assert (told.site, told.received_bytes) == ("a", 100_000)
    assert told.versions.flwr == "1.41.0"
    assert len(set(answer.content)) == 256  # nothing that compresses


@pytest.mark.parametrize("down", [MAX_PROBE_BYTES + 1, 99 * MAX_PROBE_BYTES])
def test_no_more_comes_back_than_the_bound(down: int) -> None:
    assert len(once(signed("a"), down=down).content) == MAX_PROBE_BYTES


@pytest.mark.parametrize("down", ["-5", "many", "9" * 5000, "1e3"])
def test_a_number_that_is_none_counts_as_nothing(down: str) -> None:
    assert once(signed("a"), down=down).content == b""


def code_of(answer: httpx.Response) -> tuple[int, int]:
    return answer.status_code, answer.json()["code"]


def test_a_stranger_gets_nothing() -> None:
    assert code_of(once(signed("stranger"), down=1000)) == (401, UNKNOWN_KEY)
    assert code_of(once({}, down=1000)) == (401, UNKNOWN_KEY)


def test_a_registered_key_must_have_signed() -> None:
    assert code_of(once(signed("a", by="stranger"), down=1000)) == (401, BAD_SIGNATURE)
    unsigned = signed("a")
    del unsigned[FLEET_HTTP_SIGNATURE_HEADER]
    assert code_of(once(unsigned, down=1000)) == (401, BAD_SIGNATURE)
    of_another_time = signed("a") | {TIMESTAMP_HEADER: dt.datetime.now(dt.UTC).isoformat()}
    assert code_of(once(of_another_time, down=1000)) == (401, BAD_SIGNATURE)
    without_time = signed("a")
    del without_time[TIMESTAMP_HEADER]
    assert code_of(once(without_time, down=1000)) == (401, BAD_SIGNATURE)


@pytest.mark.parametrize("skew_sec", [30, -400])
def test_an_old_signature_does_not_count(skew_sec: float) -> None:
    assert code_of(once(signed("a", skew_sec=skew_sec))) == (503, WRONG_CLOCK)


def test_a_large_body_is_refused_by_its_header() -> None:
    assert once(signed("a"), content=b"x" * (MAX_PROBE_BYTES + 1)).status_code == 413


def test_a_large_body_without_a_length_is_cut_off() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(9):
            yield b"x" * 1024**2

    assert once(signed("a"), content=chunks(), down=1000).status_code == 413


def test_a_site_has_one_at_a_time_and_all_of_them_two() -> None:
    async def story(ask: Ask) -> None:
        goes_on = asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield b"x"
            await goes_on.wait()

        first = asyncio.create_task(ask(signed("a"), content=slow()))
        await asyncio.sleep(0.2)
        assert code_of(await ask(signed("a"))) == (429, TOO_OFTEN)
        second = asyncio.create_task(ask(signed("b"), content=slow()))
        await asyncio.sleep(0.2)
        assert code_of(await ask(signed("c"))) == (429, TOO_OFTEN)
        goes_on.set()
        assert {(await each).status_code for each in (first, second)} == {200}
        assert (await ask(signed("c"))).status_code == 200

    at_a_door(story)


def test_a_site_has_a_few_a_minute() -> None:
    async def story(ask: Ask) -> list[int]:
        headers = signed("a")
        return [(await ask(headers)).status_code for _ in range(probe.PROBES_PER_MINUTE + 2)]

    assert at_a_door(story) == [200] * probe.PROBES_PER_MINUTE + [429, 429]


def test_who_is_too_slow_is_cut_off_and_frees_the_place(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(ask: Ask) -> httpx.Response:
        async def never() -> AsyncIterator[bytes]:
            yield b"x"
            await asyncio.Event().wait()

        monkeypatch.setattr(probe, "DEADLINE_SEC", 0.1)
        assert (await ask(signed("a"), content=never())).status_code == 408
        monkeypatch.setattr(probe, "DEADLINE_SEC", 30)
        return await ask(signed("a"))

    assert at_a_door(story).status_code == 200
    assert "a hung up, or was too slow" in caplog.text

"""Bad HTTP, and clients that leave: a clear answer to each, nothing crashes, nothing leaks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from aoai_operator.simulator import Blackhole, Simulator, Slow, Stall
from support.bad_input import (
    ACTIVE,
    BODY,
    JSON,
    KEY,
    V1,
    nothing_active,
    status_and_body,
    two_pools,
    two_regions,
)
from support.calls import HELLO, ask, head, heal, last, raw, requests
from support.dataplane import DataPlane
from support.manifests import TENANT_KEY
from support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def azure() -> AsyncIterator[Simulator]:
    async with two_regions() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(azure: Simulator) -> AsyncIterator[DataPlane]:
    async with two_pools(azure) as running:
        yield running


@pytest.fixture(autouse=True)
def healed(azure: Simulator) -> None:
    heal(azure)


async def test_a_hundred_headers(gateway: DataPlane) -> None:
    async with gateway.client(default_headers={f"x-custom-{n}": "v" * 50 for n in range(100)}) as client:
        assert await ask(client)


async def test_too_many_headers_are_431(gateway: DataPlane) -> None:
    async with gateway.http(headers={f"x-custom-{n}": "v" for n in range(300)}) as client:
        answer = await client.post(V1, content=BODY)
    assert answer.status_code == 431


async def test_a_huge_header_is_431(gateway: DataPlane) -> None:
    async with gateway.http(headers={"x-custom": "v" * 200_000}) as client:
        answer = await client.post(V1, content=BODY)
    assert answer.status_code == 431


async def test_a_body_shorter_than_its_content_length_waits_and_leaves_nothing(
    gateway: DataPlane, azure: Simulator
) -> None:
    reader, writer = await asyncio.open_connection(*gateway.address)
    writer.write(head("POST", V1, [KEY, JSON, ("content-length", str(len(BODY) + 10))]) + BODY)
    await writer.drain()

    async def active() -> bool:
        return sum((await gateway.stats(ACTIVE)).values()) == 1

    await eventually(active)
    writer.write_eof()
    answer = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    assert answer == b"" or status_and_body(answer)[0] == 400
    await nothing_active(gateway)
    assert not requests(azure)


async def test_a_body_longer_than_its_content_length_is_cut_there(gateway: DataPlane, azure: Simulator) -> None:
    sent = head("POST", V1, [KEY, JSON, ("content-length", str(len(BODY)))]) + BODY + b"surplus"
    status, _ = status_and_body(await raw(gateway.address, sent))
    assert status == 200
    assert last(azure).body == BODY


@pytest.mark.parametrize("length", ["-1", "abc", "1, 2", "99999999999999999999"])
async def test_a_content_length_that_is_no_number_is_400(gateway: DataPlane, azure: Simulator, length: str) -> None:
    status, _ = status_and_body(await raw(gateway.address, head("POST", V1, [KEY, JSON, ("content-length", length)])))
    assert status == 400
    assert not requests(azure)


async def test_smuggling_by_two_lengths_is_refused(gateway: DataPlane, azure: Simulator) -> None:
    for more in (("transfer-encoding", "chunked"), ("content-length", "3")):
        sent = head("POST", V1, [KEY, JSON, ("content-length", str(len(BODY))), more]) + BODY
        status, _ = status_and_body(await raw(gateway.address, sent))
        assert status == 400
    assert not requests(azure)


@pytest.mark.parametrize("chunks", [b"zz\r\n", b"5\r\nabc", b"-1\r\n\r\n", b"ffffffffffffffffff\r\n"])
async def test_broken_chunks_are_400_and_reach_nobody(gateway: DataPlane, azure: Simulator, chunks: bytes) -> None:
    reader, writer = await asyncio.open_connection(*gateway.address)
    writer.write(head("POST", V1, [KEY, JSON, ("transfer-encoding", "chunked")]) + chunks)
    writer.write_eof()
    answer = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    assert answer == b"" or status_and_body(answer)[0] == 400
    await nothing_active(gateway)
    assert not requests(azure)


async def test_http_1_0(gateway: DataPlane) -> None:
    sent = head("POST", V1, [KEY, JSON, ("content-length", str(len(BODY)))], version="HTTP/1.0") + BODY
    status, body = status_and_body(await raw(gateway.address, sent))
    assert status == 200
    assert json.loads(body)["choices"]
    nameless = f"POST {V1} HTTP/1.0\r\napi-key: {TENANT_KEY}\r\ncontent-length: {len(BODY)}\r\n\r\n".encode() + BODY
    assert status_and_body(await raw(gateway.address, nameless))[0] == 200


async def test_http_1_0_streams(gateway: DataPlane) -> None:
    body = json.dumps({"model": "gpt-4o", "messages": HELLO, "stream": True}).encode()
    sent = head("POST", V1, [KEY, JSON, ("content-length", str(len(body)))], version="HTTP/1.0") + body
    status, events = status_and_body(await raw(gateway.address, sent))
    assert status == 200
    assert events.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("line", ["GET /", "GET / HTTP/9.9", "\x16\x03\x01\x02", "POST  HTTP/1.1", "é / HTTP/1.1"])
async def test_what_is_not_http_is_refused(gateway: DataPlane, line: str) -> None:
    answer = await raw(gateway.address, f"{line}\r\nhost: x\r\n\r\n".encode())
    assert answer == b"" or status_and_body(answer)[0] in (400, 426, 404)


async def test_http_2(gateway: DataPlane) -> None:
    answer = await raw(gateway.address, *http2_request(V1, BODY), marker=b'"choices"')
    assert b'"choices"' in answer


def http2_request(path: str, body: bytes) -> tuple[bytes, ...]:
    """Return an HTTP/2 request by prior knowledge: preface, settings, and a POST with literal headers (RFC 9113)."""

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload

    def literal(name: str, value: str) -> bytes:
        return b"".join([b"\x00", *(len(t).to_bytes(1) + t.encode() for t in (name, value))])

    headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "gateway"),
        KEY,
        JSON,
        ("content-length", str(len(body))),
    ]
    return (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b""),
        frame(1, 0x4, 1, b"".join(literal(*h) for h in headers)) + frame(0, 0x1, 1, body),
    )


async def test_a_client_that_leaves_before_the_answer_leaves_nothing(gateway: DataPlane, azure: Simulator) -> None:
    for name in azure.regions:
        azure.fault(name, Blackhole())
    async with gateway.client() as client:
        asking = asyncio.create_task(ask(client))
        await eventually(lambda: requests(azure))
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    await nothing_active(gateway)
    await eventually(lambda: sum(r.counts.abandoned for r in azure.regions.values()) == 1)


async def test_a_client_that_leaves_midway_through_its_body_leaves_nothing(
    gateway: DataPlane, azure: Simulator
) -> None:
    _, writer = await asyncio.open_connection(*gateway.address)
    writer.write(head("POST", V1, [KEY, JSON, ("content-length", "1000000")]) + b'{"model":"gpt-4o"' + b" " * 5000)
    await writer.drain()

    async def active() -> bool:
        return sum((await gateway.stats(ACTIVE)).values()) > 0

    await eventually(active)
    writer.transport.abort()
    await nothing_active(gateway)
    assert not requests(azure)


async def test_a_client_that_leaves_a_stream_ends_it_at_azure(gateway: DataPlane, azure: Simulator) -> None:
    for name in azure.regions:
        azure.fault(name, Stall(after=3))
    async with gateway.client() as client:
        stream = await client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
        await anext(stream)
        await stream.close()
    await nothing_active(gateway)
    await eventually(lambda: sum(r.counts.abandoned for r in azure.regions.values()) == 1)


async def test_many_clients_that_leave_leave_nothing(gateway: DataPlane, azure: Simulator) -> None:
    for name in azure.regions:
        azure.fault(name, Slow(seconds=0.05))
    async with gateway.client() as client:
        asking = [asyncio.create_task(ask(client)) for _ in range(100)]
        await eventually(lambda: len(requests(azure)) >= 20)
        for one in asking:
            one.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    await nothing_active(gateway)

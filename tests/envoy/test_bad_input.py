"""Bad input tried: a clear answer to each, nothing crashes, nothing leaks."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator

import httpx
import openai
import pytest
import pytest_asyncio

from aoai_operator.simulator import Blackhole, Deployment, Region, Simulator, Slow, Stall
from support.calls import HELLO, ask, head, last, raw, requests
from support.dataplane import DataPlane
from support.manifests import TENANT_KEY, pool_manifest
from support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

V1 = "/ai/chat/openai/v1/chat/completions"
BY_PATH = "/ai/chat/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
JSON = ("content-type", "application/json")
KEY = ("api-key", TENANT_KEY)
BODY = json.dumps({"model": "gpt-4o", "messages": HELLO}).encode()
ACTIVE = r"http\.default\.downstream_rq_active$|cluster\.ai/.*upstream_rq_(pending_)?active$"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def azure() -> AsyncIterator[Simulator]:
    """One region with a model under its own name and one under another."""
    deployments = [
        Deployment(name="gpt-4o", model="gpt-4o", context_tokens=10_000_000),
        Deployment(name="own-eastus", model="own", context_tokens=10_000_000),
        Deployment(name="embed", model="embed", kind="embeddings"),
    ]
    more = [
        Deployment(name="gpt-4o", model="gpt-4o", context_tokens=10_000_000),
        Deployment(name="own-westus", model="own", context_tokens=10_000_000),
    ]
    async with Simulator(
        [
            Region(name="eastus", deployments=deployments, log_body_bytes=16 << 20),
            Region(name="westus", deployments=more, log_body_bytes=16 << 20),
        ]
    ) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(azure: Simulator) -> AsyncIterator[DataPlane]:
    """A pool that takes up to 11 MB, and one that takes up to 64 KiB."""
    small = pool_manifest(
        azure, name="small", tenants={"other": "other-key-0123456789"}, spec={"limits": {"maxRequestBytes": "64Ki"}}
    )
    large = pool_manifest(azure, spec={"limits": {"maxRequestBytes": "11Mi"}})
    async with DataPlane(f"{large}---\n{small}") as running:
        yield running


@pytest.fixture(autouse=True)
def healed(azure: Simulator) -> None:
    """Start each test with healthy regions."""
    for name in azure.regions:
        azure.heal(name)
    azure.reset_counts()


async def post(gateway: DataPlane, body: bytes, path: str = V1, **headers: str) -> httpx.Response:
    """Send a body as it is."""
    async with gateway.http() as client:
        return await client.post(path, content=body, headers={"content-type": "application/json", **headers})


def error_of(answer: httpx.Response) -> dict[str, str]:
    """Return the error of an answer that must be shaped as OpenAI's."""
    assert answer.headers["content-type"].startswith("application/json")
    error: dict[str, str] = answer.json()["error"]
    assert set(error) >= {"message", "type", "param", "code"}
    assert error["message"]
    return error


def status_and_body(answer: bytes) -> tuple[int, bytes]:
    """Return status and body of a raw answer."""
    top, _, body = answer.partition(b"\r\n\r\n")
    return int(top.split()[1]), body


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"not json",
        b"[]",
        b"null",
        b'"model"',
        b"{}",
        b'{"messages":[]}',
        b'{"model":null}',
        b'{"model":7}',
        b'{"model":["gpt-4o"]}',
        b'{"model":{"model":"gpt-4o"}}',
        b'{"messages":[{"model":"gpt-4o"}]}',
        b'{"a":"\\"model\\":\\"gpt-4o\\""}',
        b'{"model":""}',
        b'{"model":"gpt-4o","model":"own"}',
        b'{"model":"gpt-4o',
        b"\xff\xfe{\x00",
        b"\x00" * 1000,
        b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
        b'"' * 50_001,
        b'{"model"' * 2_000,
    ],
    ids=lambda body: repr(body[:30]),
)
async def test_a_body_without_a_plain_model_is_a_bad_request(gateway: DataPlane, azure: Simulator, body: bytes) -> None:
    answer = await post(gateway, body)
    assert 400 <= answer.status_code < 500, answer.text
    error_of(answer)
    assert not requests(azure)


async def test_invalid_json_with_a_model_is_for_azure_to_judge(gateway: DataPlane, azure: Simulator) -> None:
    answer = await post(gateway, b'{"model":"gpt-4o", oops}')
    assert answer.status_code == 400
    assert last(azure).body == b'{"model":"gpt-4o", oops}'


@pytest.mark.parametrize(
    "body",
    [
        b'{"mod\\u0065l":"own","model":"gpt-4o","messages":[]}',
        b'{"model":"gpt-4o","mod\\u0065l":"own","messages":[]}',
        b'{"mod\\u0065l":"own"}',
        b'{"\\u006dodel" :"own","model":"gpt-4o"}',
        b'{"\\u006D\\u006f\\u0064\\u0065\\u006c":"own","model":"gpt-4o"}',
    ],
)
async def test_an_escaped_key_is_no_way_around_the_check(gateway: DataPlane, azure: Simulator, body: bytes) -> None:
    answer = await post(gateway, body)
    assert answer.status_code == 400
    assert error_of(answer)["code"] == "escaped_key"
    assert not requests(azure)


async def test_an_escaped_model_is_unknown(gateway: DataPlane, azure: Simulator) -> None:
    answer = await post(gateway, b'{"model":"gpt\\u002d4o","messages":[]}')
    assert answer.status_code in (400, 404)
    error_of(answer)
    assert not requests(azure)


async def test_escapes_in_texts_pass(gateway: DataPlane, azure: Simulator) -> None:
    body = b'{"messages":[{"role":"user","content":"\\u0065 \\u00e9 \\ud83d\\ude00 \\\\u0065\\":"}],"model":"own"}'
    answer = await post(gateway, body)
    assert answer.status_code == 200, answer.text
    assert last(azure).body == body.replace(b'"own"', f'"own-{last(azure).region}"'.encode())


async def test_unicode_models_are_told_back_as_unknown(gateway: DataPlane) -> None:
    async with gateway.client() as client:
        for name in ("模型", "gpt-4o\u202e", "é" * 500, "a\nb", 'a"b\\', "\x7f", "../gpt-4o", "gpt-4o/../own"):
            with pytest.raises(openai.APIStatusError) as error:
                await ask(client, name)
            assert error.value.status_code in (400, 404)
            assert error.value.code in ("DeploymentNotFound", "missing_model")
    async with gateway.azure_client() as client:
        for name in ("模型", "a b", "a%b", "é" * 500):
            with pytest.raises(openai.NotFoundError):
                await ask(client, name)


async def test_a_body_of_ten_megabytes(gateway: DataPlane, azure: Simulator) -> None:
    body = b'{"messages":[{"role":"user","content":"' + b"x" * 10_000_000 + b'"}],"model":"own"}'
    answer = await post(gateway, body)
    assert answer.status_code == 200
    assert len(last(azure).body) == len(body) + len(last(azure).deployment) - len("own")


@pytest.mark.parametrize("path", [V1, BY_PATH, "/ai/chat/openai/deployments/embed/embeddings?api-version=2024-10-21"])
async def test_a_body_above_the_limit_is_413(gateway: DataPlane, azure: Simulator, path: str) -> None:
    path = path.replace("/ai/chat/", "/ai/small/")
    body = b'{"input":"x","model":"gpt-4o","messages":[{"role":"user","content":"' + b"x" * 70_000 + b'"}]}'

    async def parts() -> AsyncIterator[bytes]:
        yield body

    async with gateway.http(key="other-key-0123456789") as client:
        for content in (body, parts()):
            answer = await client.post(path, content=content, headers={"content-type": "application/json"})
            assert answer.status_code == 413
            assert error_of(answer)["code"] == "request_too_large"
    assert not requests(azure)


@pytest.mark.parametrize("size", [70_000, 5_000_000])
async def test_the_sdk_raises_413(gateway: DataPlane, size: int) -> None:
    async with (
        gateway.client(pool="ai/small", key="other-key-0123456789") as v1,
        gateway.azure_client(pool="ai/small", key="other-key-0123456789") as by_path,
    ):
        for client in (v1, by_path):
            with pytest.raises(openai.APIStatusError) as error:
                await client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "x" * size}])
            assert error.value.status_code == 413
            assert error.value.code == "request_too_large"


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


async def test_a_compressed_body_is_not_read_as_json(gateway: DataPlane, azure: Simulator) -> None:
    answer = await post(gateway, gzip.compress(BODY), **{"content-encoding": "gzip"})
    assert 400 <= answer.status_code < 500
    error_of(answer)
    assert not requests(azure)


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


@pytest.mark.parametrize(
    "path",
    [
        "/ai/chat/../../etc/passwd",
        "/ai/chat/openai/../../../v1",
        "/ai/chat/%2e%2e/%2e%2e/secret",
        "/ai/chat/openai/deployments/gpt-4o%2Fchat/completions",
        "/ai%2Fchat/openai/v1/chat/completions",
        "/ai/chat/openai%5Cv1/chat/completions",
        "/ai/chat/openai/deployments/../v1x/chat",
        "/%00/openai",
    ],
)
async def test_path_traversal_gets_nowhere(gateway: DataPlane, azure: Simulator, path: str) -> None:
    sent = head("POST", path, [KEY, JSON, ("content-length", str(len(BODY)))]) + BODY
    answer = await raw(gateway.address, sent)
    status, body = status_and_body(answer)
    assert status in (400, 404), answer
    assert not body or json.loads(body)["error"]["message"]
    assert not [r for r in requests(azure) if not r.path.startswith("/openai/")]


async def test_a_path_cannot_change_pools_after_the_check(gateway: DataPlane, azure: Simulator) -> None:
    for path in ("/ai/chat/../small/openai/v1/chat/completions", "/ai/chat/%2e%2e/small/openai/v1/chat/completions"):
        sent = head("POST", path, [KEY, JSON, ("content-length", str(len(BODY)))]) + BODY
        assert status_and_body(await raw(gateway.address, sent))[0] == 401
    assert not requests(azure)


async def test_double_slashes_are_one(gateway: DataPlane, azure: Simulator) -> None:
    sent = head("POST", "//ai//chat//openai//v1//chat//completions", [KEY, JSON, ("content-length", str(len(BODY)))])
    assert status_and_body(await raw(gateway.address, sent + BODY))[0] == 200
    assert last(azure).path == "/openai/v1/chat/completions"


async def test_multipart_on_v1_is_a_clear_no(gateway: DataPlane, azure: Simulator) -> None:
    async with gateway.client() as client:
        with pytest.raises(openai.APIStatusError) as error:
            await client.audio.transcriptions.create(model="gpt-4o", file=("a.wav", b"RIFF" * 100))
    assert error.value.status_code in (400, 404)
    assert error.value.code
    assert not requests(azure)


async def test_multipart_by_path_passes(gateway: DataPlane, azure: Simulator) -> None:
    async with gateway.azure_client() as client:
        with pytest.raises(openai.APIStatusError):
            await client.audio.transcriptions.create(model="gpt-4o", file=("a.wav", b"RIFF" * 100))
    assert last(azure).path == "/openai/deployments/gpt-4o/audio/transcriptions"
    assert b"RIFF" * 100 in last(azure).body


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


async def nothing_active(gateway: DataPlane) -> None:
    """Wait until Envoy has no request under way, towards either side."""

    async def idle() -> bool:
        return not any((await gateway.stats(ACTIVE)).values())

    await eventually(idle, within=5, what="no request is active")

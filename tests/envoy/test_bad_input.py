"""Bad bodies, models and paths: a clear answer to each, nothing crashes, nothing leaks."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator

import openai
import pytest
import pytest_asyncio

from aoai_operator.simulator import Simulator
from support.bad_input import (
    BODY,
    BY_PATH,
    JSON,
    KEY,
    V1,
    error_of,
    post,
    status_and_body,
    two_pools,
    two_regions,
)
from support.calls import ask, head, heal, last, raw, requests
from support.dataplane import DataPlane

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


async def test_a_compressed_body_is_not_read_as_json(gateway: DataPlane, azure: Simulator) -> None:
    answer = await post(gateway, gzip.compress(BODY), **{"content-encoding": "gzip"})
    assert 400 <= answer.status_code < 500
    error_of(answer)
    assert not requests(azure)


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

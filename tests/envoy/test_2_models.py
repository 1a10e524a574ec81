"""Line 2: the model from path, body or query, to the endpoint's own deployment; fallback models; GET models."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import openai
import pytest
import pytest_asyncio

from aoai_operator.core.names import HostKey, PoolKey
from aoai_operator.core.observed import HostState, Reason, State
from aoai_operator.simulator import Deployment, Region, Simulator, Throttle
from support.calls import HELLO, ask, heal, last, requests
from support.dataplane import DataPlane
from support.manifests import pool_manifest, secret, tenant_quota, to_yaml
from support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

SMALL_KEY = "small-key-0123456789"
V1 = "/ai/chat/openai/v1/chat/completions"
MODELS = ["gpt-4o", "common", "big", "mini", "embed", "image"]
"""gpt-4o is deployed under its own name everywhere, common under one other name, big under another name in each."""


def deployments(region: str) -> list[Deployment]:
    """Return the deployments of a region."""
    return [
        Deployment(name="gpt-4o", model="gpt-4o", context_tokens=10_000_000),
        Deployment(name="common-v2", model="common", context_tokens=10_000_000),
        Deployment(name=f"big-{region}", model="big", context_tokens=10_000_000),
        Deployment(name="mini", model="mini"),
        Deployment(name="embed", model="embed", kind="embeddings"),
        Deployment(name="image", model="image", kind="images"),
    ]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def azure() -> AsyncIterator[Simulator]:
    """Two regions."""
    regions = [
        Region(name=n, deployments=deployments(n), log_body_bytes=32 << 20, log_size=20) for n in ("eastus", "westus")
    ]
    async with Simulator(regions) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(azure: Simulator) -> AsyncIterator[DataPlane]:
    """One pool, with a tenant of all models, and one of gpt-4o alone."""
    models = {m: ["mini"] if m == "big" else [] for m in MODELS}
    pool = pool_manifest(azure, models=models, spec={"gateway": {"hostnames": ["chat.ai.svc"]}})
    small = to_yaml([tenant_quota("small", "chat", models=["gpt-4o"]), secret("small-key", SMALL_KEY)])
    async with DataPlane(f"{pool}---\n{small}") as running:
        yield running


@pytest.fixture(autouse=True)
def healed(azure: Simulator) -> None:
    heal(azure)


@pytest.mark.parametrize("model", ["gpt-4o", "common", "big"])
async def test_the_model_in_the_path(gateway: DataPlane, azure: Simulator, model: str) -> None:
    async with gateway.azure_client() as client:
        assert await ask(client, model)
    seen = last(azure)
    wanted = {"gpt-4o": "gpt-4o", "common": "common-v2", "big": f"big-{seen.region}"}[model]
    assert seen.path == f"/openai/deployments/{wanted}/chat/completions"
    assert seen.query == "api-version=2024-10-21"
    assert seen.json()["model"] == wanted


@pytest.mark.parametrize("model", ["gpt-4o", "common", "big"])
async def test_the_model_in_the_body(gateway: DataPlane, azure: Simulator, model: str) -> None:
    async with gateway.client() as client:
        assert await ask(client, model)
    seen = last(azure)
    assert seen.path == "/openai/v1/chat/completions"
    assert seen.json()["model"] == {"gpt-4o": "gpt-4o", "common": "common-v2", "big": f"big-{seen.region}"}[model]


@pytest.mark.parametrize("parameter", ["model", "deployment"])
async def test_the_model_in_the_query_of_a_body_that_names_none(
    gateway: DataPlane, azure: Simulator, parameter: str
) -> None:
    async with gateway.http() as client:
        body = {"messages": [{"role": "user", "content": "Hello"}]}
        await client.post(f"/ai/chat/openai/v1/chat/completions?{parameter}=common", json=body)
    entry = await eventually(lambda: [a for a in gateway.answers_log if a.endpoint and a.model == "common"])
    assert entry


async def test_the_model_in_the_body_counts_and_not_the_query(gateway: DataPlane, azure: Simulator) -> None:
    async with gateway.client() as client:
        assert await ask(client, "mini", extra_query={"model": "common"})
    assert last(azure).deployment == "mini"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "files?model=mini"),
        ("DELETE", "files/file-1?model=mini"),
        ("GET", "responses/resp_1?model=mini"),
        ("GET", "chat/completions?model=mini"),
        ("POST", "batches?model=mini"),
    ],
)
async def test_what_is_no_inference_does_not_reach_azure(
    gateway: DataPlane, azure: Simulator, method: str, path: str
) -> None:
    before = sum(region.attempts for region in azure.regions.values())
    async with gateway.http() as client:
        answer = await client.request(method, f"/ai/chat/openai/v1/{path}", json={"model": "mini"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_operation")
    assert sum(region.attempts for region in azure.regions.values()) == before


@pytest.mark.parametrize("size", [2_000, 29_000, 180_000, 2_000_000, 20_000_000])
@pytest.mark.parametrize("model", ["gpt-4o", "common", "big"])
@pytest.mark.parametrize("last_member", [False, True])
async def test_bodies_of_all_sizes_arrive_byte_for_byte(
    gateway: DataPlane, azure: Simulator, model: str, size: int, last_member: bool
) -> None:
    named = f'"model" : "{model}"'
    content = 'long \\u00e9 é € 😀 \\"model\\": \\"x\\" ' * (size // 40)
    other = (
        '"zeta":1.0e+2,"alpha":-0.50,"big":12345678901234567890,"tools":[{"type":"function","function":'
        '{"name":"f","parameters":{"type":"object","properties":{"model":{"type":"string"},"a":{}}}}}],'
        f'  "max_tokens":5,"messages":[{{"model":"inner","role":"user","content":"{content}"}}]'
    )
    body = f" {{{other} , {named} }}\n" if last_member else f"{{\r\n\t{named},{other}}}"
    async with gateway.http() as client:
        answer = await client.post(V1, content=body.encode(), headers={"content-type": "application/json"})
    assert answer.status_code == 200, answer.text
    seen = last(azure)
    deployment = {"gpt-4o": "gpt-4o", "common": "common-v2", "big": f"big-{seen.region}"}[model]
    assert seen.body == body.replace(named, f'"model" : "{deployment}"').encode()


async def test_chunked_bodies_are_rewritten(gateway: DataPlane, azure: Simulator) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b'{"messages":[{"role":"user","content":"'
        for _ in range(100):
            yield b"x" * 1000
        yield b'"}],"model":"big"}'

    async with gateway.http() as client:
        answer = await client.post(V1, content=parts(), headers={"content-type": "application/json"})
    assert answer.status_code == 200
    assert last(azure).json()["model"] == f"big-{last(azure).region}"


async def test_a_retry_carries_the_next_endpoints_deployment(gateway: DataPlane, azure: Simulator) -> None:
    azure.fault("eastus", Throttle())
    for client in (gateway.client(), gateway.azure_client()):
        async with client:
            for _ in range(4):
                assert await ask(client, "big")
    seen = [r for r in requests(azure) if r.status == 200]
    assert len(seen) == 8
    assert {(r.region, r.deployment, r.json()["model"]) for r in seen} == {("westus", "big-westus", "big-westus")}
    tried = [r for r in requests(azure) if r.status == 429]
    assert {(r.region, r.deployment, r.json()["model"]) for r in tried} == {("eastus", "big-eastus", "big-eastus")}


async def test_every_operation_reaches_its_model(gateway: DataPlane, azure: Simulator) -> None:
    async with gateway.client() as client:
        vectors = await client.embeddings.create(model="embed", input=["one", "two"])
        assert len(vectors.data) == 2
        image = await client.images.generate(model="image", prompt="a house")
        assert image.data
        text = await client.completions.create(model="big", prompt="Hello")
        assert text.choices[0].text
        response = await client.responses.create(model="common", input="Hello")
        assert response.output_text
        chunks = [c async for c in await client.responses.create(model="big", input="Hello", stream=True)]
        assert chunks[-1].type == "response.completed"
    async with gateway.azure_client() as azure_client:
        assert (await azure_client.embeddings.create(model="embed", input="one")).data
        assert (await azure_client.images.generate(model="image", prompt="a house")).data
        stream = await azure_client.chat.completions.create(model="big", messages=HELLO, stream=True)
        assert [c async for c in stream][-1].choices[0].finish_reason == "stop"
    assert [r.status for r in requests(azure)] == [200] * 8


async def test_fallback_models_answer_when_every_endpoint_refuses(gateway: DataPlane, azure: Simulator) -> None:
    for name in azure.regions:
        azure.fault(name, Throttle(deployment=f"big-{name}"))
    for client in (gateway.client(), gateway.azure_client()):
        async with client:
            for _ in range(5):
                assert await ask(client, "big")
    served = [r for r in requests(azure) if r.status == 200]
    assert {(r.deployment, r.json()["model"]) for r in served} == {("mini", "mini")}
    assert len(served) == 10


async def test_fallback_models_answer_while_every_endpoint_is_out(gateway: DataPlane, azure: Simulator) -> None:
    out = HostState(state=State.UNHEALTHY, reason=Reason.CONNECT)
    await gateway.observe({HostKey(PoolKey("ai", "chat"), n, f"big-{n}"): out for n in azure.regions})
    try:
        async with gateway.client() as client:
            for _ in range(6):
                assert await ask(client, "big")
    finally:
        await gateway.observe({})
    assert {r.deployment for r in requests(azure)} == {"mini"}


async def test_get_models_lists_what_the_tenant_may_use(gateway: DataPlane, azure: Simulator) -> None:
    async with gateway.client() as client, gateway.client(key=SMALL_KEY) as small:
        assert [m.id async for m in client.models.list()] == MODELS
        assert [m.id async for m in small.models.list()] == ["gpt-4o"]
        assert (await client.models.retrieve("big")).id == "big"
        assert (await small.models.retrieve("gpt-4o")).id == "gpt-4o"
        for name in ("big", "nonsense"):
            with pytest.raises(openai.NotFoundError) as error:
                await small.models.retrieve(name)
            assert error.value.code == "model_not_found"
    async with gateway.azure_client() as azure_client:
        assert [m.id async for m in azure_client.models.list()] == MODELS
    assert not requests(azure)


async def test_an_unknown_model_is_a_not_found_error(gateway: DataPlane, azure: Simulator) -> None:
    for client in (gateway.client(), gateway.azure_client()):
        async with client:
            for name in ("nonsense", "big-eastus", "GPT-4O", "gpt-4o ", "gpt", "gpt-4o.", "modèle-é", "模型"):
                with pytest.raises(openai.NotFoundError) as error:
                    await ask(client, name)
                assert error.value.code == "DeploymentNotFound"
                assert error.value.body
    async with gateway.client() as client:
        with pytest.raises(openai.NotFoundError):
            await ask(client, extra_query={"model": "nonsense"})
    assert not requests(azure)


async def test_a_model_that_the_tenant_may_not_use_is_denied(gateway: DataPlane, azure: Simulator) -> None:
    for client in (gateway.client(key=SMALL_KEY), gateway.azure_client(key=SMALL_KEY)):
        async with client:
            assert await ask(client)
            with pytest.raises(openai.PermissionDeniedError) as error:
                await ask(client, "big")
            assert error.value.code == "model_not_allowed"
    async with gateway.client(key=SMALL_KEY) as client:
        with pytest.raises(openai.PermissionDeniedError):
            await ask(client, extra_query={"model": "big"})
    assert {r.deployment for r in requests(azure)} == {"gpt-4o"}


async def test_a_body_cannot_smuggle_a_model_past_the_path(gateway: DataPlane, azure: Simulator) -> None:
    path = "/ai/chat/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
    async with gateway.http(key=SMALL_KEY) as client:
        answer = await client.post(path, json={"model": "big", "messages": HELLO})
    assert answer.status_code == 200
    assert last(azure).deployment == "gpt-4o"


async def test_a_pool_answers_at_its_path_its_host_names_and_alone_at_the_bare_address(gateway: DataPlane) -> None:
    body = {"model": "gpt-4o", "messages": HELLO}
    async with gateway.http() as client:
        for path, host in [
            ("/ai/chat/openai/v1/chat/completions", "127.0.0.1"),
            ("/openai/v1/chat/completions", "chat.ai.svc"),
            ("/openai/v1/chat/completions", "chat.ai.svc:8080"),
            ("/openai/v1/chat/completions", "anything"),
        ]:
            answer = await client.post(path, json=body, headers={"host": host})
            assert answer.status_code == 200, (path, host, answer.text)
        for path in ("/", "/ai/chat", "/ai/other/openai/v1/models", "/v1/models", "/ai/chat/other"):
            answer = await client.get(path)
            assert answer.status_code == 404
            assert json.loads(answer.text)["error"]["code"] == "not_found"

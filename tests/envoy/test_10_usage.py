"""Line 10: the usage of every answer reaches metrics and log lines; the client sees only what it asked for."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio
from openai.types.chat import ChatCompletionMessageParam
from prometheus_client.parser import text_string_to_metric_families

from aoai_operator.simulator import Deployment, Region, Simulator, Throttle
from support.calls import HELLO, ask, last
from support.local import LocalGateway
from support.manifests import pool_manifest
from support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

LONG: list[ChatCompletionMessageParam] = [{"role": "user", "content": "same words " * 1000}]
KINDS = ("prompt", "completion", "cached", "reasoning")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def azure() -> AsyncIterator[Simulator]:
    """One region with a model that reasons, one under another name, and one of embeddings."""
    deployments = [
        Deployment(name="gpt-4o", model="gpt-4o", reasoning_tokens=7),
        Deployment(name="own-name", model="own"),
        Deployment(name="embed", model="embed", kind="embeddings"),
    ]
    other = [Deployment(name="other-name", model="own")]
    async with Simulator(
        [Region(name="eastus", deployments=deployments), Region(name="westus", deployments=other)]
    ) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(azure: Simulator) -> AsyncIterator[LocalGateway]:
    """One pool, with the operator's log lines."""
    quiet = {"health": {"probe": {"path": "Disabled"}}}
    async with LocalGateway(pool_manifest(azure, spec=quiet), arguments=["--log-level", "info"]) as running:
        yield running


async def samples(gateway: LocalGateway, name: str) -> list[Any]:
    """Return the samples of one metric."""
    families = text_string_to_metric_families(await gateway.metrics())
    return [s for family in families for s in family.samples if s.name == name]


async def tokens(gateway: LocalGateway, model: str) -> dict[str, float]:
    """Return the tokens of a model by kind."""
    found = dict.fromkeys(KINDS, 0.0)
    for sample in await samples(gateway, "aoai_tokens_total"):
        if sample.labels["model"] == model:
            found[sample.labels["kind"]] += sample.value
    return found


async def counted(gateway: LocalGateway, model: str, before: dict[str, float], expected: dict[str, int]) -> None:
    """Wait until exactly these tokens have been added."""

    async def added() -> bool:
        now = await tokens(gateway, model)
        return {k: now[k] - before[k] for k in KINDS} == {**dict.fromkeys(KINDS, 0), **expected}

    await eventually(added, within=5, what=f"{expected} are counted")


def of_chat(usage: Any) -> dict[str, int]:
    """Return the tokens of a chat's usage by kind."""
    return {
        "prompt": usage.prompt_tokens,
        "completion": usage.completion_tokens,
        "cached": usage.prompt_tokens_details.cached_tokens,
        "reasoning": usage.completion_tokens_details.reasoning_tokens,
    }


async def test_tokens_of_a_json_answer(gateway: LocalGateway) -> None:
    before = await tokens(gateway, "gpt-4o")
    async with gateway.client() as client:
        answer = await client.chat.completions.create(model="gpt-4o", messages=HELLO)
    usage = of_chat(answer.usage)
    assert usage["reasoning"] == 7
    await counted(gateway, "gpt-4o", before, usage)


async def test_cached_tokens(gateway: LocalGateway) -> None:
    async with gateway.client() as client:
        await client.chat.completions.create(model="gpt-4o", messages=LONG)
        before = await tokens(gateway, "gpt-4o")

        async def logged() -> bool:
            return (await tokens(gateway, "gpt-4o"))["prompt"] > 2000

        await eventually(logged)
        before = await tokens(gateway, "gpt-4o")
        answer = await client.chat.completions.create(model="gpt-4o", messages=LONG)
    usage = of_chat(answer.usage)
    assert usage["cached"] >= 1024
    await counted(gateway, "gpt-4o", before, usage)


@pytest.mark.parametrize("model", ["gpt-4o", "own"])
async def test_tokens_of_a_stream_that_asked_for_its_usage(gateway: LocalGateway, model: str) -> None:
    before = await tokens(gateway, model)
    async with gateway.client() as client:
        stream = await client.chat.completions.create(
            model=model, messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        chunks = [c async for c in stream]
    assert chunks[-1].choices == []
    assert chunks[-1].usage
    await counted(gateway, model, before, of_chat(chunks[-1].usage))


@pytest.mark.parametrize("options", [None, {"include_usage": False}, {}])
@pytest.mark.parametrize("model", ["gpt-4o", "own"])
async def test_tokens_of_a_stream_that_did_not_ask(
    gateway: LocalGateway, azure: Simulator, model: str, options: dict[str, bool] | None
) -> None:
    """The gateway asks, and takes the extra chunk out again; all else arrives."""
    before = await tokens(gateway, model)
    body: dict[str, Any] = {"model": model, "messages": HELLO, "stream": True}
    if options is not None:
        body["stream_options"] = options
    async with gateway.client() as client:
        got = await client.chat.completions.with_raw_response.create(**body)
        text = got.http_response.text if got.http_response.is_closed else (await got.http_response.aread()).decode()
        stream = await client.chat.completions.create(**body)
        chunks = [c async for c in stream]
    assert last(azure).json()["stream_options"]["include_usage"] is True
    assert not [c for c in chunks if c.usage]
    assert text.endswith("data: [DONE]\n\n")
    events = [json.loads(e.removeprefix("data: ")) for e in text.split("\n\n")[:-2]]
    assert not [e for e in events if e.get("usage")]
    assert len(events) == len(chunks)

    async def both() -> bool:
        now = await tokens(gateway, model)
        return now["completion"] > before["completion"] and (now["prompt"] - before["prompt"]) % 2 == 0

    await eventually(both)


async def test_an_old_api_version_is_not_asked_for_usage(gateway: LocalGateway, azure: Simulator) -> None:
    async with gateway.azure_client(api_version="2024-06-01") as client:
        stream = await client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
        assert [c async for c in stream]
    assert "stream_options" not in last(azure).json()


async def test_tokens_of_the_responses_api(gateway: LocalGateway) -> None:
    async with gateway.client() as client:
        for streamed in (False, True):
            before = await tokens(gateway, "gpt-4o")
            if streamed:
                events = [e async for e in await client.responses.create(model="gpt-4o", input="Hello", stream=True)]
                assert events[-1].type == "response.completed"
                usage = events[-1].response.usage
            else:
                usage = (await client.responses.create(model="gpt-4o", input="Hello")).usage
            assert usage
            expected = {
                "prompt": usage.input_tokens,
                "completion": usage.output_tokens,
                "reasoning": usage.output_tokens_details.reasoning_tokens,
            }
            await counted(gateway, "gpt-4o", before, expected)


async def test_tokens_of_embeddings(gateway: LocalGateway) -> None:
    """Large answers too, whose usage stands behind megabytes of numbers."""
    async with gateway.client() as client:
        for count in (1, 200):
            before = await tokens(gateway, "embed")
            words = ["some words"] * count
            answer = await client.embeddings.create(model="embed", input=words, encoding_format="float")
            assert len(answer.data) == count
            await counted(gateway, "embed", before, {"prompt": answer.usage.prompt_tokens})


async def test_requests_and_failed_attempts_by_all_their_labels(gateway: LocalGateway, azure: Simulator) -> None:
    azure.fault("westus", Throttle(retry_after_ms=100))
    async with gateway.client() as client:

        async def tried() -> bool:
            assert await ask(client, "own")
            return azure.regions["westus"].throttled > 0

        await eventually(tried)
    azure.heal("westus")
    model = {"pool": "ai/chat", "model": "own"}
    served = {**model, "tenant": "ai/team", "endpoint": "eastus", "region": "eastus", "code": "200"}
    served["operation"] = "chat/completions"
    failed = {**model, "endpoint": "westus", "region": "westus", "code": "429"}

    async def shown() -> bool:
        requests = [s.labels for s in await samples(gateway, "aoai_requests_total")]
        attempts = [s.labels for s in await samples(gateway, "aoai_failed_attempts_total")]
        return any(served.items() <= r.items() for r in requests) and any(failed.items() <= a.items() for a in attempts)

    await eventually(shown)


async def test_labels_are_bounded(gateway: LocalGateway) -> None:
    async with gateway.client() as client:
        for n in range(20):
            with pytest.raises(openai.NotFoundError):
                await ask(client, f"unknown-{n}")
            with pytest.raises(openai.APIStatusError):
                await client.post(f"/strange/{n}", body={"model": "gpt-4o"}, cast_to=object)
    async with gateway.client(key="wrong") as client:
        with pytest.raises(openai.AuthenticationError):
            await ask(client)

    async def refused() -> bool:
        found = await samples(gateway, "aoai_requests_total")
        return sum(int(s.value) for s in found if s.labels["code"] in ("404", "401")) >= 41

    await eventually(refused)
    text = await gateway.metrics()
    assert "unknown-" not in text
    assert "strange" not in text


async def test_log_lines_carry_the_sdks_request_id(gateway: LocalGateway) -> None:
    async with gateway.client() as client:
        answer = await client.chat.completions.create(model="gpt-4o", messages=HELLO)
        with pytest.raises(openai.NotFoundError) as error:
            await ask(client, "unknown")
    assert answer._request_id
    assert error.value.request_id

    def line(request_id: str | None) -> dict[str, Any]:
        return next((e for e in gateway.logs if e.get("request_id") == request_id), {})

    served = await eventually(lambda: line(answer._request_id))
    wanted = {"pool": "ai/chat", "tenant": "ai/team", "model": "gpt-4o", "endpoint": "eastus", "status": 200}
    assert wanted.items() <= served.items()
    refused = await eventually(lambda: line(error.value.request_id))
    assert refused["status"] == 404
    assert refused["tenant"] == "ai/team"

"""Simulated regions over real sockets, called by the real SDK."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import openai
import pytest
from openai import AsyncAzureOpenAI, AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from aoai_operator.simulator import (
    Blackhole,
    CutStream,
    Deployment,
    Down,
    Flapping,
    Garbage,
    Latency,
    Region,
    Reset,
    RunningRegion,
    Simulator,
    Stall,
    Status,
    Throttle,
)
from support.waiting import eventually

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    deployments = [
        Deployment(name="chat", model="gpt-4o", tokens_per_minute=100_000),
        Deployment(name="embed", model="text-embedding-3-small", kind="embeddings"),
        Deployment(name="draw", model="gpt-image-1", kind="images"),
    ]
    async with Simulator([Region(name="eastus", deployments=deployments, key="k")]) as running:
        yield running


@pytest.fixture
def region(simulator: Simulator) -> RunningRegion:
    return simulator.regions["eastus"]


@pytest.fixture
async def client(region: RunningRegion) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{region.url}/openai/v1", api_key="k", max_retries=0, timeout=20.0) as client:
        yield client


@pytest.fixture
async def azure(region: RunningRegion) -> AsyncIterator[AsyncAzureOpenAI]:
    async with AsyncAzureOpenAI(
        azure_endpoint=region.url, api_key="k", api_version="2024-10-21", max_retries=0, timeout=20.0
    ) as client:
        yield client


async def test_chat_on_both_surfaces(client: AsyncOpenAI, azure: AsyncAzureOpenAI, region: RunningRegion) -> None:
    answers = [await c.chat.completions.create(model="chat", messages=HELLO) for c in (client, azure)]
    assert answers[0].choices[0].message.content == answers[1].choices[0].message.content
    assert answers[0].model == "gpt-4o"
    await eventually(lambda: region.served == 2)
    assert [record.auth for record in region.log] == ["bearer", "api-key"]
    assert region.log[0].json()["model"] == region.log[1].deployment == "chat"
    assert region.attempts == 2


async def test_a_stream_has_a_filter_chunk_first_and_usage_only_when_asked(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model="chat", messages=HELLO, stream=True)
    plain = [chunk async for chunk in stream]
    assert plain[0].choices == []
    assert plain[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in plain)
    stream = await client.chat.completions.create(
        model="chat", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    counted = [chunk async for chunk in stream]
    assert counted[-1].choices == []
    assert counted[-1].usage is not None
    assert counted[-1].usage.completion_tokens == 16
    assert all(chunk.usage is None for chunk in counted[:-1])


async def test_a_tool_is_called_whole_and_streamed(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="chat", messages=HELLO, tools=[WEATHER], tool_choice="required")
    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].type == "function"
    assert json.loads(calls[0].function.arguments) == {"city": "text"}
    asked: list[ChatCompletionMessageParam] = [{"role": "user", "content": "[[tool]]"}]
    stream = await client.chat.completions.create(model="chat", messages=asked, tools=[WEATHER], stream=True)
    deltas = [
        call
        async for chunk in stream
        for choice in chunk.choices
        for call in choice.delta.tool_calls or []
        if call.function is not None
    ]
    assert deltas[0].function is not None
    assert deltas[0].function.name == "weather"
    assert json.loads("".join(d.function.arguments or "" for d in deltas if d.function)) == {"city": "text"}


async def test_structured_output_is_json(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="chat", messages=HELLO, response_format={"type": "json_object"})
    assert json.loads(answer.choices[0].message.content or "") == {}


async def test_responses_whole_and_streamed(client: AsyncOpenAI) -> None:
    whole = await client.responses.create(model="chat", input="Hello")
    assert whole.usage is not None
    assert whole.usage.output_tokens == 16
    async with client.responses.stream(model="chat", input="Hello") as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert final.output_text == whole.output_text
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert "response.output_text.delta" in kinds


async def test_embeddings_are_the_same_as_floats_and_as_base64(client: AsyncOpenAI) -> None:
    packed = await client.embeddings.create(model="embed", input=["a", "b"], dimensions=8)
    plain = await client.embeddings.create(model="embed", input=["a", "b"], dimensions=8, encoding_format="float")
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)


async def test_images_completions_and_models(client: AsyncOpenAI, azure: AsyncAzureOpenAI) -> None:
    images = await azure.images.generate(model="draw", prompt="a house")
    assert images.data is not None
    assert images.data[0].b64_json is not None
    text = await client.completions.create(model="chat", prompt="Once", max_tokens=3)
    assert text.choices[0].finish_reason == "length"
    stream = await client.completions.create(model="chat", prompt="Once", max_tokens=3, stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == text.choices[0].text
    assert {model.id async for model in client.models.list()} == {"gpt-4o", "text-embedding-3-small", "gpt-image-1"}
    assert (await client.models.retrieve("gpt-4o")).id == "gpt-4o"


async def test_the_sdk_raises_its_own_errors(client: AsyncOpenAI, simulator: Simulator, region: RunningRegion) -> None:
    filtered: list[ChatCompletionMessageParam] = [{"role": "user", "content": "[[content_filter]]"}]
    with pytest.raises(openai.BadRequestError) as bad:
        await client.chat.completions.create(model="chat", messages=filtered)
    assert bad.value.code == "content_filter"
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(model="none", messages=HELLO)
    region.set_keys("other")
    with pytest.raises(openai.AuthenticationError):
        await client.chat.completions.create(model="chat", messages=HELLO)
    region.set_keys("k")
    simulator.fault("eastus", Throttle(retry_after_ms=20))
    with pytest.raises(openai.RateLimitError):
        await client.chat.completions.create(model="chat", messages=HELLO)
    simulator.fault("eastus", Status(status=500))
    with pytest.raises(openai.InternalServerError):
        await client.chat.completions.create(model="chat", messages=HELLO)
    assert [record.status for record in region.log] == [400, 404, 401, 429, 500]


async def test_down_refuses_and_heals_on_the_same_port(
    client: AsyncOpenAI, simulator: Simulator, region: RunningRegion
) -> None:
    await client.chat.completions.create(model="chat", messages=HELLO)
    url = region.url
    simulator.fault("eastus", Down())
    for _ in range(2):
        with pytest.raises(openai.APIConnectionError):
            await client.chat.completions.create(model="chat", messages=HELLO)
    assert region.attempts == 1
    simulator.heal("eastus")
    assert region.url == url
    await client.chat.completions.create(model="chat", messages=HELLO)


async def test_flapping_goes_down_and_up(simulator: Simulator, region: RunningRegion) -> None:
    simulator.fault("eastus", Flapping(down_seconds=0.2, up_seconds=0.2))
    await eventually(lambda: not region.server.listening)
    await eventually(lambda: region.server.listening)
    await eventually(lambda: not region.server.listening)
    simulator.heal("eastus")
    assert region.server.listening


@pytest.mark.parametrize("fault", [Reset(), Reset(deployment="chat"), Reset(share=0.5)])
async def test_reset(client: AsyncOpenAI, simulator: Simulator, region: RunningRegion, fault: Reset) -> None:
    simulator.fault("eastus", fault)
    failed = 0
    for _ in range(2):
        try:
            await client.chat.completions.create(model="chat", messages=HELLO)
        except openai.APIConnectionError:
            failed += 1
    assert failed == (1 if fault.share < 1 else 2)
    assert region.attempts == (0 if fault.at_accept else 2)


async def test_a_blackhole_never_answers_and_lets_go_of_a_client_that_leaves(
    client: AsyncOpenAI, simulator: Simulator, region: RunningRegion
) -> None:
    simulator.fault("eastus", Blackhole())
    call = asyncio.create_task(client.chat.completions.create(model="chat", messages=HELLO))
    await eventually(lambda: region.attempts == 1)
    assert region.log[0].status == 0
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await eventually(lambda: region.counts.abandoned == 1)


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_a_cut_stream_raises(client: AsyncOpenAI, simulator: Simulator, region: RunningRegion, how: str) -> None:
    simulator.fault("eastus", CutStream.model_validate({"after": 3, "how": how}))
    stream = await client.chat.completions.create(model="chat", messages=HELLO, stream=True)
    parts = aiter(stream)
    for _ in range(3):
        await anext(parts)
    with pytest.raises((httpx.HTTPError, openai.APIError)):
        await anext(parts)
    assert region.counts.abandoned == 1
    assert region.served == 0


async def test_a_stream_can_end_in_order_without_done(region: RunningRegion, simulator: Simulator) -> None:
    simulator.fault("eastus", CutStream(after=2, how="clean"))
    body = {"model": "chat", "messages": HELLO, "stream": True}
    async with httpx.AsyncClient() as http:
        url = f"{region.url}/openai/v1/chat/completions"
        answer = await http.post(url, json=body, headers={"api-key": "k"})
    assert answer.text.count("data: ") == 2
    assert "[DONE]" not in answer.text


async def test_a_stalled_stream_stays_open(client: AsyncOpenAI, simulator: Simulator, region: RunningRegion) -> None:
    simulator.fault("eastus", Stall(after=2))
    stream = await client.chat.completions.create(model="chat", messages=HELLO, stream=True)
    parts = aiter(stream)
    assert [await anext(parts), await anext(parts)]
    assert region.counts.abandoned == region.served == 0
    await stream.close()
    await eventually(lambda: region.counts.abandoned == 1)


async def test_garbage_is_no_json(region: RunningRegion, simulator: Simulator) -> None:
    simulator.fault("eastus", Garbage())
    async with httpx.AsyncClient() as http:
        answer = await http.get(f"{region.url}/openai/v1/models", headers={"api-key": "k"})
    assert answer.status_code == 200
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer.content.decode())


async def test_latency_is_waited_for() -> None:
    latency = Latency(first_token=0.01, tokens_per_second=1000)
    deployments = [Deployment(name="chat", model="m")]
    async with Simulator([Region(name="r", deployments=deployments, key="k", latency=latency)]) as simulator:
        url = simulator.regions["r"].url
        async with AsyncOpenAI(base_url=f"{url}/openai/v1", api_key="k", max_retries=0) as client:
            raw = await client.chat.completions.with_raw_response.create(model="chat", messages=HELLO)
    assert raw.headers["x-envoy-upstream-service-time"] == "26"


async def test_a_large_body_is_taken(client: AsyncOpenAI, region: RunningRegion) -> None:
    region.deploy(Deployment(name="chat", model="m", context_tokens=10**7))
    large: list[ChatCompletionMessageParam] = [{"role": "user", "content": "x" * 10_000_000}]
    answer = await client.chat.completions.create(model="chat", messages=large)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 2_500_000
    assert len(region.log[-1].body) == 65_536


async def test_a_taken_port_is_an_error_and_starts_nothing(region: RunningRegion) -> None:
    free = Region(name="a", deployments=[])
    taken = Region(name="b", deployments=[], port=region.server.port)
    other = Simulator([free, taken])
    with pytest.raises(OSError, match="in use"):
        await other.__aenter__()
    assert not other.regions["a"].server.listening

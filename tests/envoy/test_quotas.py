"""Quotas on the real Envoy with the real SDK: what is let in, what is told, and what is counted in the end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio

from aoai_operator.simulator import Deployment, Region, Simulator, Status
from support.calls import HELLO, ask
from support.local import LocalGateway
from support.manifests import pool_manifest
from support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]

QUOTAS: dict[str, Json] = {
    "headers": {"limits": {"tokensPerMinute": 60_000, "requestsPerMinute": 1_000}},
    "tokens": {"limits": {"tokensPerMinute": 150}},
    "requests": {"limits": {"requestsPerMinute": 3}},
    "settled": {"limits": {"tokensPerMinute": 1_000}},
    "returned": {"limits": {"tokensPerMinute": 1_000}},
    "streams": {"limits": {"tokensPerMinute": 1_000}},
    "left": {"limits": {"tokensPerMinute": 100_000, "concurrentRequests": 10}},
    "at-once": {"limits": {"concurrentRequests": 1}},
    "budget": {"limits": {"budgets": [{"period": "Day", "timeZone": "Europe/Berlin", "tokens": 60}]}},
    "money": {"limits": {"budgets": [{"period": "Month", "cost": {"amount": 0.01, "currency": "USD"}}]}},
    "model": {"perModel": [{"model": "mini", "requestsPerMinute": 1}]},
    "shadow": {"limits": {"requestsPerMinute": 1}, "enforcement": "Shadow"},
    "strict": {"limits": {"tokensPerMinute": 2_000}, "reservation": "Strict"},
    "leased": {"limits": {"tokensPerMinute": 1_000_000}},
    "metered": {
        "limits": {
            "requestsPerMinute": 2,
            "budgets": [{"period": "Day", "cost": {"amount": 100, "currency": "USD"}}],
        }
    },
    "other": {"limits": {"requestsPerMinute": 2}},
    "free": {},
}
KEYS = {name: f"{name}-key-0123456789" for name in QUOTAS}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def azure() -> AsyncIterator[Simulator]:
    """One region with two chat models and one of embeddings."""
    deployments = [
        Deployment(name="gpt-4o", model="gpt-4o"),
        Deployment(name="mini", model="mini"),
        Deployment(name="embed", model="embed", kind="embeddings"),
    ]
    async with Simulator([Region(name="eastus", deployments=deployments)]) as running:
        yield running


def manifest(azure: Simulator, quotas: dict[str, Json] = QUOTAS) -> str:
    prices = {"currency": "USD", "input": 1_000, "output": 1_000}
    models = [{"name": "gpt-4o", "contextTokens": 8_000, "prices": prices}, {"name": "mini"}, {"name": "embed"}]
    spec = {"models": models, "health": {"probe": {"path": "Disabled"}}, "failover": {"retryOn": []}}
    return pool_manifest(azure, spec=spec, tenants=KEYS, quotas=quotas)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(azure: Simulator) -> AsyncIterator[LocalGateway]:
    """One pool with a tenant for each test."""
    async with LocalGateway(manifest(azure)) as running:
        yield running


async def call(gateway: LocalGateway, tenant: str, **options: Any) -> httpx.Response:
    """Ask as a tenant, and return the answer as it came."""
    body = {"model": "gpt-4o", "messages": HELLO, "max_tokens": 20, **options}
    async with httpx.AsyncClient(timeout=30) as client:
        url = f"{gateway.url}/ai/chat/openai/v1/chat/completions"
        return await client.post(url, headers={"api-key": KEYS[tenant]}, json=body)


def rates(answer: httpx.Response) -> dict[str, int]:
    """Return what an answer says of rates."""
    return {k.removeprefix("x-ratelimit-"): int(v) for k, v in answer.headers.items() if k.startswith("x-ratelimit-")}


def code(answer: httpx.Response) -> str:
    """Return the code of an error."""
    return str(answer.json()["error"]["code"])


async def remaining(gateway: LocalGateway, tenant: str) -> int:
    """Return the tokens that are left, as a request that never fits is told."""
    answer = await call(gateway, tenant, messages=[{"role": "user", "content": "x" * 30_000}])
    assert answer.status_code == 429
    return rates(answer)["remaining-tokens"]


async def test_answers_tell_the_tenants_own_rates_and_not_the_regions(gateway: LocalGateway) -> None:
    answer = await call(gateway, "headers")
    assert answer.status_code == 200
    told = rates(answer)
    units = ("tokens", "requests")
    assert set(told) == {f"{what}-{unit}" for what in ("limit", "remaining", "reset") for unit in units}
    assert (told["limit-tokens"], told["limit-requests"]) == (60_000, 1_000)
    assert 59_000 < told["remaining-tokens"] < 60_000
    assert told["remaining-requests"] == 999
    assert 59 <= told["reset-tokens"] <= 61


async def test_who_has_no_limits_is_told_none(gateway: LocalGateway) -> None:
    assert rates(await call(gateway, "free")) == {}


async def test_what_is_above_the_limit_is_refused_as_the_sdk_expects_it(gateway: LocalGateway) -> None:
    async with gateway.client(key=KEYS["tokens"]) as client:
        await ask(client, max_tokens=60)
        with pytest.raises(openai.RateLimitError) as refused:
            await ask(client, max_tokens=120)
    error = refused.value
    assert (error.code, error.type) == ("rate_limit_exceeded", "tokens")
    assert "ai/tokens" in str(error)
    assert "tokens per minute" in str(error)
    wait = int(error.response.headers["retry-after-ms"])
    assert 55_000 < wait <= 61_000
    assert int(error.response.headers["retry-after"]) == -(-wait // 1000)
    assert "x-should-retry" not in error.response.headers


async def test_what_could_never_fit_says_so_and_is_not_retried(gateway: LocalGateway, azure: Simulator) -> None:
    before = azure.regions["eastus"].counts.attempts
    answer = await call(gateway, "tokens", max_tokens=500)
    assert answer.status_code == 429
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers
    assert "can never be let in" in answer.json()["error"]["message"]
    assert azure.regions["eastus"].counts.attempts == before


async def test_no_more_requests_than_are_granted_however_many_come_at_once(gateway: LocalGateway) -> None:
    answers = await asyncio.gather(*(call(gateway, "requests") for _ in range(20)))
    assert sorted(a.status_code for a in answers) == [200] * 3 + [429] * 17
    refused = next(a for a in answers if a.status_code == 429)
    assert refused.json()["error"]["type"] == "requests"
    assert rates(refused)["remaining-requests"] == 0


async def test_what_was_really_used_is_what_counts(gateway: LocalGateway) -> None:
    answer = await call(gateway, "settled", max_tokens=800)
    expected = 1_000 - int(answer.json()["usage"]["total_tokens"])

    async def settled() -> bool:
        return await remaining(gateway, "settled") == expected

    await eventually(settled, within=5, what="the estimate is replaced by the usage")


async def test_what_azure_refused_costs_nothing(gateway: LocalGateway, azure: Simulator) -> None:
    azure.fault("eastus", Status(status=400))
    refused = await call(gateway, "returned", max_tokens=800)
    azure.heal("eastus")
    assert refused.status_code == 400

    async def returned() -> bool:
        return await remaining(gateway, "returned") == 1_000

    await eventually(returned, within=5, what="all of it is given back")


async def test_streams_count_exactly_and_show_no_usage_that_was_not_asked_for(gateway: LocalGateway) -> None:
    async with gateway.client(key=KEYS["streams"]) as client:
        stream = await client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True, max_tokens=500)
        chunks = [chunk async for chunk in stream]
    assert all(chunk.usage is None for chunk in chunks)
    pieces = sum(1 for chunk in chunks if chunk.choices and chunk.choices[0].delta.content)

    async def settled() -> bool:
        return 1_000 - await remaining(gateway, "streams") == pieces + 2

    await eventually(settled, within=5, what="the stream is settled")


async def test_requests_at_once_are_let_go_when_they_end(gateway: LocalGateway) -> None:
    long = [{"role": "user", "content": "[[tokens=40]] [[delay=20]]"}]
    answers = await asyncio.gather(*(call(gateway, "at-once", messages=long, max_tokens=100) for _ in range(5)))
    assert sorted(a.status_code for a in answers) == [200] + [429] * 4
    refused = next(a for a in answers if a.status_code == 429)
    assert "requests at once" in refused.json()["error"]["message"]

    async def let_in() -> bool:
        return (await call(gateway, "at-once")).status_code == 200

    await eventually(let_in, within=5, what="the next one is let in")


async def test_an_exhausted_budget_says_when_it_begins_anew(gateway: LocalGateway) -> None:
    assert (await call(gateway, "budget", max_tokens=20)).status_code == 200
    answers = [await call(gateway, "budget", max_tokens=20) for _ in range(4)]
    refused = answers[-1]
    assert refused.status_code == 429
    assert (code(refused), refused.json()["error"]["type"]) == ("insufficient_quota", "insufficient_quota")
    assert refused.headers["x-should-retry"] == "false"
    assert "budget of the tenant ai/budget for this day" in refused.json()["error"]["message"]
    assert "T23:00:00Z" in refused.json()["error"]["message"], "midnight in Berlin, in winter"


async def test_money_is_counted_by_the_prices(gateway: LocalGateway) -> None:
    """A million tokens cost 1,000 USD: ten tokens cost all that there is."""
    refused = await call(gateway, "money", max_tokens=5)
    assert (refused.status_code, code(refused)) == (429, "insufficient_quota")
    assert "larger than the whole budget" in refused.json()["error"]["message"]


async def test_a_models_own_limit_is_for_that_model_alone(gateway: LocalGateway) -> None:
    assert (await call(gateway, "model", model="mini")).status_code == 200
    refused = await call(gateway, "model", model="mini")
    assert refused.status_code == 429
    assert "requests per minute for mini" in refused.json()["error"]["message"]
    assert (await call(gateway, "model")).status_code == 200


async def test_shadow_refuses_nothing(gateway: LocalGateway) -> None:
    assert [(await call(gateway, "shadow")).status_code for _ in range(3)] == [200] * 3


async def test_strict_reserves_the_most_that_there_can_be(gateway: LocalGateway) -> None:
    refused = await call(gateway, "strict", max_tokens=None)
    assert (refused.status_code, refused.headers["x-should-retry"]) == (429, "false"), "8,000 tokens of context"
    assert (await call(gateway, "strict", max_tokens=1_500)).status_code == 200


async def test_far_from_its_limits_a_tenant_draws_on_a_lease(gateway: LocalGateway) -> None:
    async with gateway.client(key=KEYS["leased"]) as client:
        for _ in range(30):
            await ask(client, max_tokens=20)
    asked = await calls_of_the_ledger(gateway)
    async with gateway.client(key=KEYS["leased"]) as client:
        for _ in range(30):
            await ask(client, max_tokens=20)
    assert await calls_of_the_ledger(gateway) - asked <= 5


async def calls_of_the_ledger(gateway: LocalGateway) -> int:
    """Return how often Envoy asked."""
    stats = json.loads(await gateway.admin("/stats?format=json&filter=cluster.ledger.upstream_rq_total"))
    return int(next((s["value"] for s in stats["stats"] if "value" in s), 0))


async def test_embeddings_and_the_path_of_azure_count_as_well(gateway: LocalGateway) -> None:
    async with gateway.azure_client(key=KEYS["other"]) as client:
        await client.embeddings.create(model="embed", input="some text")
        await client.chat.completions.create(model="gpt-4o", messages=HELLO)
        with pytest.raises(openai.RateLimitError):
            await client.embeddings.create(model="embed", input="some text")


async def test_metrics_tell_what_was_let_in_refused_and_used(gateway: LocalGateway) -> None:
    async with gateway.client(key=KEYS["metered"]) as client:
        for _ in range(2):
            await ask(client, max_tokens=20)
        with pytest.raises(openai.RateLimitError):
            await ask(client, max_tokens=20)
    whose = 'model="gpt-4o",pool="ai/chat",tenant="ai/metered"'

    async def counted() -> bool:
        text = await gateway.metrics()
        found = dict(line.rsplit(" ", 1) for line in text.splitlines() if 'tenant="ai/metered"' in line)
        return {
            f'aoai_quota_admitted_total{{by="ledger",{whose}}}': "2.0",
            f'aoai_quota_refused_total{{limit="requestsPerMinute",{whose}}}': "1.0",
            f"aoai_quota_settled_tokens_total{{{whose}}}": "36.0",
            f'aoai_quota_cost_total{{currency="USD",{whose}}}': "0.036",
        }.items() <= found.items()

    await eventually(counted, within=5, what="all of it is counted")


async def test_a_live_change_of_a_limit_counts_at_once_and_loses_no_usage(azure: Simulator) -> None:
    quotas = {"free": {"limits": {"requestsPerMinute": 2}}}
    keys = {"free": KEYS["free"]}
    spec = {"health": {"probe": {"path": "Disabled"}}}

    def written(quotas: dict[str, Json]) -> str:
        return pool_manifest(azure, spec=spec, tenants=keys, quotas=quotas)

    async with LocalGateway(written(quotas)) as gateway:
        assert [(await call(gateway, "free")).status_code for _ in range(3)] == [200, 200, 429]
        gateway.write(written({"free": {"limits": {"requestsPerMinute": 3}}}))

        async def raised() -> bool:
            return (await call(gateway, "free")).status_code == 200

        await eventually(raised, within=5, what="the new limit holds")
        assert (await call(gateway, "free")).status_code == 429, "those of before count"

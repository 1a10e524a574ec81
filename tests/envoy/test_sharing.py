"""Tenants that share a pool, on the real Envoy: what is kept for one, and what another may borrow."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest_asyncio

from aoai_operator.simulator import Deployment, Region, Simulator
from support.calls import HELLO
from support.local import LocalGateway
from support.manifests import pool_manifest
from support.waiting import eventually

Json = dict[str, Any]

CAPACITY = 3_000
EACH = 100
"""Tokens that a request may have."""


@pytest_asyncio.fixture
async def azure() -> AsyncIterator[Simulator]:
    """One region with one model."""
    async with Simulator([Region(name="eastus", deployments=[Deployment(name="gpt-4o", model="gpt-4o")])]) as running:
        yield running


def manifest(azure: Simulator, quotas: Mapping[str, Json], *, capacity: int | None = CAPACITY, **spec: Json) -> str:
    """Return a pool over one region, shared by these tenants; an answer has as many tokens as its request allows."""
    gives = {"capacity": {"tokensPerMinute": capacity}} if capacity else {}
    endpoint = {"deployments": [{"model": "gpt-4o", "name": "gpt-4o", **gives}]}
    return pool_manifest(
        azure,
        endpoints={"eastus": endpoint},
        spec={"models": [{"name": "gpt-4o"}], "health": {"probe": {"path": "Disabled"}}, **spec},
        tenants={name: key(name) for name in quotas},
        quotas={name: {"reservation": "Strict", **quota} for name, quota in quotas.items()},
    )


def key(tenant: str) -> str:
    """Return a tenant's API key."""
    return f"{tenant}-key-0123456789"


async def call(gateway: LocalGateway, tenant: str, tokens: int = EACH) -> httpx.Response:
    """Ask as a tenant, or as nobody, for an answer of so many tokens."""
    body = {"model": "gpt-4o", "messages": HELLO, "max_tokens": tokens}
    async with httpx.AsyncClient(timeout=30) as client:
        url = f"{gateway.url}/ai/chat/openai/v1/chat/completions"
        return await client.post(url, headers={"api-key": key(tenant)} if tenant else {}, json=body)


async def flood(gateway: LocalGateway, tenant: str, tokens: int = EACH) -> httpx.Response:
    """Ask until it is refused; return the refusal. Whatever an answer might have had, it has a few tokens."""
    for _ in range(CAPACITY):
        answer = await call(gateway, tenant, tokens)
        if answer.status_code != 200:
            assert answer.status_code == 429
            return answer
    raise AssertionError(f"{tenant} was never refused")


async def test_a_flood_takes_nothing_of_a_guarantee(azure: Simulator) -> None:
    quotas = {"kept": {"guaranteed": {"tokensPerMinute": 1_500}}, "floods": {}}
    async with LocalGateway(manifest(azure, quotas)) as gateway:
        error = (await flood(gateway, "floods")).json()["error"]
        assert (error["code"], error["type"]) == ("rate_limit_exceeded", "tokens")
        assert "its share of what the pool can give" in error["message"]
        assert (await call(gateway, "kept", 1_300)).status_code == 200
        assert (await call(gateway, "floods")).status_code == 429


async def test_a_guarantee_that_nobody_uses_is_lent_where_the_pool_says_so(azure: Simulator) -> None:
    quotas = {"kept": {"guaranteed": {"tokensPerMinute": 2_900}}, "borrows": {}}
    async with LocalGateway(manifest(azure, quotas)) as gateway:
        refused = await call(gateway, "borrows", 1_000)
        assert refused.status_code == 429
        gateway.write(manifest(azure, quotas, sharing={"lendIdleAfter": "1s"}))

        async def lent() -> bool:
            return (await call(gateway, "borrows", 1_000)).status_code == 200

        await eventually(lent, what="what is guaranteed to another is lent")
        assert (await call(gateway, "kept", 1_000)).status_code == 200, "its owner has it at once"


async def test_who_may_not_burst_has_what_is_guaranteed_and_no_more(azure: Simulator) -> None:
    quotas = {"modest": {"guaranteed": {"tokensPerMinute": 500}, "burst": False}, "other": {}}
    async with LocalGateway(manifest(azure, quotas)) as gateway:
        refused = await flood(gateway, "modest", 300)
        assert int(refused.headers["x-ratelimit-limit-tokens"]) == 500
        never = await call(gateway, "modest", 600)
        assert never.headers["x-should-retry"] == "false"


async def test_another_capacity_counts_at_once(azure: Simulator) -> None:
    quotas = {"first": {"priority": "Sheddable"}, "second": {"priority": "Critical"}}
    async with LocalGateway(manifest(azure, quotas)) as gateway:
        await flood(gateway, "first")
        gateway.write(manifest(azure, quotas, capacity=100 * CAPACITY))

        async def raised() -> bool:
            return (await call(gateway, "first")).status_code == 200

        await eventually(raised, what="there is more")


async def test_what_nobody_configured_is_learned_from_what_azure_says_and_told_to_nobody() -> None:
    deployment = Deployment(name="gpt-4o", model="gpt-4o", tokens_per_minute=CAPACITY)
    async with Simulator([Region(name="eastus", deployments=[deployment])]) as azure:
        quotas = {"kept": {"guaranteed": {"tokensPerMinute": 2_500}}, "other": {}}
        spec: Json = {"auth": {"required": False}}
        async with LocalGateway(manifest(azure, quotas, capacity=None, **spec)) as gateway:
            first = await call(gateway, "other", 600)
            assert first.status_code == 200, "nobody knows yet"

            async def learned() -> bool:
                return "its share of what the pool can give" in (await call(gateway, "other", 600)).text

            await eventually(learned, what="what is guaranteed is kept")
            kept = await call(gateway, "kept", 2_000)
            assert kept.status_code == 200
            anonymous = await call(gateway, "")
            assert anonymous.status_code == 200
            for answer in (first, kept, anonymous):
                told = [value for name, value in answer.headers.items() if "capacity" in name or "ratelimit" in name]
                assert str(CAPACITY) not in told

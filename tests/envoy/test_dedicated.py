"""Endpoints that serve some tenants alone, on the real Envoy: nobody else reaches them, whatever he sends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from aoai_operator.simulator import Deployment, Region, Simulator, Status
from support.calls import HELLO, last, requests
from support.dedicated import lane_in
from support.local import LocalGateway
from support.manifests import pool_manifest
from support.waiting import eventually

Json = dict[str, Any]

TENANTS = ("search", "law", "other")


def key(tenant: str) -> str:
    """Return a tenant's API key."""
    return f"{tenant}-key-0123456789"


def manifest(azure: Simulator, *, spill: bool = True, dedicated: bool = True) -> str:
    """Return a pool with a shared region, one of `search`, which spills over, and one of `law` with `mini` alone."""
    own = {"own": [{"name": "search"}], "private": [{"name": "law"}]} if dedicated else {}
    return pool_manifest(
        azure,
        spec={
            "models": [{"name": "gpt-4o"}, {"name": "mini"}],
            "health": {"probe": {"path": "Disabled"}},
            "throttling": {"rampUp": "0s"},
        },
        endpoints={name: {"dedicatedTo": refs} for name, refs in own.items()},
        tenants={name: key(name) for name in TENANTS},
        quotas={"search": {"spillOver": spill, "limits": {"requestsPerMinute": 10_000}}},
    )


@pytest_asyncio.fixture
async def azure() -> AsyncIterator[Simulator]:
    """Three regions; each calls the models by names of its own."""
    deployed = {"shared": ("gpt-4o", "mini"), "own": ("gpt-4o", "mini"), "private": ("mini",)}
    regions = [
        Region(name=region, deployments=[Deployment(name=f"{m}-{region}", model=m) for m in models])
        for region, models in deployed.items()
    ]
    async with Simulator(regions) as running:
        yield running


@pytest_asyncio.fixture
async def gateway(azure: Simulator) -> AsyncIterator[LocalGateway]:
    async with LocalGateway(manifest(azure)) as running:
        yield running


async def call(
    gateway: LocalGateway, tenant: str, model: str = "gpt-4o", *, path: str = "v1/chat/completions", **headers: str
) -> httpx.Response:
    """Ask as a tenant, and return the answer as it came."""
    async with httpx.AsyncClient(timeout=30) as client:
        return await client.post(
            f"{gateway.url}/ai/chat/openai/{path}",
            headers={"api-key": key(tenant), **headers},
            params={"api-version": "2024-10-21"} if "deployments" in path else None,
            json={"model": model, "messages": HELLO},
        )


async def reached(gateway: LocalGateway, azure: Simulator, tenant: str, model: str, **options: str) -> str:
    """Return the region that answered."""
    answer = await call(gateway, tenant, model, **options)
    assert answer.status_code == 200, answer.text
    return last(azure).region


@pytest.mark.parametrize("path", ["v1/chat/completions", "deployments/{model}/chat/completions"])
async def test_each_reaches_its_own(gateway: LocalGateway, azure: Simulator, path: str) -> None:
    for tenant, model, region in (
        ("search", "gpt-4o", "own"),
        ("search", "mini", "own"),
        ("law", "mini", "private"),
        ("other", "gpt-4o", "shared"),
        ("other", "mini", "shared"),
    ):
        for _ in range(3):
            assert await reached(gateway, azure, tenant, model, path=path.format(model=model)) == region
            assert last(azure).deployment == f"{model}-{region}"


async def test_a_model_that_only_others_have_does_not_exist(gateway: LocalGateway) -> None:
    for path in ("v1/chat/completions", "deployments/gpt-4o/chat/completions"):
        assert (await call(gateway, "law", path=path)).status_code == 404
    async with gateway.client(key=key("law")) as client:
        assert [model.id async for model in await client.models.list()] == ["mini"]
    async with gateway.client(key=key("other")) as client:
        assert [model.id async for model in await client.models.list()] == ["gpt-4o", "mini"]


async def test_one_that_spills_over_is_served_while_its_own_is_out(gateway: LocalGateway, azure: Simulator) -> None:
    azure.fault("own", Status(status=500))
    assert await reached(gateway, azure, "search", "gpt-4o") == "shared"
    azure.heal("own")

    async def back() -> bool:
        return await reached(gateway, azure, "search", "gpt-4o") == "own"

    await eventually(back, within=30, what="it goes back to its own")


async def test_one_that_does_not_waits_for_its_own(gateway: LocalGateway, azure: Simulator) -> None:
    gateway.write(manifest(azure, spill=False))

    async def alone() -> bool:
        azure.fault("own", Status(status=500))
        refused = (await call(gateway, "search")).status_code >= 500
        azure.heal("own")
        return refused

    await eventually(alone, within=30, what="it spills over no more")
    before = len(requests(azure))
    azure.fault("private", Status(status=500))
    assert (await call(gateway, "law", "mini")).status_code >= 500
    assert {record.region for record in requests(azure)[before:]} == {"private"}


async def test_no_header_leads_to_what_is_anothers(gateway: LocalGateway, azure: Simulator) -> None:
    assert await reached(gateway, azure, "search", "gpt-4o") == "own"
    config = await gateway.admin("/config_dump?resource=dynamic_route_configs")
    lane = lane_in(config)
    for headers in (
        {"x-aoai-lane": lane},
        {"x-aoai-lane": lane, "x-aoai-model": "mini"},
        {"x-aoai-tenant": "ai/search"},
        {"x-aoai-tenant": "ai/search", "x-aoai-lane": lane},
        {"X-AOAI-Lane": lane, "x-envoy-original-path": "/ai/chat"},
    ):
        assert await reached(gateway, azure, "other", "mini", **headers) == "shared"
        assert "x-aoai-lane" not in last(azure).header_names


async def test_an_endpoint_that_is_everybodys_again_is_reached_by_all(gateway: LocalGateway, azure: Simulator) -> None:
    gateway.write(manifest(azure, dedicated=False))

    async def all_reached() -> bool:
        return {await reached(gateway, azure, "other", "mini") for _ in range(12)} == {"shared", "own", "private"}

    await eventually(all_reached, within=30, what="all regions serve everybody")

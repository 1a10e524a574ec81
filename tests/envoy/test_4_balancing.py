"""Line 4: shares within a priority, spill-over only when every endpoint of the higher ones is out, and drain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Literal

import pytest
import pytest_asyncio

from aoai_operator.core.names import HostKey, PoolKey
from aoai_operator.core.observed import HostState, Reason, State
from aoai_operator.simulator import BadHeaders, Deployment, Region, Simulator, Slow, Throttle
from support.calls import HELLO, ask, heal
from support.dataplane import DataPlane
from support.manifests import pool_manifest
from support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

OUT = HostState(state=State.UNHEALTHY, reason=Reason.CONNECT)
LIMITS = {"head-a": 4_000_000, "head-b": 1_000_000}
POOLS: dict[str, tuple[list[str], dict[str, Any], dict[str, Any]]] = {
    "headroom": (["head-a", "head-b"], {}, {}),
    "weighted": (
        ["weight-a", "weight-b"],
        {"balancing": {"strategy": "Weighted"}},
        {"weight-a": {"weight": 3}, "weight-b": {"weight": 1}},
    ),
    "least": (["least-a", "least-b"], {"balancing": {"strategy": "LeastRequest"}}, {}),
    "tiers": (["tier-a", "tier-b", "tier-c"], {}, {"tier-c": {"priority": 1}}),
    "drain": (["drain-a", "drain-b"], {}, {}),
    "twins": (["twins"], {}, {}),
}
"""Regions, spec and changes of the endpoints, by pool."""


def key(pool: str) -> str:
    """Return the key of a pool's tenant."""
    return f"{pool}-key-0123456789"


def manifests(azure: Simulator, **endpoints: dict[str, Any]) -> str:
    """Return all pools, with these changes of endpoints."""
    return "---\n".join(
        pool_manifest(
            [azure.regions[name] for name in regions],
            name=pool,
            spec=spec,
            tenants={pool: key(pool)},
            endpoints={**changes, **endpoints},
        )
        for pool, (regions, spec, changes) in POOLS.items()
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def azure() -> AsyncIterator[Simulator]:
    """The regions of all pools; "twins" has the model twice."""

    def deployments(name: str) -> list[Deployment]:
        names = ["gpt-4o", "gpt-4o-more"] if name == "twins" else ["gpt-4o"]
        return [Deployment(name=n, model="gpt-4o", tokens_per_minute=LIMITS.get(name)) for n in names]

    names = [name for regions, _, _ in POOLS.values() for name in regions]
    async with Simulator([Region(name=name, deployments=deployments(name)) for name in names]) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(azure: Simulator) -> AsyncIterator[DataPlane]:
    """All pools."""
    async with DataPlane(manifests(azure)) as running:
        yield running


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def healed(azure: Simulator) -> None:
    """Start each test with healthy regions."""
    heal(azure)


async def shares(gateway: DataPlane, azure: Simulator, pool: str, requests: int) -> list[float]:
    """Ask a pool one by one, and return each region's share of the answers."""
    regions = [azure.regions[name] for name in POOLS[pool][0]]
    before = [r.served for r in regions]
    async with gateway.client(pool=f"ai/{pool}", key=key(pool)) as client:
        for _ in range(requests):
            assert await ask(client)
    await eventually(lambda: sum(r.served for r in regions) - sum(before) >= requests)
    return [(r.served - b) / requests for r, b in zip(regions, before, strict=True)]


async def test_headroom_follows_the_tokens_that_are_left(gateway: DataPlane, azure: Simulator) -> None:
    async def as_the_tokens() -> bool:
        larger, smaller = await shares(gateway, azure, "headroom", 50)
        return 0.72 <= larger <= 0.88 and smaller > 0

    await eventually(as_the_tokens)
    azure.regions["head-a"].adjust("gpt-4o", tokens_per_minute=1_000_000)

    async def even() -> bool:
        larger, _ = await shares(gateway, azure, "headroom", 50)
        return 0.4 <= larger <= 0.6

    await eventually(even)
    azure.regions["head-a"].adjust("gpt-4o", tokens_per_minute=LIMITS["head-a"])


@pytest.mark.parametrize("form", ["minus_one", "zero", "missing", "garbage"])
@pytest.mark.parametrize("where", [["head-a"], ["head-a", "head-b"]], ids=["one", "both"])
async def test_unusable_headers_cost_no_request_and_starve_no_region(
    gateway: DataPlane, azure: Simulator, form: Literal["minus_one", "zero", "missing", "garbage"], where: list[str]
) -> None:
    for name in where:
        azure.fault(name, BadHeaders(form=form))

    async def both() -> bool:
        return min(await shares(gateway, azure, "headroom", 40)) > 0

    await eventually(both)


async def test_weighted_shares(gateway: DataPlane, azure: Simulator) -> None:
    async def three_to_one() -> bool:
        larger, _ = await shares(gateway, azure, "weighted", 80)
        return 0.7 <= larger <= 0.8

    await eventually(three_to_one)


async def test_least_request_prefers_who_has_less_to_do(gateway: DataPlane, azure: Simulator) -> None:
    azure.fault("least-a", Slow(seconds=0.5))
    slow, fast = azure.regions["least-a"], azure.regions["least-b"]

    async def loop(client: Any) -> None:
        for _ in range(10):
            assert await ask(client)

    async with gateway.client(pool="ai/least", key=key("least")) as client:
        await asyncio.gather(*(loop(client) for _ in range(8)))
    assert fast.attempts > 2 * slow.attempts


async def test_a_lower_priority_gets_nothing_while_one_of_the_higher_lives(
    gateway: DataPlane, azure: Simulator
) -> None:
    def host(name: str) -> HostKey:
        return HostKey(PoolKey("ai", "tiers"), name, "gpt-4o")

    assert (await shares(gateway, azure, "tiers", 30))[2] == 0
    await gateway.observe({host("tier-a"): OUT})
    assert await shares(gateway, azure, "tiers", 30) == [0, 1, 0]
    await gateway.observe({host("tier-a"): OUT, host("tier-b"): OUT})
    assert await shares(gateway, azure, "tiers", 30) == [0, 0, 1]
    await gateway.observe({host("tier-a"): OUT})
    assert await shares(gateway, azure, "tiers", 30) == [0, 1, 0]
    await gateway.observe({})
    assert (await shares(gateway, azure, "tiers", 30))[2] == 0


async def test_retries_leave_a_priority_only_when_all_of_it_refuses(gateway: DataPlane, azure: Simulator) -> None:
    azure.fault("tier-a", Throttle())
    assert await shares(gateway, azure, "tiers", 30) == [0, 1, 0]
    azure.fault("tier-b", Throttle())
    assert await shares(gateway, azure, "tiers", 10) == [0, 0, 1]


async def test_a_drained_endpoint_gets_nothing_new_and_finishes_what_runs(gateway: DataPlane, azure: Simulator) -> None:
    drained = azure.regions["drain-a"]
    for name in ("drain-a", "drain-b"):
        azure.fault(name, Slow(seconds=0, between_events=0.1))
    async with gateway.client(pool="ai/drain", key=key("drain")) as client:
        while not drained.attempts:
            stream = await client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True, max_tokens=20)
            await anext(stream)
        await gateway.apply(manifests(azure, **{"drain-a": {"drain": True}}))
        azure.heal("drain-b")
        rest = [c async for c in stream]
        assert rest[-1].choices[0].finish_reason
    assert await shares(gateway, azure, "drain", 20) == [0, 1]
    assert drained.attempts == 1
    await gateway.apply(manifests(azure))
    azure.heal("drain-a")

    async def back() -> bool:
        return (await shares(gateway, azure, "drain", 20))[0] > 0

    await eventually(back)


async def test_two_deployments_of_one_resource_are_two(gateway: DataPlane, azure: Simulator) -> None:
    async def both() -> bool:
        azure.reset_counts()
        await shares(gateway, azure, "twins", 20)
        return all(d.counts.served >= 5 for d in azure.regions["twins"].deployments.values())

    await eventually(both)
    azure.fault("twins", Throttle(deployment="gpt-4o"))
    azure.reset_counts()
    assert await shares(gateway, azure, "twins", 20) == [1]
    assert azure.regions["twins"].deployments["gpt-4o-more"].counts.served == 20

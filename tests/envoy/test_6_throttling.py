"""Line 6: a throttled deployment is left alone until its Retry-After is over, and gets its share back step by step."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from aoai_operator.simulator import Deployment, Region, RunningRegion, Simulator, Throttle
from support.calls import ask
from support.local import LocalGateway
from support.manifests import pool_manifest
from support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

POOLS = ("ms", "seconds", "absurd", "pair", "ramp", "eds")
"""Each test has a pool and two regions of its own."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def azure() -> AsyncIterator[Simulator]:
    """Two regions a pool, with two models."""
    deployments = [Deployment(name="gpt-4o", model="gpt-4o"), Deployment(name="mini", model="mini")]
    names = [f"{pool}-{side}" for pool in POOLS for side in ("east", "west")]
    async with Simulator([Region(name=name, deployments=deployments) for name in names]) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(azure: Simulator) -> AsyncIterator[LocalGateway]:
    """All pools on one gateway, with short caps and ramps; probes, which ask for models too, are out of the way."""

    def manifest(pool: str) -> str:
        spec = {
            "balancing": {"strategy": "Weighted"},
            "throttling": {"maxRetryAfter": "2s", "rampUp": "4s" if pool == "ramp" else "1s"},
            "health": {"probe": {"path": "Disabled"}},
        }
        regions = [azure.regions[f"{pool}-{side}"] for side in ("east", "west")]
        return pool_manifest(regions, name=pool, tenants={pool: key(pool)}, spec=spec)

    async with LocalGateway({f"{pool}.yaml": manifest(pool) for pool in POOLS}) as running:
        yield running


def key(pool: str) -> str:
    """Return the key of a pool's tenant."""
    return f"{pool}-key-0123456789"


async def throttled(gateway: LocalGateway, azure: Simulator, pool: str, fault: Throttle) -> RunningRegion:
    """Throttle a pool's eastern region, ask until it has refused once and the operator knows, and return it."""
    east = azure.regions[f"{pool}-east"]
    async with gateway.client(pool=f"ai/{pool}", key=key(pool)) as client:
        azure.fault(east.name, fault)

        async def refused() -> bool:
            assert await ask(client)
            return east.throttled > 0

        await eventually(refused)
        azure.heal(east.name)
        await eventually(lambda: shown(gateway, east) == "Throttled")
    return east


def shown(gateway: LocalGateway, region: RunningRegion, deployment: str = "gpt-4o") -> str:
    """Return the state of a region's deployment as last shown."""
    found = [e for e in gateway.events_of("transition") if e["name"].endswith(f" {region.name}/{deployment}")]
    return str(found[-1]["value"]) if found else ""


@pytest.mark.parametrize(
    ("pool", "fault", "wait"),
    [
        ("ms", Throttle(retry_after_ms=1500), 1.5),
        ("seconds", Throttle(retry_after=1), 1.0),
        ("absurd", Throttle(retry_after=86_400), 2.0),
    ],
)
async def test_a_throttled_region_is_asked_no_more_until_its_time_is_over(
    gateway: LocalGateway, azure: Simulator, pool: str, fault: Throttle, wait: float
) -> None:
    """The attempt that was refused is the only one that is wasted; 86400 s are cut to maxRetryAfter."""
    east = await throttled(gateway, azure, pool, fault)
    async with gateway.client(pool=f"ai/{pool}", key=key(pool)) as client:

        async def back() -> bool:
            assert await ask(client)
            return east.served > 0

        while shown(gateway, east) == "Throttled":
            assert await ask(client)
        assert east.throttled == 1
        await eventually(back)
    refused = next(r.at for r in east.log if r.status == 429)
    again = next(r.at for r in east.log if r.at > refused)
    assert again - refused >= wait


async def test_a_throttle_concerns_one_deployment(gateway: LocalGateway, azure: Simulator) -> None:
    east = await throttled(gateway, azure, "pair", Throttle(retry_after_ms=2000, deployment="gpt-4o"))
    async with gateway.client(pool="ai/pair", key=key("pair")) as client:
        before = east.deployments["mini"].counts.served
        while east.deployments["mini"].counts.served - before < 3:
            assert await ask(client, "mini")
        assert shown(gateway, east) == "Throttled"
        assert shown(gateway, east, "mini") != "Throttled"


async def test_a_region_that_returns_gets_its_share_back_step_by_step(gateway: LocalGateway, azure: Simulator) -> None:
    east = await throttled(gateway, azure, "ramp", Throttle(retry_after_ms=1000))
    west = azure.regions["ramp-west"]
    async with gateway.client(pool="ai/ramp", key=key("ramp")) as client:
        while shown(gateway, east) == "Throttled":
            assert await ask(client)

        async def share(requests: int) -> float:
            before = east.served, west.served
            for _ in range(requests):
                assert await ask(client)
            return (east.served - before[0]) / requests

        assert await share(40) < 0.3

        async def whole() -> bool:
            return await share(40) >= 0.45

        await eventually(whole)


async def test_a_throttle_and_its_end_send_endpoints_only(gateway: LocalGateway, azure: Simulator) -> None:
    before = await acknowledged(gateway)
    east = await throttled(gateway, azure, "eds", Throttle(retry_after_ms=1000))
    await eventually(lambda: shown(gateway, east) == "Healthy")

    async def sent() -> bool:
        return (await acknowledged(gateway)).get("ENDPOINT", 0) >= before["ENDPOINT"] + 2

    await eventually(sent)
    after = await acknowledged(gateway)
    assert {kind for kind in after if after[kind] != before.get(kind)} == {"ENDPOINT"}


async def acknowledged(gateway: LocalGateway) -> dict[str, float]:
    """Return how many configuration updates of each type Envoy acknowledged."""
    families = text_string_to_metric_families(await gateway.metrics())
    samples = [s for family in families for s in family.samples if s.name == "aoai_xds_answers_total"]
    return {s.labels["type"].upper(): s.value for s in samples if s.labels["answer"] == "ack"}


async def test_every_state_is_shown_once_when_it_begins(gateway: LocalGateway, azure: Simulator) -> None:
    for region in azure.regions.values():
        states = [e["value"] for e in gateway.events_of("transition") if e["name"].endswith(f" {region.name}/gpt-4o")]
        assert all(one != other for one, other in pairwise(states))

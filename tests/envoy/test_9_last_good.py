"""Line 9: a broken pool keeps its last good state and touches no other; equal content is never sent again.

What Envoy itself refuses is tried in tests/local/test_refusals.py and tests/envoy/test_xds.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import openai
import pytest
import pytest_asyncio
import yaml
from prometheus_client.parser import text_string_to_metric_families

from aoai_operator.simulator import Deployment, Region, Simulator
from support.calls import ask
from support.local import LocalGateway
from support.manifests import pool_manifest, to_yaml
from support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMES = ("first", "second")


def key(pool: str) -> str:
    """Return the key of a pool's tenant."""
    return f"{pool}-key-0123456789"


def manifest(azure: Simulator, pool: str, **endpoint: object) -> str:
    """Return one of the two pools, with a change of its endpoint in the east."""
    spec = {"balancing": {"strategy": "Weighted"}, "health": {"probe": {"path": "Disabled"}}}
    return pool_manifest(azure, name=pool, tenants={pool: key(pool)}, spec=spec, endpoints={"eastus": dict(endpoint)})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def azure() -> AsyncIterator[Simulator]:
    """Two regions."""
    deployments = [Deployment(name="gpt-4o", model="gpt-4o")]
    async with Simulator([Region(name=n, deployments=deployments) for n in ("eastus", "westus")]) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(azure: Simulator) -> AsyncIterator[LocalGateway]:
    """Two pools of them, in a file each."""
    async with LocalGateway({f"{pool}.yaml": manifest(azure, pool) for pool in NAMES}) as running:
        yield running


async def serves(gateway: LocalGateway, pool: str) -> bool:
    """Tell whether a pool answers."""
    async with gateway.client(pool=f"ai/{pool}", key=key(pool)) as client:
        try:
            return bool(await ask(client))
        except openai.OpenAIError:
            return False


async def acknowledged(gateway: LocalGateway) -> dict[str, float]:
    """Return how many configuration updates of each type Envoy acknowledged."""
    families = text_string_to_metric_families(await gateway.metrics())
    samples = [s for family in families for s in family.samples if s.name == "aoai_xds_answers_total"]
    return {s.labels["type"]: s.value for s in samples if s.labels["answer"] == "ack"}


async def test_a_broken_pool_serves_on_and_another_takes_its_change(gateway: LocalGateway, azure: Simulator) -> None:
    gateway.write(manifest(azure, "first").replace("  models:\n", "  modles:\n", 1), "first.yaml")
    await eventually(lambda: gateway.events_of("broken"))
    gateway.write(manifest(azure, "second", drain=True), "second.yaml")
    await eventually(lambda: any(e["value"] == "Draining" for e in gateway.events_of("transition")))
    azure.reset_counts()
    while not azure.regions["eastus"].served:
        assert await serves(gateway, "first")

    async def drained() -> bool:
        azure.reset_counts()
        for _ in range(6):
            assert await serves(gateway, "second")
        return not azure.regions["eastus"].attempts

    await eventually(drained)


async def test_a_pool_that_cannot_be_used_leaves_the_other_alone(gateway: LocalGateway, azure: Simulator) -> None:
    documents = list(yaml.safe_load_all(manifest(azure, "first")))
    gateway.write(to_yaml(d for d in documents if d["kind"] != "Secret"), "first.yaml")

    async def out() -> bool:
        return not await serves(gateway, "first")

    await eventually(out)
    assert await serves(gateway, "second")
    gateway.write(to_yaml(documents), "first.yaml")
    await eventually(lambda: serves(gateway, "first"))


async def test_equal_content_is_not_sent_again(gateway: LocalGateway, azure: Simulator) -> None:
    """Written anew in another order, with a change of one weight: one list of endpoints goes out, and nothing else."""
    before = await acknowledged(gateway)
    documents = list(yaml.safe_load_all(manifest(azure, "first")))
    gateway.write(to_yaml(reversed(documents)), "first.yaml")
    gateway.write(manifest(azure, "second", weight=7), "second.yaml")

    async def sent() -> bool:
        return await acknowledged(gateway) != before

    await eventually(sent)
    after = await acknowledged(gateway)
    assert {kind: after[kind] - before[kind] for kind in after if after[kind] != before[kind]} == {"endpoint": 1}

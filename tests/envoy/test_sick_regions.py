"""More sick regions than attempts: what keeps failing in the traffic is taken out, and clients see no more of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import openai
import pytest
import pytest_asyncio

from aoai_operator.simulator import Deployment, Region, Simulator, Status
from support.calls import ask
from support.local import LocalGateway
from support.manifests import pool_manifest
from support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

SICK = ("one", "two", "three")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def azure() -> AsyncIterator[Simulator]:
    """Four regions, of which three will answer 500, or 403, while their probes are good."""
    deployment = Deployment(name="gpt-4o", model="gpt-4o")
    async with Simulator([Region(name=name, deployments=[deployment]) for name in (*SICK, "well")]) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(azure: Simulator) -> AsyncIterator[LocalGateway]:
    """One pool of all four, with three attempts a request."""
    async with LocalGateway(pool_manifest(azure, spec={"balancing": {"strategy": "LeastRequest"}})) as running:
        yield running


@pytest.mark.parametrize("status", [500, 403])
async def test_the_one_well_region_serves_alone(gateway: LocalGateway, azure: Simulator, status: int) -> None:
    for name in SICK:
        azure.fault(name, Status(status=status, deployment="gpt-4o"))
    in_a_row = 0
    async with gateway.client() as client:

        async def answered_thirty_in_a_row() -> bool:
            nonlocal in_a_row
            try:
                await ask(client)
            except openai.APIStatusError:
                in_a_row = 0
            else:
                in_a_row += 1
            return in_a_row >= 30

        await eventually(answered_thirty_in_a_row, within=40)
        for name in SICK:
            azure.heal(name)
        azure.reset_counts()

        async def all_serve() -> bool:
            await ask(client)
            return all(region.served for region in azure.regions.values())

        await eventually(all_serve, within=40)

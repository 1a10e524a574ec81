"""A replica or an Envoy dies under load: its clients notice nothing, and the others do its work."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from aoai_operator.simulator import Deployment, Down, Slow
from support.cluster.control_plane import ControlPlane
from support.cluster.fleet import AT_ONCE, change, converged, leader, other, start_fleet, takes_over, whole
from support.cluster.house import House
from support.load import load

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def fleet(_session_plane: ControlPlane) -> AsyncIterator[House]:
    """Two replicas, two Envoys; a model of its own in one region, with long streams."""
    async with _session_plane.namespace() as namespace, House(_session_plane, namespace) as house:
        house.azure.regions["west"].deploy(Deployment(name="long", model="long"))
        house.azure.fault("west", Slow(deployment="long", seconds=0.0, between_events=0.3))
        await start_fleet(house)
        yield house


@pytest_asyncio.fixture(loop_scope="session")
async def house(fleet: House) -> AsyncIterator[House]:
    """The same, whole again."""
    yield fleet
    fleet.azure.heal("east")
    await whole(fleet)


async def test_the_leader_is_killed(house: House) -> None:
    first = await leader(house)
    async with load(house.client(max_retries=0), streams="long") as under:
        await first.part.kill()
        await under.goes_on()
        await takes_over(house, other(house, first))
        house.azure.fault("east", Down())
        await under.goes_on()
    house.azure.heal("east")
    await first.part.start()
    await converged(house)
    assert await leader(house) is not first


async def test_a_follower_is_killed(house: House) -> None:
    first = await leader(house)
    async with load(house.client(max_retries=0), streams="long") as under:
        await other(house, first).part.kill()
        # Its Envoys go over to the leader.
        await change(house)
        await under.goes_on()
    assert await leader(house) is first


async def test_the_leader_is_asked_to_end(house: House) -> None:
    first = await leader(house)
    async with load(house.client(max_retries=0), streams="long") as under:
        await first.part.stop()
        await takes_over(house, other(house, first), within=AT_ONCE)
        await under.goes_on()


async def test_an_envoy_is_killed(house: House) -> None:
    """What is under way in a process that is killed is lost anywhere: here the SDK's own retries are used."""
    killed = house.release.gateways["gateway-0"]
    async with load(house.client(max_retries=2)) as under:
        await killed.part.kill()
        await under.goes_on(100)
        await change(house, proxies=1)
        await killed.part.start()
        await converged(house)


async def test_all_replicas_are_killed_and_one_comes_back_to_an_envoy_that_knows_nothing(house: House) -> None:
    fresh = house.release.gateways["gateway-0"]
    operators = tuple(house.release.operators.values())
    async with load(house.client(max_retries=0), streams="long") as under:
        for operator in operators:
            await operator.part.kill()
        house.azure.fault("east", Down())
        await under.goes_on(100)
    house.azure.heal("east")
    async with load(house.client(max_retries=2)) as under:
        await fresh.part.kill()
        await fresh.part.start()
        # It listens to no client before it has a table, so that all of them are served by the other one.
        await under.goes_on(100)
        await operators[1].part.start()
        await takes_over(house, operators[1])
        await change(house)

"""What one Envoy meets, all of them use: a region that throttles costs an attempt an Envoy at most, and no client."""

from __future__ import annotations

from aoai_operator.simulator import Throttle
from support.calls import ask
from support.cluster.control_plane import ControlPlane
from support.cluster.fleet import left_alone, start_fleet
from support.cluster.house import House
from support.load import load
from support.waiting import eventually


async def test_what_one_envoy_learns_of_a_throttle_is_told_to_all(plane: ControlPlane, namespace: str) -> None:
    async with House(plane, namespace) as house:
        await start_fleet(house)
        east = house.azure.regions["east"]

        def refused() -> int:
            return [record.status for record in east.log].count(429)

        # Longer than this test: nobody may try again.
        house.azure.fault("east", Throttle(retry_after_ms=600_000))
        async with house.client(max_retries=0) as client:
            # One connection, and so one Envoy.
            while not refused():
                await ask(client)
        await eventually(lambda: left_alone(house, "east"), what="both Envoys leave the region alone")
        before = refused()
        assert before <= len(house.release.gateways)
        async with load(house.client(max_retries=0)) as under:
            await under.goes_on(200)
        assert refused() == before
        found = (await house.pool_is("Healthy", "False"))["status"]
        assert {e["name"]: e["state"] for e in found["endpoints"]} == {"east": "Throttled", "west": "Healthy"}
        assert found["healthyEndpoints"] == "1/2"
        await house.pool_is("Ready")

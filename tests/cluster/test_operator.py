"""The operator of the chart, on the real API server, with the real Envoy: from `kubectl apply` to the SDK's answer."""

from __future__ import annotations

from support.calls import ask
from support.cluster.house import House


async def test_a_pool_that_is_applied_is_served(house: House) -> None:
    await house.apply_pool()
    pool = await house.pool_is("Ready")
    assert pool["status"]["healthyEndpoints"] == "2/2"
    assert pool["status"]["proxies"] == {"connected": 1, "programmed": 1}
    async with house.client() as client:
        assert await ask(client)

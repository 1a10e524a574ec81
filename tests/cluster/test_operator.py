"""The operator of the chart, on the real API server, with the real Envoy: from `kubectl apply` to the SDK's answer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from prometheus_client.parser import text_string_to_metric_families

from support.calls import ask
from support.cluster.control_plane import ControlPlane
from support.cluster.house import House
from support.waiting import eventually


async def test_a_pool_that_is_applied_is_served(house: House) -> None:
    await house.apply_pool()
    pool = await house.pool_is("Ready")
    assert pool["status"]["healthyEndpoints"] == "2/2"
    assert pool["status"]["proxies"] == {"connected": 1, "programmed": 1}
    async with house.client() as client:
        assert await ask(client)


async def test_an_envoy_in_the_operators_pod_needs_no_certificate(plane: ControlPlane, namespace: str) -> None:
    async with House(plane, namespace, values={"gateway": {"placement": "OperatorPod"}}) as house:
        operator = await house.release.start_operator()
        await house.release.start_gateway(beside=operator)
        await house.apply_pool()
        pool = await house.pool_is("Ready")
        assert pool["status"]["proxies"] == {"connected": 1, "programmed": 1}
        async with house.client() as client:
            assert await ask(client)

        async def counted() -> bool:
            return "aoai_requests_total{" in await operator.metrics()

        await eventually(counted, what="the request came back in the access log, by the pipe")
        gauges = {f.name: f.samples for f in text_string_to_metric_families(await operator.metrics())}
        (expiry,), (refused,) = gauges["aoai_own_certificate_expires_seconds"], gauges["aoai_refused_tables"]
        assert datetime.fromtimestamp(expiry.value, UTC) - datetime.now(UTC) > timedelta(days=1)
        assert refused.value == 0

        await operator.part.kill()
        async with house.client() as client:
            assert await ask(client)
        await operator.part.start()
        await house.apply_pool(spec={"timeouts": {"connect": "3s"}})
        pool = await house.pool_is("Programmed")
        assert pool["status"]["proxies"] == {"connected": 1, "programmed": 1}

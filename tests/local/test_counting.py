"""Every metric is fed by `aoai-operator local`, whatever its parts: real processes, a real scrape."""

from __future__ import annotations

from contextlib import suppress

from openai import AsyncOpenAI, RateLimitError
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from aoai_operator.metrics import Metrics
from aoai_operator.simulator import Simulator
from aoai_operator.simulator.faults import Throttle
from support.local import LocalGateway
from support.manifests import TENANT_KEY, pool_manifest
from support.waiting import eventually

OF_FAULTS = {"aoai_envoy_restarts"}
"""These stay 0 while nothing breaks."""
OF_HTTPS = {"aoai_certificate_expires_seconds"}
"""There is no certificate here."""
OF_CLUSTERS = {
    "aoai_leader",
    "aoai_reconcile_duration_seconds",
    "aoai_unwritten_objects",
    "aoai_refused_tables",
    "aoai_own_certificate_expires_seconds",
    "aoai_quota_unanswered",
    "aoai_kube_call_duration_seconds",
}
"""There is no API server here."""
OF_AZURE = {
    "aoai_token_requests",
    "aoai_token_expires_seconds",
    "aoai_discovery_readings",
    "aoai_model_retires_seconds",
}
"""Endpoints are written down here, and have keys."""
PRICES = {"input": 2.5, "output": 10, "currency": "USD"}


def counted(scraped: str) -> set[str]:
    """Return the families with a sample that is not 0."""
    families = text_string_to_metric_families(scraped)
    return {family.name for family in families if any(sample.value for sample in family.samples)}


async def test_traffic_a_throttle_and_a_probe_feed_every_metric(regions: Simulator) -> None:
    names = {metric.name for metric in Metrics(CollectorRegistry()).registry.collect()}
    regions.fault("eastus", Throttle(retry_after=1))
    manifest = pool_manifest(
        regions,
        spec={"models": [{"name": "gpt-4o", "prices": PRICES}]},
        tenants={"team": TENANT_KEY, "capped": "capped-0000000000", "shadow": "shadow-0000000000"},
        quotas={
            "team": {"limits": {"budgets": [{"period": "Day", "cost": {"amount": 1000, "currency": "USD"}}]}},
            "capped": {"limits": {"requestsPerMinute": 1}},
            "shadow": {"limits": {"requestsPerMinute": 1}, "enforcement": "Shadow"},
        },
    )
    async with LocalGateway(manifest) as gateway, gateway.client() as client:

        async def asks(who: AsyncOpenAI) -> None:
            await who.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hello"}])

        async def all_fed() -> bool:
            await asks(client)
            await asks(client.with_options(api_key="shadow-0000000000"))
            with suppress(RateLimitError):
                await asks(client.with_options(api_key="capped-0000000000"))
            return names - counted(await gateway.metrics()) == OF_FAULTS | OF_HTTPS | OF_CLUSTERS | OF_AZURE

        await eventually(all_fed, what=f"all of {names} are counted")
        assert "_created" not in await gateway.metrics()
        ids = {line.get("request_id") for line in gateway.logs if line["event"] == "a request was answered"}
    assert ids
    assert "" not in ids

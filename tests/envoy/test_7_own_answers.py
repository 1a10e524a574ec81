"""Line 7: what the gateway answers itself, above all when every region is out, as the SDK's own exceptions."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio

from aoai_operator.simulator import Blackhole, Deployment, Down, Region, Simulator, Throttle
from support.calls import ask
from support.local import LocalGateway
from support.manifests import TENANT_KEY, pool_manifest, secret, tenant_quota, to_yaml
from support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

POOLS = ("out", "waits", "sick", "down", "slow", "full", "plain")
"""Each test has a pool and two regions of its own."""
RETURN = 200
"""Milliseconds that a refusal adds to the wait, in which the region is let in again."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def azure() -> AsyncIterator[Simulator]:
    """Two regions a pool."""
    names = [f"{pool}-{side}" for pool in POOLS for side in ("east", "west")]
    deployments = [Deployment(name="gpt-4o", model="gpt-4o"), Deployment(name="mini", model="mini")]
    async with Simulator([Region(name=name, deployments=deployments) for name in names]) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(azure: Simulator) -> AsyncIterator[LocalGateway]:
    """All pools on one gateway; one tenant of all, and one of a single model of one."""
    quick = {"probe": {"interval": "1s", "timeout": "500ms"}, "unhealthyAfter": 1, "healthyAfter": 1}
    quiet = {"probe": {"path": "Disabled"}}
    specs: dict[str, dict[str, Any]] = {
        "sick": {"health": quick},
        "slow": {"health": quiet, "failover": {"perTryTimeout": "200ms"}},
        "full": {"health": quiet, "limits": {"maxConcurrentRequests": 1}},
        "plain": {"health": quiet, "limits": {"maxRequestBytes": "1Ki"}},
    }

    def manifest(pool: str) -> str:
        regions = [azure.regions[f"{pool}-{side}"] for side in ("east", "west")]
        return pool_manifest(regions, name=pool, tenants={}, spec=specs.get(pool, {"health": quiet}))

    tenants = to_yaml(
        [
            tenant_quota("team", *POOLS),
            secret("team-key", TENANT_KEY),
            tenant_quota("small", "plain", models=["gpt-4o"]),
            secret("small-key", "small-key-0123456789"),
        ]
    )
    files = {f"{pool}.yaml": manifest(pool) for pool in POOLS}
    async with LocalGateway({**files, "tenants.yaml": tenants}) as running:
        yield running


async def refusal(gateway: LocalGateway, pool: str, **options: object) -> openai.APIStatusError:
    """Ask a pool, and return the SDK's exception, which must hold an error in OpenAI's form (Azure's have no type)."""
    async with gateway.client(pool=f"ai/{pool}") as client:
        with pytest.raises(openai.APIStatusError) as error:
            await ask(client, **options)  # type: ignore[arg-type]
    body = error.value.body
    assert isinstance(body, dict)
    assert set(body) >= {"message", "code"}
    assert body["message"]
    return error.value


def wait_of(error: openai.APIStatusError) -> int:
    """Return the milliseconds that a refusal asks for, in both headers."""
    wait = int(error.response.headers["retry-after-ms"])
    assert error.response.headers["retry-after"] == str(math.ceil(wait / 1000))
    return wait


def states(gateway: LocalGateway, pool: str) -> list[str]:
    """Return the last shown states of a pool's two regions."""
    latest = {e["name"]: e["value"] for e in gateway.events_of("transition") if e["name"].startswith(f"ai/{pool} ")}
    return [v for name, v in latest.items() if name.endswith("/gpt-4o")]


async def test_when_all_are_out_the_smallest_wait_is_told_and_counts_down(
    gateway: LocalGateway, azure: Simulator
) -> None:
    azure.fault("out-east", Throttle(retry_after_ms=3000))
    azure.fault("out-west", Throttle(retry_after_ms=30_000))
    first = await refusal(gateway, "out")
    assert isinstance(first, openai.RateLimitError)
    assert 0 < wait_of(first) <= 3000 + RETURN
    await eventually(lambda: states(gateway, "out") == ["Throttled", "Throttled"])
    attempts = [azure.regions[f"out-{side}"].attempts for side in ("east", "west")]
    told = []

    async def later() -> bool:
        again = await refusal(gateway, "out")
        assert isinstance(again, openai.RateLimitError)
        assert again.type == "rate_limit_exceeded"
        told.append(wait_of(again))
        return told[-1] <= 2500

    await eventually(later)
    assert told == sorted(told, reverse=True)
    assert 0 < told[-1] <= told[0] <= 3000 + RETURN
    assert [azure.regions[f"out-{side}"].attempts for side in ("east", "west")] == attempts
    azure.heal("out-east")

    async def served() -> bool:
        async with gateway.client(pool="ai/out") as client:
            try:
                return bool(await ask(client))
            except openai.RateLimitError:
                return False

    await eventually(served)
    assert azure.regions["out-east"].served


async def test_the_sdks_own_retries_wait_as_long_as_they_are_told(gateway: LocalGateway, azure: Simulator) -> None:
    for side in ("east", "west"):
        azure.fault(f"waits-{side}", Throttle(retry_after_ms=1500))
    await refusal(gateway, "waits")
    await eventually(lambda: states(gateway, "waits") == ["Throttled", "Throttled"])
    for side in ("east", "west"):
        azure.heal(f"waits-{side}")
    async with gateway.client(pool="ai/waits", max_retries=1) as client:
        assert await ask(client)


async def test_all_sick_is_503(gateway: LocalGateway, azure: Simulator) -> None:
    for side in ("east", "west"):
        azure.fault(f"sick-{side}", Down())
    await eventually(lambda: states(gateway, "sick") == ["Unhealthy", "Unhealthy"])

    async def out() -> bool:
        error = await refusal(gateway, "sick")
        assert isinstance(error, openai.InternalServerError)
        assert error.status_code == 503
        return error.code == "no_healthy_region"

    await eventually(out)
    for side in ("east", "west"):
        azure.heal(f"sick-{side}")
    await eventually(lambda: states(gateway, "sick") == ["Healthy", "Healthy"])
    async with gateway.client(pool="ai/sick") as client:

        async def served() -> bool:
            try:
                return bool(await ask(client))
            except openai.InternalServerError:
                return False

        await eventually(served)


async def test_no_region_that_can_be_reached_is_503(gateway: LocalGateway, azure: Simulator) -> None:
    for side in ("east", "west"):
        azure.fault(f"down-{side}", Down())
    error = await refusal(gateway, "down")
    assert isinstance(error, openai.InternalServerError)
    assert error.status_code == 503
    assert error.code == "service_unavailable"


async def test_no_answer_in_time_is_504(gateway: LocalGateway, azure: Simulator) -> None:
    for side in ("east", "west"):
        azure.fault(f"slow-{side}", Blackhole())
    error = await refusal(gateway, "slow")
    assert isinstance(error, openai.InternalServerError)
    assert error.status_code == 504
    assert error.code == "timeout"


async def test_more_requests_at_once_than_allowed_are_503(gateway: LocalGateway, azure: Simulator) -> None:
    for side in ("east", "west"):
        azure.fault(f"full-{side}", Blackhole())
    async with gateway.client(pool="ai/full") as client:
        first = asyncio.create_task(ask(client))
        await eventually(lambda: sum(azure.regions[f"full-{side}"].attempts for side in ("east", "west")))
        error = await refusal(gateway, "full")
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
    assert error.status_code == 503
    assert error.code == "gateway_overloaded"


async def test_refusals_are_the_sdks_own_exceptions(gateway: LocalGateway) -> None:
    async def error_of(key: str = TENANT_KEY, model: str = "gpt-4o", **options: str) -> openai.APIStatusError:
        async with gateway.client(pool=f"ai/{options.get('pool', 'plain')}", key=key) as client:
            with pytest.raises(openai.APIStatusError) as error:
                await client.chat.completions.create(
                    model=model, messages=[{"role": "user", "content": options.get("content", "Hello")}]
                )
        body = error.value.body
        assert isinstance(body, dict)
        assert set(body) >= {"message", "type", "param", "code"}
        return error.value

    assert isinstance(await error_of(key="wrong"), openai.AuthenticationError)
    assert isinstance(await error_of(key="small-key-0123456789", pool="out"), openai.AuthenticationError)
    assert isinstance(await error_of(key="small-key-0123456789", model="mini"), openai.PermissionDeniedError)
    assert isinstance(await error_of(model="unknown"), openai.NotFoundError)
    assert isinstance(await error_of(pool="unknown"), openai.NotFoundError)
    assert isinstance(await error_of(model=""), openai.BadRequestError)
    assert (await error_of(content="x" * 2000)).status_code == 413

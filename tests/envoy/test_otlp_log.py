"""The access log by OpenTelemetry, as Envoys in other pods send it: the same lines, as soon, and never in the way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from aoai_operator.adapters.otlp_log import LogServer
from aoai_operator.core.accesslog import Answer, Attempt
from aoai_operator.core.audience import Audience, Placement
from aoai_operator.core.names import HostKey, PoolKey
from aoai_operator.core.observed import State
from aoai_operator.core.proxies import Proxy
from aoai_operator.metrics import Metrics
from aoai_operator.runners.accounting import Accounting
from aoai_operator.runners.observing import Observer
from aoai_operator.simulator import Deployment, Region, Simulator, Throttle
from support.calls import ask
from support.dataplane import DataPlane
from support.manifests import pool_manifest
from support.tables import endpoint, routing_table
from support.waiting import eventually

GATEWAY = Audience("default", Placement.GATEWAY)
CHAT = PoolKey("ai", "chat")
EAST = HostKey(CHAT, "eastus", "gpt-4o")


class Sink:
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.taken: list[Answer] = []
        self.failed: list[Attempt] = []

    def answers(self, batch: Sequence[Answer]) -> None:
        self.taken += batch

    def attempts(self, batch: Sequence[Attempt]) -> None:
        self.failed += batch


class Callers:
    """Knows every caller; `hang` makes each wait until it is cleared."""

    def __init__(self) -> None:
        self.free = asyncio.Event()
        self.free.set()
        self.claims: list[str] = []
        self.calls = 0

    async def __call__(self, _context: Any, claimed: Proxy, /) -> Audience:
        self.calls += 1
        self.claims.append(claimed.gateway)
        await self.free.wait()
        return GATEWAY


def azure() -> Simulator:
    deployments = [Deployment(name="gpt-4o", model="gpt-4o")]
    return Simulator([Region(name=name, deployments=deployments) for name in ("eastus", "westus")])


def everything(_audience: Audience, _pool: PoolKey) -> bool:
    return True


def manifest(running: Simulator) -> str:
    return pool_manifest(running, spec={"balancing": {"strategy": "Weighted"}, "throttling": {"maxRetryAfter": "60s"}})


async def test_the_lines_are_those_of_the_pipe() -> None:
    sink, callers = Sink(), Callers()
    logs = LogServer(sink, identify=callers, sees=everything)
    async with azure() as regions, DataPlane(manifest(regions), logs=logs) as plane:
        regions.fault("eastus", Throttle(retry_after_ms=1_500))
        async with plane.client() as client:
            for _ in range(6):
                assert await ask(client)
        await eventually(lambda: len(sink.taken) == 6 and sink.failed)
    assert {(a.pool, a.tenant, a.model, a.status, a.operation) for a in sink.taken} == {
        ("ai/chat", "ai/team", "gpt-4o", 200, "chat/completions")
    }
    assert all(a.usage and a.usage.total and a.request_id for a in sink.taken)
    assert {(a.endpoint, a.status, a.retry_after_ms) for a in sink.failed} == {("eastus", 429, 1_500)}
    assert set(callers.claims) == {"default"}


async def test_a_throttle_takes_the_host_out_on_every_proxy() -> None:
    observer = Observer(changed=lambda: None, now=now)
    observer.follow([routing_table(endpoint("eastus"), endpoint("westus"), deployments=("gpt-4o",))])
    accounting = Accounting(observer=observer, probe_soon=lambda _key: None, meters=Metrics())
    logs = LogServer(accounting, identify=Callers(), sees=everything)
    async with azure() as regions, DataPlane(manifest(regions), logs=logs) as plane, plane.client() as client:
        east = regions.regions["eastus"]
        regions.fault("eastus", Throttle(retry_after=60))

        async def refused() -> bool:
            assert await ask(client)
            return east.throttled > 0

        await eventually(refused)
        await eventually(lambda: observer.overrides(now()).hosts[EAST].state is State.THROTTLED)
        await plane.observe(observer.overrides(now()).hosts)
        wasted = east.throttled
        for _ in range(20):
            assert await ask(client)
        assert east.throttled == wasted


async def test_an_operator_that_hangs_or_is_gone_holds_no_request_up() -> None:
    sink, callers = Sink(), Callers()
    logs = LogServer(sink, identify=callers, sees=everything)
    async with azure() as regions, DataPlane(manifest(regions), logs=logs) as plane, plane.client() as client:
        callers.free.clear()

        async def burst() -> bool:
            assert all(await asyncio.gather(*(ask(client) for _ in range(50))))
            return callers.calls >= 3

        await eventually(burst)
        assert not sink.taken
        await plane.control.aclose()
        assert await burst()
        await eventually(lambda: lost(plane))


async def lost(plane: DataPlane) -> int:
    """Return how many exports found nobody."""
    return (await plane.stats("cluster.control-plane.upstream_rq_5xx")).get("cluster.control-plane.upstream_rq_5xx", 0)


def now() -> int:
    """Return the time as the observer counts it."""
    return time.time_ns() // 1_000_000

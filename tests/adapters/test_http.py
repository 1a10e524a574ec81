"""The operator's own HTTP: what is asked for together is answered together."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import httpx
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from aoai_operator.adapters.http import Checks, serve_http
from support.waiting import eventually


class Slow(Collector):
    """Takes long: until it is let go."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.free = threading.Event()

    def collect(self) -> Iterator[Metric]:
        self.asked.set()
        assert self.free.wait(20)
        yield GaugeMetricFamily("slow", "It is slow.", value=1)


async def test_many_metrics_keep_no_probe_waiting() -> None:
    registry, slow = CollectorRegistry(auto_describe=False), Slow()
    slow.free.set()
    registry.register(slow)
    slow.asked.clear()
    slow.free.clear()
    serving = serve_http(host="127.0.0.1", port=0, registry=registry, checks=Checks(healthy={"lives": lambda: True}))
    async with serving as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        metrics = asyncio.create_task(client.get("/metrics"))
        try:
            await eventually(slow.asked.is_set)
            assert (await client.get("/healthz")).text == "ok\n"
            assert not metrics.done()
        finally:
            slow.free.set()
        assert "slow 1.0" in (await metrics).text

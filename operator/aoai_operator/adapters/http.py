"""Serves /metrics and /healthz of the operator itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry, exposition

_PROMETHEUS_TEXT = "text/plain; version=0.0.4; charset=utf-8"


@asynccontextmanager
async def serve_http(
    *, host: str, port: int, registry: CollectorRegistry, healthy: Callable[[], bool]
) -> AsyncIterator[int]:
    """Serve while the block runs; its value is the port, for `port` 0 the one that was free.

    /metrics is the registry in Prometheus' text form. /healthz is 200 while `healthy()`, 503 otherwise.

    Raises:
        OSError: the address cannot be bound.
    """

    async def metrics(_request: web.Request) -> web.Response:
        body = exposition.generate_latest(registry)
        return web.Response(body=body, headers={"content-type": _PROMETHEUS_TEXT})

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n") if healthy() else web.Response(text="not ready\n", status=503)

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics), web.get("/healthz", healthz)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()

"""Serves /metrics, /healthz and /readyz of the operator itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from prometheus_client import CollectorRegistry, exposition

_PROMETHEUS_TEXT = "text/plain; version=0.0.4; charset=utf-8"

Check = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Checks:
    """What must hold, by what people should read when it does not.

    Attributes:
        healthy: else the process should be restarted.
        ready: else nobody should be sent to it; whatever is not healthy is not ready either.
    """

    healthy: Mapping[str, Check]
    ready: Mapping[str, Check] = field(default_factory=dict)


@asynccontextmanager
async def serve_http(*, host: str, port: int, registry: CollectorRegistry, checks: Checks) -> AsyncIterator[int]:
    """Serve while the block runs; its value is the port, for `port` 0 the one that was free.

    /metrics is the registry in Prometheus' text form. /healthz and /readyz are 200 while their checks hold, else 503
    with those that do not, one a line. The registry is read in a thread; what it collects must bear that.

    Raises:
        OSError: the address cannot be bound.
    """

    async def metrics(_request: web.Request) -> web.Response:
        # A thousand pools have twenty thousand series, which take a quarter of a second to write down.
        body = await asyncio.to_thread(exposition.generate_latest, registry)
        return web.Response(body=body, headers={"content-type": _PROMETHEUS_TEXT})

    async def healthz(_request: web.Request) -> web.Response:
        return _verdict(checks.healthy)

    async def readyz(_request: web.Request) -> web.Response:
        return _verdict({**checks.healthy, **checks.ready})

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics), web.get("/healthz", healthz), web.get("/readyz", readyz)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def _verdict(checks: Mapping[str, Check]) -> web.Response:
    failing = [name for name, holds in checks.items() if not holds()]
    if failing:
        return web.Response(text="".join(f"not yet: {name}\n" for name in failing), status=503)
    return web.Response(text="ok\n")

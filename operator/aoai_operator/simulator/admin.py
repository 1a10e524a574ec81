"""The admin API of a simulator, on a port of its own: faults, keys and limits at run time, and what was counted.

Bodies are JSON and must be sent as such, so that no web page can post to it. It knows no login: for loopback only.
"""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from aoai_operator.simulator.faults import parse_fault
from aoai_operator.simulator.simulator import RunningRegion, Simulator

_ADJUSTABLE = frozenset({"tokens_per_minute", "requests_per_minute"})


def describe(region: RunningRegion) -> dict[str, Any]:
    """A region as the admin API shows it: no key."""
    deployments = {
        name: {
            "model": state.settings.model,
            "type": state.settings.type,
            "tokens_per_minute": state.settings.tokens_per_minute,
            "requests_per_minute": state.settings.requests_per_minute,
            "counts": state.counts.as_dict(),
        }
        for name, state in region.deployments.items()
    }
    return {
        "name": region.name,
        "url": region.url,
        "listening": region.server.listening,
        "open_connections": region.server.open_connections,
        "counts": region.counts.as_dict(),
        "deployments": deployments,
        "faults": [fault.model_dump() for fault in region.faults],
    }


class Admin:
    """The handlers, over one simulator."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    def application(self) -> web.Application:
        """The aiohttp application with all paths under ``/_sim``."""
        app = web.Application(middlewares=[_problems_as_json])
        app.add_routes(
            [
                web.get("/_sim/regions", self.regions),
                web.get("/_sim/regions/{region}", self.region),
                web.get("/_sim/regions/{region}/log", self.log),
                web.post("/_sim/regions/{region}/faults", self.inject),
                web.delete("/_sim/regions/{region}/faults", self.heal),
                web.put("/_sim/regions/{region}/keys", self.keys),
                web.patch("/_sim/regions/{region}/deployments/{deployment}", self.adjust),
                web.delete("/_sim/regions/{region}/deployments/{deployment}", self.undeploy),
                web.delete("/_sim/counts", self.reset_counts),
            ]
        )
        return app

    def _region(self, request: web.Request) -> RunningRegion:
        name = request.match_info["region"]
        if name not in self._simulator.regions:
            raise _RequestError(404, f"no region {name!r}; there are {', '.join(self._simulator.regions)}")
        return self._simulator.regions[name]

    def _deployment(self, request: web.Request) -> tuple[RunningRegion, str]:
        region, name = self._region(request), request.match_info["deployment"]
        if name not in region.deployments:
            raise _RequestError(
                404, f"no deployment {name!r} in {region.name}; there are {', '.join(region.deployments)}"
            )
        return region, name

    async def regions(self, _: web.Request) -> web.Response:
        """GET: every region."""
        return web.json_response([describe(region) for region in self._simulator.regions.values()])

    async def region(self, request: web.Request) -> web.Response:
        """GET: one region."""
        return web.json_response(describe(self._region(request)))

    async def log(self, request: web.Request) -> web.Response:
        """GET ``?limit=20``: the last requests, oldest first, without bodies and secrets."""
        limit = request.query.get("limit", "20")
        if not limit.isdecimal():
            raise _RequestError(400, f"limit must be a number, not {limit!r}")
        names = ("at", "method", "path", "query", "auth", "operation", "deployment", "stream", "status", "completed")
        records = list(self._region(request).log)[-int(limit) :] if int(limit) else []
        return web.json_response([{name: getattr(record, name) for name in names} for record in records])

    async def inject(self, request: web.Request) -> web.Response:
        """POST ``{"kind": "throttle", "retry_after_ms": 2000}``: add a fault."""
        region = self._region(request)
        try:
            fault = parse_fault(await _json_object(request))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(step) for step in first["loc"])
            raise _RequestError(400, f"{where}: {first['msg']}" if where else first["msg"]) from error
        self._simulator.fault(region.name, fault)
        return web.json_response(describe(region))

    async def heal(self, request: web.Request) -> web.Response:
        """DELETE ``?kind=throttle&deployment=d``: remove faults, all of them without parameters."""
        region = self._region(request)
        self._simulator.heal(region.name, kind=request.query.get("kind"), deployment=request.query.get("deployment"))
        return web.json_response(describe(region))

    async def keys(self, request: web.Request) -> web.Response:
        """PUT ``{"keys": ["one", "two"]}``: only these keys open the region from now on."""
        region = self._region(request)
        keys = (await _json_object(request)).get("keys")
        if not isinstance(keys, list) or not all(isinstance(key, str) and key for key in keys):
            raise _RequestError(400, "keys must be a list of strings")
        region.set_keys(*keys)
        return web.json_response(describe(region))

    async def adjust(self, request: web.Request) -> web.Response:
        """PATCH ``{"tokens_per_minute": 10000}``: change a deployment's limits; null is no limit."""
        region, name = self._deployment(request)
        changes = await _json_object(request)
        for key, value in changes.items():
            if key not in _ADJUSTABLE or not (value is None or (type(value) is int and value >= 0)):
                raise _RequestError(
                    400, f"{key}: only {', '.join(sorted(_ADJUSTABLE))} can change, to a number or null"
                )
        region.adjust(name, **changes)
        return web.json_response(describe(region))

    async def undeploy(self, request: web.Request) -> web.Response:
        """DELETE: remove a deployment."""
        region, name = self._deployment(request)
        region.undeploy(name)
        return web.json_response(describe(region))

    async def reset_counts(self, _: web.Request) -> web.Response:
        """DELETE: start all counts and logs afresh."""
        self._simulator.reset_counts()
        return web.json_response({})


class _RequestError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@web.middleware
async def _problems_as_json(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        response: web.StreamResponse = await handler(request)
    except _RequestError as problem:
        return web.json_response({"error": str(problem)}, status=problem.status)
    return response


async def _json_object(request: web.Request) -> dict[str, Any]:
    if request.content_type != "application/json":
        raise _RequestError(415, "send JSON, with content-type: application/json")
    try:
        body = json.loads(await request.read())
    except ValueError as error:
        raise _RequestError(400, f"not JSON: {error}") from error
    if not isinstance(body, dict):
        raise _RequestError(400, "send a JSON object")
    return body

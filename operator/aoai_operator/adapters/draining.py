"""Has an Envoy finish its work before it is ended."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import httpx

from aoai_operator.core.envoy.admin import DRAIN, FAIL_HEALTH_CHECKS, IN_FLIGHT, requests_in_flight

_POLL = 0.1
_TIMEOUT = 2.0
_QUIET = 10
"""Looks in a row without a request under way. A connection whose request began before the drain was never told to
close, and whoever has it may send the next one at once; that one is told."""


@dataclass(frozen=True, slots=True)
class Drained:
    """How it went: whether there was an Envoy, and how many requests were still under way when time was up."""

    found: bool
    left: int = 0


async def drain(admin: str, *, at_least: float, within: float) -> Drained:
    """Ask clients to go elsewhere, and wait until no request is under way, for a second.

    What comes meanwhile is still served: whoever sends it may not know yet that this Envoy is to end.

    Args:
        admin: where Envoy's admin interface is, "host:port" or "unix:/path".
        at_least: seconds to wait even without a request under way.
        within: seconds to wait at most.
    """
    path = admin.removeprefix("unix:")
    transport = httpx.AsyncHTTPTransport(uds=None if path == admin else path)
    base = f"http://{admin}" if path == admin else "http://envoy"
    async with httpx.AsyncClient(transport=transport, base_url=base, timeout=_TIMEOUT) as client:
        left = 0
        try:
            for step in (FAIL_HEALTH_CHECKS, DRAIN):
                (await client.post(step)).raise_for_status()
            try:
                async with asyncio.timeout(within):
                    await asyncio.sleep(min(at_least, within))
                    quiet = 0
                    while quiet < _QUIET:
                        left = await _in_flight(client)
                        quiet = 0 if left else quiet + 1
                        await asyncio.sleep(_POLL)
            except TimeoutError:
                return Drained(found=True, left=left)
        except (httpx.HTTPError, OSError):
            return Drained(found=False)
    return Drained(found=True)


async def _in_flight(client: httpx.AsyncClient) -> int:
    return requests_in_flight((await client.get(IN_FLIGHT)).raise_for_status().json())

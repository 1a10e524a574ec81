"""Quotas under load while parts die: what is let in, in any minute, keeps its bound."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import openai

from support.calls import ask
from support.cluster.control_plane import ControlPlane
from support.cluster.fleet import leader, start_fleet
from support.cluster.house import House
from support.waiting import eventually

LIMIT = 120
MINUTE = 60.0
WRITTEN_EVERY = 10.0
"""Seconds, at most, between two writes of what a tenant used: as much is lost with a leader."""


class Callers:
    """Callers that ask again and again through both Envoys, and wait for a moment after a refusal."""

    def __init__(self, house: House) -> None:
        self._house = house
        self.let_in: list[float] = []
        """When each request that was let in was sent."""
        self.refused = 0
        self.away = 0
        """Requests that no Envoy took."""

    @asynccontextmanager
    async def calling(self, count: int = 20) -> AsyncIterator[None]:
        """Have so many callers ask while the block runs."""
        tasks = [asyncio.create_task(self._call()) for _ in range(count)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _call(self) -> None:
        while True:
            sent = time.monotonic()
            try:
                async with self._house.client(max_retries=0) as client:
                    await ask(client)
            except openai.RateLimitError:
                self.refused += 1
                await asyncio.sleep(0.2)
            except openai.APIError:
                self.away += 1
                await asyncio.sleep(0.2)
            else:
                self.let_in.append(sent)

    def worst_minute(self) -> int:
        """Return the most requests that were let in in any 60 s."""
        sent = sorted(self.let_in)
        return max((sum(1 for other in sent if one <= other < one + MINUTE) for one in sent), default=0)

    async def more(self, count: int = 1) -> None:
        """Wait until so many more were let in."""
        goal = len(self.let_in) + count
        await eventually(lambda: len(self.let_in) >= goal, within=90, what="more are let in")


async def limited(house: House) -> Callers:
    """Start a fleet with a limit, and return its callers."""
    await start_fleet(house)
    limits = {"limits": {"requestsPerMinute": LIMIT}, "onLedgerFailure": "Deny"}
    await house.apply_pool(quotas={"team": limits})

    async def known() -> bool:
        dumps = [await pod.admin("/config_dump") for pod in house.release.gateways.values()]
        return all(f'"requests": {LIMIT}' in dump for dump in dumps)

    await eventually(known, within=30, what="the Envoys have the limit")
    return Callers(house)


async def test_an_envoy_that_is_killed_takes_leases_with_it_and_lets_in_no_more(
    plane: ControlPlane, namespace: str
) -> None:
    async with House(plane, namespace) as house:
        callers = await limited(house)
        async with callers.calling():
            await callers.more(LIMIT // 3)
            await house.release.gateways["gateway-0"].part.kill()
            await callers.more(LIMIT // 6)
            await house.release.start_gateway("gateway-0")
            await eventually(lambda: callers.refused > 50, within=60, what="the limit is reached")
            # Into the next minute: what leases took with them is there again.
            await callers.more()
        assert callers.worst_minute() <= LIMIT


async def test_a_leader_that_is_killed_loses_what_was_not_written_and_no_more(
    plane: ControlPlane, namespace: str
) -> None:
    async with House(plane, namespace) as house:
        callers = await limited(house)
        async with callers.calling():
            await callers.more(LIMIT // 2)
            killed = time.monotonic()
            await (await leader(house)).part.kill()
            refused = callers.refused
            await eventually(lambda: callers.refused > refused + 100, within=60, what="nobody is let in meanwhile")
            await leader(house)
            await callers.more()
        lost = sum(1 for sent in callers.let_in if killed - WRITTEN_EVERY <= sent <= killed)
        assert callers.worst_minute() <= LIMIT + lost

"""Quotas in a cluster: two replicas and two Envoys let in what was granted, and no more."""

from __future__ import annotations

import asyncio
import re
from collections import Counter

import openai

from support.calls import ask
from support.cluster.control_plane import ControlPlane
from support.cluster.fleet import leader, other, start_fleet
from support.cluster.house import House
from support.waiting import eventually


async def flood(house: House, count: int) -> Counter[str]:
    """Ask from many clients at once, and so through both Envoys; return how often what came of it."""

    async def one() -> str:
        async with house.client(max_retries=0) as client:
            try:
                await ask(client)
            except openai.RateLimitError as error:
                told = int(error.response.headers["retry-after-ms"])
                return "refused" if told > 1_000 and "requests per minute" in str(error) else "not asked"
            return "let in"

    return Counter(await asyncio.gather(*(one() for _ in range(count))))


async def let_in(house: House, expected: int) -> None:
    """Ask until so many were let in, and see that no more are. Where the ledger is too slow nobody is: Deny."""
    found = 0

    async def all_of_them() -> bool:
        nonlocal found
        found += (await flood(house, 20))["let in"]
        return found >= expected

    await eventually(all_of_them, within=30, what=f"{expected} are let in")
    more = await flood(house, 20)
    assert (found, more["let in"]) == (expected, 0)


async def grant(house: House, requests: int) -> None:
    """Grant the tenant so many requests a minute, and wait until the proxies know it."""
    await house.apply_pool(quotas={"team": {"limits": {"requestsPerMinute": requests}, "onLedgerFailure": "Deny"}})

    async def known() -> bool:
        dumps = [await pod.admin("/config_dump") for pod in house.release.gateways.values()]
        return all(re.search(rf'"requests": {requests}\b', dump) for dump in dumps)

    await eventually(known, within=30, what="the Envoys have the limit")


async def test_two_replicas_and_two_envoys_let_in_what_was_granted(plane: ControlPlane, namespace: str) -> None:
    async with House(plane, namespace) as house:
        await start_fleet(house)
        await grant(house, 30)
        await let_in(house, 30)
        await grant(house, 40)
        # What was used before is known still.
        await let_in(house, 10)


async def test_a_follower_that_dies_changes_nothing(plane: ControlPlane, namespace: str) -> None:
    async with House(plane, namespace) as house:
        await start_fleet(house)
        await grant(house, 30)
        first = (await flood(house, 10))["let in"]
        await other(house, await leader(house)).part.kill()

        async def asked() -> bool:
            nonlocal first
            got = await flood(house, 1)
            first += got["let in"]
            return not got["not asked"]

        await eventually(asked, within=10, what="the Envoys ask the one that is left")
        await let_in(house, 30 - first)


async def test_what_was_used_is_in_the_status_and_outlives_its_leader(plane: ControlPlane, namespace: str) -> None:
    async with House(plane, namespace) as house:
        await start_fleet(house)
        await grant(house, 30)
        await let_in(house, 30)

        async def told() -> bool:
            shown = await plane.kubectl("get", "tq", "team", "-n", namespace, "-o", "wide")
            return "30/30" in shown

        await eventually(told, within=30, what="kubectl shows what was used")
        first = await leader(house)
        await first.part.kill()
        got: Counter[str] = Counter()

        async def refused() -> bool:
            nonlocal got
            got = await flood(house, 5)
            return got["refused"] > 0 or got["let in"] > 0

        await eventually(refused, within=40, what="another leader answers")
        assert got["let in"] == 0, "it knows what was used before it"

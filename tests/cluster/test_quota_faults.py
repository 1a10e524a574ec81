"""Quotas under load while parts die: what is let in, in any minute, keeps its bound."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import openai

from support.calls import ask
from support.cluster.client import Json
from support.cluster.control_plane import ControlPlane
from support.cluster.fleet import leader, other, start_fleet
from support.cluster.forwarder import forwarding
from support.cluster.house import QUOTAS, House
from support.redis import PASSWORD, redis_server
from support.waiting import eventually

LIMIT = 120
MINUTE = 60.0
WRITTEN_EVERY = 10.0
"""Seconds, at most, between two writes of what a tenant used: as much is lost with a leader."""


class Callers:
    """Callers that ask again and again through both Envoys, and wait for a moment after a refusal."""

    def __init__(self, house: House) -> None:
        self._house = house
        self.let_in: list[tuple[float, float]] = []
        """When each request that was let in was sent, and when it was answered."""
        self.refused = 0
        self.away = 0
        """Requests that no Envoy took."""

    @asynccontextmanager
    async def calling(self, count: int = 20) -> AsyncIterator[None]:
        """Have so many callers ask while the block runs."""
        over = asyncio.Event()
        tasks = [asyncio.create_task(self._call(over)) for _ in range(count)]
        try:
            yield
        finally:
            # Whoever is cancelled while he connects leaves a socket open.
            over.set()
            await asyncio.gather(*tasks)

    async def _call(self, over: asyncio.Event) -> None:
        while not over.is_set():
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
                self.let_in.append((sent, time.monotonic()))

    def worst_minute(self) -> int:
        """Return the most requests that were let in in any 60 s for certain: sent and answered within them."""
        starts = [sent for sent, _ in self.let_in]
        within = (sum(1 for sent, done in self.let_in if start <= sent and done < start + MINUTE) for start in starts)
        return max(within, default=0)

    async def full(self) -> None:
        """Wait until nothing is let in any more."""

        async def refused() -> bool:
            before, goal = len(self.let_in), self.refused + 500
            await eventually(lambda: self.refused >= goal, within=60, what="more are refused")
            return len(self.let_in) == before

        await eventually(refused, within=90, what="the limit is reached")

    async def more(self, count: int = 1) -> None:
        """Wait until so many more were let in."""
        goal = len(self.let_in) + count
        await eventually(lambda: len(self.let_in) >= goal, within=90, what="more are let in")


@asynccontextmanager
async def counted_in_redis(plane: ControlPlane, namespace: str, port: Callable[[], int]) -> AsyncIterator[House]:
    """Run a house whose replicas count in the Redis that has a port, behind an address that stays."""
    async with forwarding(lambda: [("127.0.0.1", port())]) as address:
        redis = {"url": f"redis://127.0.0.1:{address}", "credentialsSecret": "redis-login"}
        async with House(plane, namespace, values={"quotas": {"redis": redis}}) as house:
            metadata = {"name": "redis-login", "namespace": namespace}
            login = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"password": PASSWORD}}
            await plane.apply(login)
            yield house


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
        lost = sum(1 for sent, done in callers.let_in if sent <= killed and done >= killed - WRITTEN_EVERY)
        assert callers.worst_minute() <= LIMIT + lost


async def test_with_redis_parts_that_die_lose_nothing(plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    """A leader, the other replica, an Envoy, a Redis that keeps a file; while that stands still nothing is let in."""
    options = ("--appendonly", "yes", "--appendfsync", "always")
    with redis_server(tmp_path, *options, password=PASSWORD) as redis:
        async with counted_in_redis(plane, namespace, lambda: redis.port) as house:
            callers = await limited(house)
            async with callers.calling():
                await callers.more(LIMIT // 4)
                first = await leader(house)
                await first.part.kill()
                await callers.more(LIMIT // 6)
                await first.part.start()
                await eventually(first.ready, within=60, what="it is ready again")
                second = other(house, first)
                await second.part.kill()
                redis.kill()
                redis.start()
                await house.release.gateways["gateway-0"].part.kill()
                await callers.more(LIMIT // 6)
                await house.release.start_gateway("gateway-0")
                await second.part.start()
                await callers.full()
                with redis.paused():
                    refused = callers.refused
                    await eventually(lambda: callers.refused > refused + 100, within=60, what="nobody is let in")
                await callers.more()
            assert callers.worst_minute() <= LIMIT


async def test_a_redis_that_was_emptied_knows_what_the_statuses_said(
    plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    with redis_server(tmp_path, password=PASSWORD) as redis:
        async with counted_in_redis(plane, namespace, lambda: redis.port) as house:
            callers = await limited(house)
            async with callers.calling():
                await callers.more(LIMIT // 2)
            await told(house, at_least=len(callers.let_in))
            with redis.client() as client:
                client.flushall()
            async with callers.calling():
                await callers.full()
                await callers.more()
            assert callers.worst_minute() <= LIMIT


async def test_a_redis_that_is_away_is_a_condition_of_who_is_limited(
    plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    with redis_server(tmp_path, password=PASSWORD) as redis:
        async with counted_in_redis(plane, namespace, lambda: redis.port) as house:
            await house.release.start_operator()
            await house.apply_pool(quotas={"team": {"limits": {"requestsPerMinute": LIMIT}}})
            await exact_is(house, "True", "Exact")
            with redis.paused():
                told = await exact_is(house, "False", "LedgerUnreachable")
                assert PASSWORD not in told
                assert "until it answers, spec.onLedgerFailure holds." in told
            await exact_is(house, "True", "Exact")


async def exact_is(house: House, status: str, reason: str) -> str:
    """Wait until the condition Exact of the tenant is so; return its message."""

    def found(quota: Json) -> Json:
        return {c["type"]: c for c in quota.get("status", {}).get("conditions", ())}

    def so(quota: Json) -> bool:
        exact = found(quota).get("Exact", {})
        return (exact.get("status"), exact.get("reason")) == (status, reason)

    quota = await house.plane.wait_for(so, QUOTAS, "team", namespace=house.namespace, within=60)
    return str(found(quota)["Exact"].get("message", ""))


async def test_a_redis_that_takes_over_lacks_its_last_moments_at_most(
    plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    with redis_server(first, password=PASSWORD) as primary:
        follow = ("--replicaof", "127.0.0.1", str(primary.port), "--masterauth", PASSWORD)
        with redis_server(second, *follow, password=PASSWORD) as replica:
            ports = [primary.port]
            async with counted_in_redis(plane, namespace, lambda: ports[-1]) as house:
                callers = await limited(house)
                async with callers.calling():
                    await callers.more(LIMIT // 2)
                with primary.client() as client:
                    assert client.wait(1, 10_000) == 1
                async with callers.calling():
                    await callers.more()
                    failed = time.monotonic()
                    primary.kill()
                    with replica.client() as client:
                        client.replicaof("NO", "ONE")
                    ports.append(replica.port)
                    await callers.full()
                    await callers.more()
                lost = sum(1 for sent, done in callers.let_in if sent <= failed and done >= failed - 1)
                assert callers.worst_minute() <= LIMIT + lost


async def told(house: House, *, at_least: int) -> None:
    """Wait until the status tells that so many requests were used."""

    def tells(quota: Json) -> bool:
        used, _, limit = quota.get("status", {}).get("usage", {}).get("requests", "0/").partition("/")
        return int(used) >= at_least and limit == str(LIMIT)

    await house.plane.wait_for(tells, QUOTAS, "team", namespace=house.namespace)

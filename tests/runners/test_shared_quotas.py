"""Quotas that a real Redis counts: two replicas, and what they keep while it does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from aoai_operator.adapters.redis.client import connect
from aoai_operator.adapters.redis.ledger import RedisLedger
from aoai_operator.core.names import PoolKey, SecretRef
from aoai_operator.core.quota.asking import Question
from aoai_operator.core.quota.deciding import Refused
from aoai_operator.core.quota.policy import Settled
from aoai_operator.core.table import PerMinute, Quota, Tenant
from aoai_operator.ports import UnavailableError
from aoai_operator.runners.shared_quotas import SharedQuotas
from aoai_operator.settings import HostPort, RedisSettings
from support.answers import SETTLEMENT
from support.redis import RedisServer, redis_server
from support.tables import endpoint, routing_table
from support.waiting import eventually

TEAM, POOL, MODEL = PoolKey("ai", "team"), PoolKey("ai", "chat"), "gpt"


@dataclass
class Meters:
    """What was counted."""

    shadows: list[Refused] = field(default_factory=list)
    settlements: list[Settled] = field(default_factory=list)
    asks: int = 0

    def shadowed(self, question: Question, refused: Refused) -> None:  # noqa: ARG002 - the port's
        self.shadows.append(refused)

    def settled(self, settled: Settled) -> None:
        self.settlements.append(settled)

    def unanswered(self) -> None:
        self.asks += 1


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as made:
        yield made


@asynccontextmanager
async def replica(server: RedisServer, quota: Quota, meters: Meters | None = None) -> AsyncIterator[SharedQuotas]:
    client = connect(RedisSettings(address=HostPort.parse(server.address)))
    made = SharedQuotas(store=RedisLedger(client, prefix="aoai"), meters=meters or Meters())
    key = SecretRef("ai", "team-key", "api-key")
    tenant = Tenant(namespace="ai", name="team", models=(), api_keys=(key,), quota=quota)
    table = routing_table(endpoint("east")).model_copy(update={"tenants": (tenant,)})
    made.follow({table.key: table})
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await client.aclose()


def per_minute(tokens: int, *, enforced: bool = True) -> Quota:
    return Quota(limits=(PerMinute(tokens=tokens),), enforced=enforced)


async def asked(made: SharedQuotas, request_id: str, *, tenant: PoolKey = TEAM) -> str:
    """Ask for 100 tokens of prompt and 500 of answer; return the answer's first word."""
    return (await made.ask(f"{tenant}\t{POOL}\t{MODEL}\t{request_id}\t400:500:1:0\t\t\t")).partition(" ")[0]


async def used(made: SharedQuotas) -> str:
    usage = await made.usage(TEAM)
    assert usage is not None
    return usage.tokens


async def is_used(made: SharedQuotas, tokens: str) -> None:
    async def found() -> bool:
        return await used(made) == tokens

    await eventually(found)


async def test_one_replica_is_asked_and_another_gets_the_log_line(server: RedisServer) -> None:
    meters = Meters()
    async with replica(server, per_minute(1_000)) as one, replica(server, per_minute(1_000), meters) as other:
        await one.restore({})
        assert await asked(one, "r") == "ok"
        assert await asked(other, "s") == "no"
        assert await used(other) == "600/1000"
        other.settle(SETTLEMENT)
        await is_used(one, "150/1000")
        assert [(s.reserved, s.used["tokens"]) for s in meters.settlements] == [(600, 150)]  # type: ignore[index]
        assert await one.touched() == set(), "who does not lead writes nothing"
        other.lead(True)
        assert await other.touched() == {TEAM}


async def test_what_a_tenant_without_limits_asks_is_answered_without_redis(server: RedisServer) -> None:
    async with replica(server, per_minute(1_000)) as made:
        server.kill()
        assert await asked(made, "r", tenant=PoolKey("ai", "other")) == "free"


async def test_what_redis_cannot_be_told_waits_and_is_counted_once(server: RedisServer) -> None:
    meters = Meters()
    async with replica(server, per_minute(1_000), meters) as made:
        await made.restore({})
        assert await asked(made, "r") == "ok"
        server.kill()
        made.settle(SETTLEMENT)
        made.settle(SETTLEMENT)
        # While this one fails, those are tried as well.
        with pytest.raises(UnavailableError):
            await asked(made, "s")
        assert meters.asks == 1
        made.settle(replace(SETTLEMENT, request_id="s", used=None, sent=False))
        await asyncio.to_thread(server.start)
        await is_used(made, "150/1000")
        assert len(meters.settlements) == 1


async def test_an_ask_that_comes_after_its_log_line_needs_no_answer(server: RedisServer) -> None:
    async with replica(server, per_minute(1_000)) as made:
        await made.restore({})
        made.settle(replace(SETTLEMENT, used=None, sent=False))

        async def over() -> bool:
            with server.client() as client:
                return bool(client.get("{aoai}:request:r") == "over")

        await eventually(over)
        assert await asked(made, "r") == "free"


async def test_a_shadow_refuses_nothing_and_tells_what_it_would_have(server: RedisServer) -> None:
    meters = Meters()
    async with replica(server, per_minute(700, enforced=False), meters) as made:
        await made.restore({})
        assert [await asked(made, "r"), await asked(made, "s")] == ["ok", "ok"]
        assert [refused.limit for refused in meters.shadows] == ["tokensPerMinute"]


async def test_a_replica_of_the_version_before_is_answered_too(server: RedisServer) -> None:
    """It asks its leader, which is one that has Redis."""
    async with replica(server, per_minute(1_000)) as made:
        await made.restore({})
        line = f"{TEAM}\t{POOL}\t{MODEL}\tr\t400:500:1:0\t\t\t"
        assert (await made.called("Ask", line.encode())).startswith(b"ok ")
        with pytest.raises(ValueError, match="no settlements"):
            await made.called("Settle", b"{}")

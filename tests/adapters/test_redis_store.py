"""The way to a real Redis: TLS, credentials, a cluster; and what is kept when it stands still, dies or is emptied."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from aoai_operator.adapters.redis.client import connect
from aoai_operator.adapters.redis.ledger import RedisLedger
from aoai_operator.core.names import PoolKey
from aoai_operator.core.quota.calendar import Period
from aoai_operator.core.quota.deciding import Ask, Granted, Refused
from aoai_operator.core.quota.limits import Amount, Budget, Limits, Unit
from aoai_operator.core.quota.usage import Usage
from aoai_operator.ports import UnavailableError
from aoai_operator.settings import HostPort, RedisSettings
from support.cluster.forwarder import forwarding
from support.redis import PASSWORD, RedisServer, redis_cluster, redis_server
from support.servers import Authority
from support.waiting import eventually

TEAM = PoolKey("ai", "team")
LIMITS = {TEAM: Limits({Unit.TOKENS: 1_000}, budgets=(Budget(Period.DAY, Unit.TOKENS, 5_000),))}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as made:
        yield made


@asynccontextmanager
async def ledger(server: RedisServer, **settings: object) -> AsyncIterator[RedisLedger]:
    address = HostPort.parse(server.address)
    client = connect(RedisSettings(**{"address": address, **settings}))  # type: ignore[arg-type]
    made = RedisLedger(client, prefix="aoai")
    made.limit(LIMITS)
    try:
        yield made
    finally:
        await client.aclose()


def tokens(count: int) -> Amount:
    return {Unit.TOKENS: count, Unit.REQUESTS: 1}


async def asked(made: RedisLedger, count: int, request_id: str = "") -> Granted | Refused:
    decided = await made.ask(Ask(TEAM, "gpt", tokens(count)), request_id=request_id)
    assert decided is not None
    return decided.found


async def used(made: RedisLedger) -> int:
    usage = await made.usage(TEAM)
    assert usage is not None
    return sum(count for count, _ in usage.models.values())


async def test_two_replicas_count_together(server: RedisServer) -> None:
    async with ledger(server) as one, ledger(server) as other:
        await one.restore({})
        found = await asyncio.gather(*(asked(each, 100) for each in (one, other) * 20))
        assert sum(isinstance(each, Granted) for each in found) == 10
        assert await used(other) == 1_000
        assert await one.touched() == {TEAM}
        assert await other.touched() == set()


async def test_one_that_was_emptied_decides_nothing_before_it_knows_what_was_used(server: RedisServer) -> None:
    async with ledger(server) as made:
        with pytest.raises(UnavailableError, match="does not know what was used before"):
            await asked(made, 1)
        await made.restore({})
        assert isinstance(await asked(made, 700), Granted)
        before = await made.usage(TEAM)
        assert before is not None
        with server.client() as client:
            client.flushall()
        assert not await made.begun()
        with pytest.raises(UnavailableError):
            await asked(made, 1)
        await made.restore({TEAM: before})
        assert await used(made) == 700
        assert isinstance(await asked(made, 301), Refused)
        await made.restore({TEAM: Usage(before.at, {"gpt": (999, 1)}, ())})
        assert await used(made) == 700, "what is known is not counted again"


async def test_one_that_stands_still_is_not_waited_for_and_goes_on(server: RedisServer) -> None:
    async with ledger(server) as made:
        await made.restore({})
        await asked(made, 100, "before")
        with server.paused():
            with pytest.raises(UnavailableError):
                await asked(made, 100, "meanwhile")
            with pytest.raises(UnavailableError):
                await made.settle(0, 0, {}, tokens(10), request_id="before")
        assert await made.settle(0, 0, {}, tokens(10), request_id="before") in (100, None)
        # What stood in its socket it reads in the end: the log line of that request gives it back.
        await made.settle(0, 0, {}, {}, request_id="meanwhile")

        async def settled() -> bool:
            return await used(made) == 10

        await eventually(settled)


async def test_an_ask_that_comes_after_its_log_line_is_not_counted(server: RedisServer) -> None:
    async with ledger(server) as made:
        await made.restore({})
        assert await made.settle(0, 0, {}, {}, request_id="late") is None
        assert await made.ask(Ask(TEAM, "gpt", tokens(5)), request_id="late") is None
        assert await used(made) == 0


async def test_one_that_keeps_a_file_loses_nothing_when_it_is_killed(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        async with ledger(server) as made:
            await made.restore({})
            granted = await asked(made, 600)
            assert isinstance(granted, Granted)
            server.kill()
            with pytest.raises(UnavailableError):
                await asked(made, 1)
            server.start()
            assert await used(made) == 600
            assert await made.settle(granted.grant, 0, {}, tokens(50)) == 600
            assert await used(made) == 50


async def test_a_replica_that_takes_over_goes_on(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    with redis_server(first) as primary, redis_server(second, "--replicaof", "127.0.0.1", str(primary.port)) as replica:
        async with ledger(primary) as made:
            await made.restore({})
            await asked(made, 600)
            with primary.client() as client:
                client.wait(1, 10_000)
        async with ledger(replica) as made:
            with pytest.raises(UnavailableError, match="read only"):
                await asked(made, 1)
            primary.kill()
            with replica.client() as client:
                client.replicaof("NO", "ONE")
            assert isinstance(await asked(made, 401), Refused)
            assert isinstance(await asked(made, 400), Granted)


async def test_one_that_became_a_replica_is_left_for_who_took_its_place(tmp_path: Path) -> None:
    """It lives, and so does the connection to it, when the address leads to another one."""
    homes = [tmp_path / "first", tmp_path / "second"]
    for home in homes:
        home.mkdir()
    with redis_server(homes[0]) as first, redis_server(homes[1]) as second:
        ports = [first.port]
        async with (
            forwarding(lambda: [("127.0.0.1", ports[-1])]) as port,
            ledger(first, address=HostPort("127.0.0.1", port)) as made,
        ):
            await made.restore({})
            assert isinstance(await asked(made, 1), Granted)
            with first.client() as client:
                client.replicaof("127.0.0.1", str(second.port))
            ports.append(second.port)
            with pytest.raises(UnavailableError, match="read only"):
                await asked(made, 1)
            await made.restore({})
            assert isinstance(await asked(made, 1), Granted)


async def test_what_is_left_of_a_lease_comes_back_once(server: RedisServer) -> None:
    async with ledger(server) as made:
        made.limit({TEAM: Limits({Unit.TOKENS: 100_000})})
        await made.restore({})
        decided = await made.ask(Ask(TEAM, "gpt", tokens(10), want={Unit.TOKENS: 500}))
        assert decided is not None
        assert isinstance(decided.found, Granted)
        assert decided.found.lease == {Unit.TOKENS: 500}
        for _ in range(2):
            await made.ask(Ask(TEAM, "gpt", {}), rests=[(decided.found.grant, {Unit.TOKENS: 200})])
            assert await used(made) == 10 + 300


async def test_of_what_is_over_nothing_is_kept_but_its_count(server: RedisServer) -> None:
    async with ledger(server) as made:
        made.limit({TEAM: Limits({Unit.TOKENS: 100_000}, budgets=LIMITS[TEAM].budgets)})
        await made.restore({})
        await asked(made, 100, "r")
        leased = await made.ask(Ask(TEAM, "gpt", {}, want={Unit.TOKENS: 50}, usual=tokens(10)))
        assert leased is not None
        assert isinstance(leased.found, Granted)
        await made.settle(0, 0, {}, tokens(10), request_id="r")
        with server.client() as client:
            a_day = client.pttl(f"{{aoai}}:grant:{leased.found.grant}")
            await made.ask(Ask(TEAM, "gpt", {}), rests=[(leased.found.grant, {Unit.TOKENS: 50})])
            assert client.pttl(f"{{aoai}}:grant:{leased.found.grant}") < a_day / 10
            kinds = {key.split(":")[1] for key in client.scan_iter()}
            assert kinds == {"begun", "touched", "models", "minute", "budget", "grant"}
            assert len(list(client.scan_iter("{aoai}:grant:*"))) == 1
            kept = [key for key in client.scan_iter() if client.pttl(key) == -1]
            assert sorted(kept) == ["{aoai}:begun", "{aoai}:touched"]


async def test_credentials_are_read_anew_when_they_changed(tmp_path: Path) -> None:
    login = tmp_path / "login"
    login.mkdir()
    (login / "password").write_text(PASSWORD + "\n")
    with redis_server(tmp_path, password=PASSWORD) as server:
        async with ledger(server, credentials=login) as made:
            await made.restore({})
            with server.client() as client:
                client.execute_command(
                    "ACL", "SETUSER", "quotas", "on", ">changed", "~{aoai}:*", *rights_of_the_runbook()
                )
                (login / "username").write_text("quotas")
                (login / "password").write_text("changed")
                client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

            async def answered() -> bool:
                try:
                    return isinstance(await asked(made, 1), Granted)
                except UnavailableError:
                    return False

            await eventually(answered)
            (login / "password").write_text("no-longer")
            await made._client.aclose()
            with pytest.raises(UnavailableError) as refused:
                await asked(made, 1)
            assert "no-longer" not in f"{refused.value!r} {refused.value.__cause__!r}"
            (login / "password").unlink()
            with pytest.raises(UnavailableError, match="no readable file password"):
                await asked(made, 1)


def rights_of_the_runbook() -> list[str]:
    """Return what the runbook says that a user needs."""
    text = (Path(__file__).parents[2] / "docs/runbook.md").read_text(encoding="utf-8")
    found = re.search(r"`~\{PREFIX\}:\* ([^`]*)`", text)
    assert found is not None
    return found[1].split()


async def test_a_clock_that_is_set_back_lets_what_was_used_count_for_a_minute_from_then_on(server: RedisServer) -> None:
    client, now = Redis(port=server.port), [1_795_000_000_000]
    made = RedisLedger(client, prefix="clock", now=lambda: now[0])
    made.limit({TEAM: Limits({Unit.TOKENS: 1_000})})
    await made.restore({})
    await asked(made, 600)
    now[0] -= 3_600_000
    assert isinstance(await asked(made, 401), Refused)
    now[0] += 61_000
    assert isinstance(await asked(made, 1_000), Granted)
    await client.aclose()


async def test_a_budget_begins_anew_with_its_window_and_what_is_settled_later_changes_no_other(
    server: RedisServer,
) -> None:
    client, now = Redis(port=server.port), [1_795_000_000_000]
    made = RedisLedger(client, prefix="budget", now=lambda: now[0])
    made.limit({TEAM: Limits(budgets=LIMITS[TEAM].budgets)})
    await made.restore({})
    before = await asked(made, 4_000)
    assert isinstance(before, Granted)
    refused = await asked(made, 1_001)
    assert isinstance(refused, Refused)
    assert (refused.limit, refused.period) == ("budgets", Period.DAY)
    assert refused.retry_ms is not None
    now[0] += refused.retry_ms
    assert isinstance(await asked(made, 5_000), Granted)
    await made.settle(before.grant, 0, {}, {})
    assert isinstance(await asked(made, 1), Refused)
    usage = await made.usage(TEAM)
    assert usage is not None
    assert [used for _, used, _ in usage.budgets] == [5_000]
    await client.aclose()


async def test_by_tls_it_must_be_certified(tmp_path: Path, server: RedisServer) -> None:
    for name in ("ours", "others"):
        (tmp_path / name).mkdir()
    ours, others = Authority(tmp_path / "ours"), Authority(tmp_path / "others")
    async with forwarding(lambda: [("127.0.0.1", server.port)], ours.server("localhost")) as port:
        there = HostPort("localhost", port)
        async with ledger(server, address=there, tls=True, ca_file=ours.ca_file) as made:
            await made.restore({})
            assert isinstance(await asked(made, 1), Granted)
        async with ledger(server, address=there, tls=True, ca_file=others.ca_file) as made:
            with pytest.raises(UnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
                await asked(made, 1)
        async with ledger(server, address=HostPort("127.0.0.1", port), tls=True, ca_file=ours.ca_file) as made:
            with pytest.raises(UnavailableError, match=r"127\.0\.0\.1"):
                await asked(made, 1)


async def test_in_a_cluster_all_of_it_is_in_one_slot(tmp_path: Path) -> None:
    with redis_cluster(tmp_path) as nodes:
        async with ledger(nodes[0], cluster=True) as made:
            await made.restore({})
            granted = await asked(made, 600, "first")
            assert isinstance(granted, Granted)
            assert isinstance(await asked(made, 401), Refused)
            assert await made.settle(0, 0, {}, tokens(100), request_id="first") == 600
            assert await used(made) == 100
            assert await made.touched() == {TEAM}
        sizes = []
        for node in nodes:
            with node.client() as client:
                sizes.append(client.dbsize())
        assert sorted(sizes)[:2] == [0, 0]

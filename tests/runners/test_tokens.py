"""When tokens are asked for, by a clock of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from aoai_operator.core.names import EndpointKey, PoolKey, SecretRef
from aoai_operator.core.observed import Grant, Reason, State
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.table import Identity, RoutingTable
from aoai_operator.ports import GrantError, Token
from aoai_operator.runners import tokens as module
from aoai_operator.runners.observing import Observer
from aoai_operator.runners.probing import Probing
from aoai_operator.runners.tokens import Tokens
from support.tables import CHAT, endpoint, endpoint_key, host_key, routing_table
from support.waiting import eventually

SCOPE = "https://cognitiveservices.azure.com/.default"
REF = SecretRef("ai", "principal", "secret")
WORKLOAD = Identity(kind="workload", scope=SCOPE)
PRINCIPAL = Identity(kind="secret", client_id="app", scope=SCOPE, credential=REF)


class World:
    """Entra ID, a clock, and what takes tokens. The clock stands still but when a test moves it."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.lifetime = 3600.0
        self.fails = ""
        self.renew_at: float | None = None
        self.asked: list[tuple[Identity, str]] = []
        self.counted: list[bool] = []
        self.observer = Observer(changed=lambda: None, now=self.clock)
        self.probing = Probing(
            prober=None,  # type: ignore[arg-type]
            resolver=None,  # type: ignore[arg-type]
            observer=self.observer,
            meters=None,  # type: ignore[arg-type]
            now=self.clock,
        )
        self.tokens = Tokens(
            source=self, observer=self.observer, probing=self.probing, meters=self, now=self.clock, chance=lambda: 0.5
        )

    def clock(self) -> int:
        return round(self.now * 1000)

    def token_asked(self, *, granted: bool) -> None:
        self.counted.append(granted)

    async def token(self, identity: Identity, credential: SecretValue | None) -> Token:
        self.asked.append((identity, credential.reveal() if credential else ""))
        if self.fails:
            raise GrantError(self.fails)
        return Token(SecretValue(f"token-{len(self.asked)}"), self.now + self.lifetime, self.renew_at)

    def follow(self, *tables: RoutingTable, secret: str = "") -> None:
        secrets = {REF: SecretValue(secret)} if secret else {}
        self.observer.follow(tables)
        self.probing.follow(tables, secrets)
        self.tokens.follow(tables, secrets)

    async def move(self, seconds: float) -> None:
        """Let time pass, and what is due be done."""
        self.now += seconds
        self.tokens._wake.set()
        for _ in range(20):
            await asyncio.sleep(0)

    def grant(self, name: str = "east", pool: PoolKey = CHAT) -> Grant:
        return self.observer.overrides(self.clock()).grants[EndpointKey(pool, name)]

    def shown(self, name: str = "east") -> tuple[State, Reason]:
        state = self.observer.overrides(self.clock()).host(host_key(name))
        return state.state, state.reason

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.tokens.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def pool(**identities: Identity) -> RoutingTable:
    """Return a table whose endpoints of these names have identities."""
    made = [
        endpoint(name).model_copy(update={"identity": identity, "credential": None})
        for name, identity in identities.items()
    ]
    return routing_table(*made, probe=None)


@pytest.fixture
def world() -> World:
    return World()


async def test_endpoints_of_one_identity_share_a_token(world: World) -> None:
    world.follow(pool(east=WORKLOAD, west=WORKLOAD, north=PRINCIPAL), secret="s")
    async with world.running():
        await world.tokens.tried()
        await world.move(0)
        assert sorted(world.asked, key=str) == sorted([(WORKLOAD, ""), (PRINCIPAL, "s")], key=str)
        assert world.grant("east") == world.grant("west")
        assert world.grant("east") != world.grant("north")
        assert world.counted == [True, True]


async def test_a_token_is_renewed_at_six_tenths_of_its_time(world: World) -> None:
    world.follow(pool(east=WORKLOAD))
    async with world.running():
        await world.move(0)
        await world.move(2159)
        assert len(world.asked) == 1
        await world.move(1)
        assert len(world.asked) == 2
        token = world.grant().token
        assert token is not None
        assert token.reveal() == "token-2"


async def test_entra_may_ask_for_an_earlier_renewal_and_for_no_later_one(world: World) -> None:
    world.renew_at = world.now + 600
    world.follow(pool(east=WORKLOAD))
    async with world.running():
        await world.move(0)
        await world.move(600)
        assert len(world.asked) == 2
        world.renew_at = world.now + 4000
        await world.move(600)
        await world.move(2160)
        assert len(world.asked) == 4


async def test_a_token_that_is_repeated_is_not_asked_for_in_a_hurry(world: World) -> None:
    """IMDS gives the same one until it is nearly over: what is left of it halves each time, the pauses need not."""
    world.lifetime = 20.0
    world.renew_at = 0.0
    world.follow(pool(east=WORKLOAD))
    async with world.running():
        await world.move(0)
        await world.move(9.9)
        assert len(world.asked) == 1
        await world.move(0.1)
        assert len(world.asked) == 2


async def test_while_entra_fails_the_last_token_serves_until_it_is_over(world: World) -> None:
    world.follow(pool(east=WORKLOAD))
    async with world.running():
        await world.move(0)
        world.fails = "AADSTS90033: A transient error"
        await world.move(2160)
        assert (world.grant().good, world.grant().fault) == (True, "AADSTS90033: A transient error")
        assert world.shown() == (State.HEALTHY, Reason.AUTH)
        asked = len(world.asked)
        for pause in (0.9, 1.8, 3.6, 7.2, 14.4, 28.8, 54.0, 54.0):
            await world.move(pause - 0.01)
            assert len(world.asked) == asked
            await world.move(0.02)
            asked += 1
            assert len(world.asked) == asked
        await world.move(1440)
        assert not world.grant().good
        assert world.grant().token is not None, "its host is out, and the cluster stays as it is"
        assert world.shown() == (State.UNHEALTHY, Reason.AUTH)
        world.fails = ""
        await world.move(60)
        assert (world.grant().good, world.grant().fault) == (True, "")


async def test_another_secret_is_tried_at_once_and_the_old_token_serves_meanwhile(world: World) -> None:
    table = pool(east=PRINCIPAL)
    world.follow(table, secret="old")
    async with world.running():
        await world.move(0)
        world.fails = "AADSTS7000215"
        world.follow(table, secret="wrong")
        await world.move(0)
        assert world.asked[-1] == (PRINCIPAL, "wrong")
        assert (world.grant().good, world.grant().fault) == (True, "AADSTS7000215")


async def test_a_token_that_is_refused_is_replaced_once_a_minute(world: World) -> None:
    world.follow(pool(east=WORKLOAD))
    async with world.running():
        await world.move(0)
        world.tokens.doubted(endpoint_key("east"))
        await world.move(59)
        assert len(world.asked) == 1
        await world.move(1)
        world.tokens.doubted(endpoint_key("east"))
        world.tokens.doubted(endpoint_key("nobody"))
        await world.move(0)
        assert len(world.asked) == 2


async def test_a_failing_identity_holds_up_no_other_and_who_waits_is_told(world: World) -> None:
    broken = Identity(kind="managed", scope=SCOPE)

    class Half(World):
        async def token(self, identity: Identity, credential: SecretValue | None) -> Token:
            if identity == broken:
                raise ZeroDivisionError
            return await super().token(identity, credential)

    half = Half()
    half.follow(pool(east=WORKLOAD, west=broken))
    async with half.running():
        await half.tokens.tried()
        await half.move(0)
        assert half.grant("east").good
        assert half.grant("west") == Grant(fault="asking for a token failed: ZeroDivisionError")
        assert half.shown("west") == (State.UNHEALTHY, Reason.AUTH)


async def test_what_nobody_wants_any_more_is_not_asked_for(world: World) -> None:
    world.follow(pool(east=WORKLOAD))
    async with world.running():
        await world.move(0)
        world.follow(routing_table(endpoint("east"), probe=None))
        await world.move(10_000)
        assert len(world.asked) == 1
        assert not world.observer.overrides(world.clock()).grants


async def test_nothing_is_printed_of_tokens(world: World) -> None:
    world.follow(pool(east=PRINCIPAL), secret="canary-secret")
    async with world.running():
        await world.move(0)
        told = repr((world.grant(), world.observer.overrides(0), world.tokens._held, Token(SecretValue("canary"), 0)))
        assert "canary" not in told
        assert "token-1" not in told


async def test_a_crowd_of_identities_is_asked_for_a_few_at_a_time(world: World) -> None:
    running, most = 0, 0
    gate = asyncio.Event()

    class Slow(World):
        async def token(self, identity: Identity, credential: SecretValue | None) -> Token:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await gate.wait()
            running -= 1
            return await super().token(identity, credential)

    slow = Slow()
    crowd = {f"e{n}": Identity(kind="managed", client_id=str(n), scope=SCOPE) for n in range(20)}
    slow.follow(pool(**crowd))
    async with slow.running():
        await slow.move(0)
        gate.set()
        await eventually(lambda: len(slow.asked) == 20)
    assert most == module.AT_ONCE

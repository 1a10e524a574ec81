"""The runner that asks for issuers' keys: whom it asks, and what it goes on with when nobody answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aoai_operator.core.observed import SigningKeys
from aoai_operator.core.table import RoutingTable, TokenIssuer
from aoai_operator.ports import IssuerError
from aoai_operator.runners.issuers import INTERVAL_MS, IssuerKeys
from aoai_operator.runners.observing import Observer
from support.tables import endpoint, routing_table
from support.waiting import eventually

ONE, OTHER = "https://one.example", "https://other.example"
KEYS = SigningKeys("one", '{"keys":[1]}')
ROTATED = SigningKeys("one", '{"keys":[2]}')


class World:
    """Issuers that answer what a test says; a mock, as only what is made of answers matters here."""

    def __init__(self, **answers: SigningKeys | str) -> None:
        self.answers: dict[str, SigningKeys | str] = {f"https://{name}.example": one for name, one in answers.items()}
        self.asked: list[str] = []
        self.now = 0
        self.changes = 0
        self.observer = Observer(changed=self._changed, now=lambda: self.now)
        self.issuers = IssuerKeys(issuers=self, observer=self.observer, now=lambda: self.now)

    def _changed(self) -> None:
        self.changes += 1

    async def keys(self, issuer: TokenIssuer) -> SigningKeys:
        self.asked.append(issuer.url)
        found = self.answers[issuer.url]
        if isinstance(found, str):
            raise IssuerError(found)
        return found

    def follow(self, *tables: RoutingTable) -> None:
        self.tables = tables
        self.issuers.follow(tables)

    def later(self) -> None:
        """Pass the time until everybody is asked again."""
        self.now += 2 * INTERVAL_MS
        self.issuers.follow(self.tables)

    @property
    def known(self) -> dict[str, SigningKeys]:
        return dict(self.observer.overrides(self.now).issuers)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.issuers.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def taking(*urls: str, audience: str = "aoai") -> RoutingTable:
    issuers = tuple(TokenIssuer(kind="serviceAccount", url=url, audience=audience) for url in urls)
    return routing_table(endpoint("east")).model_copy(update={"issuers": issuers})


async def test_each_issuer_is_asked_once_whatever_the_audiences() -> None:
    world = World(one=KEYS, other=KEYS)
    world.follow(taking(ONE), taking(ONE, OTHER, audience="another"))
    async with world.running():
        await world.issuers.tried()
        assert world.known == {ONE: KEYS, OTHER: KEYS}
    assert sorted(world.asked) == [ONE, OTHER]


async def test_where_no_pool_takes_tokens_nobody_is_waited_for() -> None:
    world = World()
    world.follow(taking())
    await world.issuers.tried()
    assert world.known == {}
    assert world.changes == 0


async def test_keys_that_are_known_stay_while_their_issuer_is_away() -> None:
    world = World(one=KEYS)
    world.follow(taking(ONE))
    async with world.running():
        await world.issuers.tried()
        world.answers[ONE] = "it does not answer"
        world.later()
        await eventually(lambda: world.known[ONE].fault)
        assert world.known[ONE] == SigningKeys(KEYS.issuer, KEYS.jwks, "it does not answer")
        world.answers[ONE] = ROTATED
        world.later()
        await eventually(lambda: world.known[ONE] == ROTATED)


async def test_one_that_never_answered_is_known_to_be_away_and_tried_again() -> None:
    world = World(one="it does not answer", other=KEYS)
    world.follow(taking(ONE, OTHER))
    async with world.running():
        await world.issuers.tried()
        assert world.known == {ONE: SigningKeys(fault="it does not answer"), OTHER: KEYS}
        world.answers[ONE] = KEYS
        world.later()
        await eventually(lambda: world.known[ONE] == KEYS)


async def test_one_that_no_pool_names_any_more_is_forgotten() -> None:
    world = World(one=KEYS, other=KEYS)
    world.follow(taking(ONE, OTHER))
    async with world.running():
        await world.issuers.tried()
        world.follow(taking(OTHER))
        assert world.known == {OTHER: KEYS}
        world.later()
        await eventually(lambda: len(world.asked) == 3)
    assert world.asked[-1] == OTHER

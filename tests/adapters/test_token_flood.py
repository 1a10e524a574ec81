"""Whoever makes tokens up without end: the API server, known proxies and the other port notice nothing of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast

import grpc
import pytest
from structlog.testing import capture_logs

from aoai_operator.adapters.kube.tokens import TokenReviews
from aoai_operator.ports import JsonObject, KubeApi, Resource
from support.identity import Bench, dialled, learnt, refusal, served, stream
from support.waiting import eventually

Refusal = tuple[grpc.StatusCode, str]
BUSY = (grpc.StatusCode.UNAVAILABLE, "the token cannot be judged now")
BAD = (grpc.StatusCode.UNAUTHENTICATED, "the token is not valid, or was not made for this audience")


class ApiServer:
    """Judges tokens: those that begin with "good" are. While it is slow, it does not answer to others."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.under_way = self.most = 0
        self.quick = asyncio.Event()
        self.quick.set()

    async def create(self, _: Resource, body: JsonObject) -> JsonObject:
        token = str(body["spec"]["token"])
        self.asked.append(token)
        good = token.startswith("good")
        if not good:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            await self.quick.wait()
            self.under_way -= 1
        user = {"username": "system:serviceaccount:search:api"}
        return {"status": {"authenticated": good, "audiences": ["aoai.dev"], "user": user}}


class House:
    """An operator's two ports, each with a client."""

    def __init__(self, **bench: Any) -> None:
        self.api = ApiServer()
        self.now = 1000.0
        reviews = TokenReviews(cast(KubeApi, self.api), audience="aoai.dev", clock=lambda: self.now)
        self.bench = Bench(reviewer=reviews, **bench)
        self.sidecars: grpc.aio.Channel
        self.gateways: grpc.aio.Channel

    async def refusals(self, *tokens: str) -> list[Refusal]:
        """Show these tokens at once."""
        return list(await asyncio.gather(*(refusal(self.sidecars, token=token) for token in tokens)))

    async def serves(self, sidecar: str = "good") -> None:
        """Look that a sidecar and a gateway are served."""
        assert await learnt(self.sidecars, token=sidecar) == ["default/sidecar/search"]
        assert await learnt(self.gateways) == ["default/gateway"]


@asynccontextmanager
async def running(*, calls: int = 1000, **bench: Any) -> AsyncIterator[House]:
    house = House(**bench)
    async with AsyncExitStack() as stack:
        ports = await stack.enter_async_context(served(house.bench, calls=calls))
        house.sidecars = await stack.enter_async_context(dialled(house.bench, ports.tokens))
        pair = house.bench.pki.gateway()
        house.gateways = await stack.enter_async_context(dialled(house.bench, ports.certificates, pair))
        yield house


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with running() as house:
        yield house


async def test_known_proxies_are_served_while_made_up_tokens_come_in_masses(house: House) -> None:
    await house.serves()
    house.api.quick.clear()
    flood = asyncio.create_task(house.refusals(*(f"made-up-{n}" for n in range(100))))
    await eventually(lambda: house.api.under_way == 4)
    await house.serves()
    house.now += 60
    await house.serves()
    assert house.api.asked.count("good") == 2, "its verdict was over, and it did not wait for its turn"
    house.api.quick.set()
    refused = await flood
    assert set(refused) == {BUSY, BAD}
    assert refused.count(BAD) == len([token for token in house.api.asked if token != "good"]) <= 20
    assert house.api.most == 4


async def test_who_showed_bad_tokens_is_asked_about_once_a_second(house: House) -> None:
    await house.refusals(*(f"made-up-{n}" for n in range(10)))
    assert await house.refusals("one", "two") == [BUSY, BUSY]
    house.now += 1
    assert set(await house.refusals("one", "two")) == {BAD, BUSY}
    assert len(house.api.asked) == 11


async def test_a_bad_token_is_remembered_for_some_seconds(house: House) -> None:
    for _ in range(3):
        assert await house.refusals("made-up") == [BAD]
    assert len(house.api.asked) == 1
    house.now += 10
    assert await house.refusals("made-up") == [BAD]
    assert len(house.api.asked) == 2


async def test_many_good_proxies_behind_one_address_do_not_wait(house: House) -> None:
    for n in range(30):
        await house.serves(f"good-{n}")


async def test_a_flood_is_one_line_of_the_log(house: House) -> None:
    with capture_logs() as logs:
        await house.refusals(*(f"made-up-{n}" for n in range(30)))
    assert sorted(line["event"] for line in logs) == ["a token cannot be judged now", "refused"]


async def test_calls_that_say_nothing_leave_the_port_for_certificates_alone() -> None:
    async with running(calls=3) as house:
        silent = [stream(house.sidecars) for _ in range(3)]
        await asyncio.gather(*(call.wait_for_connection() for call in silent))
        code, _ = await refusal(house.sidecars, token="good")
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await learnt(house.gateways) == ["default/gateway"]
        for call in silent:
            call.cancel()


async def test_who_says_nothing_is_sent_away() -> None:
    async with running(calls=3, patience=0.1) as house:
        silent = [stream(house.sidecars) for _ in range(3)]
        assert [await call.code() for call in silent] == [grpc.StatusCode.DEADLINE_EXCEEDED] * 3
        await house.serves()

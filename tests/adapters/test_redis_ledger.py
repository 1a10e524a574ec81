"""The ledger in a real Redis: it says what the one in memory says, whatever happens in whatever order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import count

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from redis.asyncio import Redis

from aoai_operator.adapters.redis.ledger import RedisLedger
from support.redis import RedisServer, redis_server
from support.sharers import Sharers
from support.twin import Twin, run_with
from support.workers import Workers


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as made:
        yield made


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


def test_workers_find_in_it_what_they_find_in_memory(server: RedisServer, loop: asyncio.AbstractEventLoop) -> None:
    client, prefixes, run = Redis(port=server.port), count(), run_with(loop)

    class Twins(Workers):
        def new_ledger(self) -> Twin:
            return Twin(RedisLedger(client, prefix=f"t{next(prefixes)}", now=lambda: self.now), run, lambda: self.now)

    try:
        run_state_machine_as_test(Twins, settings=settings(max_examples=100, stateful_step_count=50, deadline=None))
    finally:
        run(client.aclose())


def test_tenants_that_share_find_in_it_what_they_find_in_memory(
    server: RedisServer, loop: asyncio.AbstractEventLoop
) -> None:
    """Limits of every kind, budgets in money, requests at once, shadows, and pools with guarantees; all may change."""
    client, prefixes, run = Redis(port=server.port), count(), run_with(loop)

    class Twins(Sharers):
        def new_ledger(self) -> Twin:
            return Twin(RedisLedger(client, prefix=f"s{next(prefixes)}", now=lambda: self.now), run, lambda: self.now)

    try:
        run_state_machine_as_test(Twins, settings=settings(max_examples=100, stateful_step_count=50, deadline=None))
    finally:
        run(client.aclose())

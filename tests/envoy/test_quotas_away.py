"""The ledger is away: the operator stands still while its Envoy goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import pytest_asyncio

from aoai_operator.simulator import Deployment, Region, Simulator
from support.calls import HELLO
from support.local import LocalGateway
from support.manifests import pool_manifest
from support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUOTAS: dict[str, dict[str, Any]] = {
    "deny": {"limits": {"requestsPerMinute": 600}, "onLedgerFailure": "Deny"},
    "allow": {"limits": {"requestsPerMinute": 60}},
    "shadow": {"limits": {"requestsPerMinute": 60}, "enforcement": "Shadow"},
    "free": {},
}
KEYS = {name: f"{name}-key-0123456789" for name in QUOTAS}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway() -> AsyncIterator[LocalGateway]:
    """A pool with a tenant for each test."""
    region = Region(name="eastus", deployments=[Deployment(name="gpt-4o", model="gpt-4o")])
    async with Simulator([region]) as azure:
        spec = {"health": {"probe": {"path": "Disabled"}}}
        async with LocalGateway(pool_manifest(azure, spec=spec, tenants=KEYS, quotas=QUOTAS)) as running:
            yield running


async def call(gateway: LocalGateway, tenant: str) -> httpx.Response:
    body = {"model": "gpt-4o", "messages": HELLO, "max_tokens": 20}
    async with httpx.AsyncClient(timeout=30) as client:
        url = f"{gateway.url}/ai/chat/openai/v1/chat/completions"
        return await client.post(url, headers={"api-key": KEYS[tenant]}, json=body)


@contextmanager
def standing_still(gateway: LocalGateway) -> Iterator[None]:
    """Stop the operator's process, and let it go on in the end."""
    os.kill(gateway.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(gateway.process.pid, signal.SIGCONT)


async def statuses(gateway: LocalGateway, tenant: str, count: int) -> list[int]:
    return [(await call(gateway, tenant)).status_code for _ in range(count)]


async def let_in(gateway: LocalGateway, tenant: str) -> bool:
    return (await call(gateway, tenant)).status_code == 200


async def test_deny_lets_nothing_in_beyond_leases(gateway: LocalGateway) -> None:
    assert await let_in(gateway, "deny")
    with standing_still(gateway):
        got = await statuses(gateway, "deny", 30)
        # A hundredth of 600 is the largest lease.
        assert got.count(200) <= 6
        refused = await call(gateway, "deny")
        assert refused.status_code == 429
        assert int(refused.headers["retry-after-ms"]) <= 1_000
        assert "cannot be asked" in refused.json()["error"]["message"]
        assert await statuses(gateway, "free", 3) == [200] * 3, "who has no limits does not ask"
    await eventually(lambda: let_in(gateway, "deny"), within=5, what="the ledger answers again")


async def test_allow_lets_in_the_workers_share_and_owes_it(gateway: LocalGateway) -> None:
    assert await let_in(gateway, "allow")
    with standing_still(gateway):
        got = await statuses(gateway, "allow", 12)
        # What is saved up in 3 s, and at one a second what comes in the time that these take: at most 100 ms each.
        assert 3 <= got.count(200) <= 6, got
    # One before, and those that come until the ledger answers again: only it says that less is left than before.
    found, told = 1 + got.count(200), 59

    async def answered() -> bool:
        nonlocal found, told
        answer = await call(gateway, "allow")
        found += answer.status_code == 200
        told = int(answer.headers["x-ratelimit-remaining-requests"])
        return told < 59

    await eventually(answered, within=5, what="the ledger answers again")
    assert told == 60 - found, "what was let in without the ledger is counted"


async def test_shadow_lets_all_of_it_in(gateway: LocalGateway) -> None:
    assert await let_in(gateway, "shadow")
    with standing_still(gateway):
        assert await statuses(gateway, "shadow", 10) == [200] * 10

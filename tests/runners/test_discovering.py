"""When Azure is read, by a clock of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from aoai_operator.core.discovered import AzureSource, Found, FoundAccount, FoundDeployment, Retirement
from aoai_operator.core.names import SecretRef
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.table import Identity
from aoai_operator.ports import ReadingError
from aoai_operator.runners import discovering as module
from aoai_operator.runners.discovering import Discovering

REF = SecretRef("ai", "reader", "secret")
SOURCE = AzureSource(Identity(kind="workload", scope=""), "", ("sub",), interval=300_000)
OTHER = replace(SOURCE, subscriptions=("other",))
PRINCIPAL = replace(SOURCE, identity=Identity(kind="secret", scope="", credential=REF))
DEPLOYMENT = FoundDeployment("gpt-4o", "gpt-4o")
ACCOUNT = FoundAccount("/id", "a", "sub", "rg", "OpenAI", "eastus", deployments=(DEPLOYMENT,))


class Azure:
    """What is read, and a clock that stands still but when a test moves it."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.accounts: tuple[FoundAccount, ...] = (ACCOUNT,)
        self.fails: Exception | None = None
        self.read: list[tuple[AzureSource, str]] = []
        self.counted: list[bool] = []
        self.told = 0
        self.catalogues = 0
        self.discovering = Discovering(
            reader=self, meters=self, changed=self._changed, now=self.clock, chance=lambda: 0.5
        )

    def _changed(self) -> None:
        self.told += 1

    def clock(self) -> int:
        return round(self.now * 1000)

    def azure_read(self, *, complete: bool) -> None:
        self.counted.append(complete)

    @asynccontextmanager
    async def open(self, source: AzureSource, credential: SecretValue | None) -> AsyncIterator[Session]:
        self.read.append((source, credential.reveal() if credential else ""))
        yield Session(self)

    async def move(self, seconds: float) -> None:
        """Let time pass, and what is due be done."""
        self.now += seconds
        self.discovering._wake.set()
        for _ in range(40):
            await asyncio.sleep(0)

    @property
    def found(self) -> Found:
        return self.discovering.found[SOURCE]

    @asynccontextmanager
    async def running(self, *sources: AzureSource, secret: str = "") -> AsyncIterator[None]:
        self.discovering.follow(sources, {REF: SecretValue(secret)} if secret else {})
        task = asyncio.create_task(self.discovering.run())
        try:
            await self.move(0)
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class Session:
    """Reads what there is."""

    def __init__(self, azure: Azure) -> None:
        self._azure = azure

    async def accounts(self, _subscription: str, _group: str) -> tuple[FoundAccount, ...]:
        if self._azure.fails:
            raise self._azure.fails
        return self._azure.accounts

    async def account(self, _account: FoundAccount) -> FoundAccount | None:
        return None

    async def deployments(self, _account: FoundAccount) -> tuple[FoundDeployment, ...]:
        return (DEPLOYMENT,)

    async def retirements(self, _subscription: str, _location: str) -> tuple[Retirement, ...]:
        self._azure.catalogues += 1
        return ()


async def test_it_is_read_at_once_and_again_after_the_interval() -> None:
    azure = Azure()
    async with azure.running(SOURCE):
        assert azure.found.accounts == (ACCOUNT,)
        assert azure.found.read_at == 1_000_000_000
        await azure.move(299)
        assert len(azure.read) == 1
        azure.accounts = ()
        told = azure.told
        await azure.move(2)
        assert (len(azure.read), azure.told, azure.counted) == (2, told + 1, [True, True])
        assert azure.found == Found((), seen=True)


async def test_what_is_the_same_wakes_nobody() -> None:
    azure = Azure()
    async with azure.running(SOURCE):
        told, found = azure.told, azure.discovering.found
        await azure.move(301)
        assert (len(azure.read), azure.told) == (2, told)
        assert azure.discovering.found is found


@pytest.mark.parametrize(("chance", "soonest"), [(0.0, 270), (0.99999, 329)])
async def test_chance_spreads_readings(chance: float, soonest: float) -> None:
    azure = Azure()
    azure.discovering._chance = lambda: chance
    async with azure.running(SOURCE):
        await azure.move(soonest - 1)
        assert len(azure.read) == 1
        await azure.move(2)
        assert len(azure.read) == 2


async def test_what_fails_is_tried_sooner_and_what_was_found_stays_with_its_time() -> None:
    azure = Azure()
    async with azure.running(SOURCE):
        azure.fails = ReadingError("subscription sub: 503 there is no answer")
        with capture_logs() as logs:
            await azure.move(301)
            for pause in (5, 10, 20, 40, 80, 160, 300, 300):
                reads = len(azure.read)
                await azure.move(pause - 1)
                assert len(azure.read) == reads
                await azure.move(1 + pause * 0.1)
                assert len(azure.read) == reads + 1
        assert azure.found == Found(
            (ACCOUNT,), "subscription sub: 503 there is no answer", 0, {"eastus": ()}, seen=True
        )
        assert azure.found.read_at == 1_000_000_000
        assert [one["event"] for one in logs] == ["Azure cannot be read in full, what was found last serves on"]
        azure.fails = None
        with capture_logs() as logs:
            await azure.move(400)
        assert [one["event"] for one in logs] == ["Azure is read again"]
        assert azure.found.fault == ""
        assert azure.found.read_at == azure.clock()
        assert azure.counted[-2:] == [False, True]


async def test_it_is_left_alone_for_as_long_as_it_says() -> None:
    azure = Azure()
    azure.fails = ReadingError("too many", wait=600)
    async with azure.running(SOURCE):
        await azure.move(599)
        assert len(azure.read) == 1
        await azure.move(62)
        assert len(azure.read) == 2


async def test_a_mistake_of_ours_ends_nothing() -> None:
    azure = Azure()
    azure.fails = RuntimeError("a mistake")
    async with azure.running(SOURCE, OTHER):
        assert azure.found == Found(None, "reading Azure failed: RuntimeError")
        assert len(azure.read) == 2
        azure.fails = None
        await azure.move(6)
        assert azure.found.accounts == (ACCOUNT,)


async def test_a_reading_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WITHIN", 0.01)
    azure = Azure()

    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Session, "accounts", hang)
    async with azure.running(SOURCE):
        await azure.discovering.tried()
    assert azure.found == Found(None, "Azure Resource Manager was not read within 0.01 s")


async def test_sources_come_and_go_and_another_secret_reads_anew() -> None:
    azure = Azure()
    async with azure.running(SOURCE):
        azure.discovering.follow([SOURCE, PRINCIPAL], {REF: SecretValue("one")})
        await azure.move(0)
        assert azure.read[-1] == (PRINCIPAL, "one")
        azure.discovering.follow([PRINCIPAL], {REF: SecretValue("two")})
        assert azure.discovering.found[PRINCIPAL].accounts == (ACCOUNT,)
        await azure.move(0)
        assert azure.read[-1] == (PRINCIPAL, "two")
        assert set(azure.discovering.found) == {PRINCIPAL}
        azure.discovering.follow([], {})
        assert azure.discovering.found == {}


async def test_who_asks_for_nothing_waits_for_nothing() -> None:
    azure = Azure()
    async with azure.running():
        await azure.discovering.tried()
    assert azure.told == 0


async def test_what_retires_is_read_again_each_day() -> None:
    azure = Azure()
    async with azure.running(SOURCE):
        for _ in range(5):
            await azure.move(330)
        assert (len(azure.read), azure.catalogues) == (6, 1)
        await azure.move(86_400)
        assert azure.catalogues == 2

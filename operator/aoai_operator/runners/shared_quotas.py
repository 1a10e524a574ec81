"""Holds tenants to their quotas where a store outside counts: every replica asks it for its own proxies."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping

import structlog

from aoai_operator.core.api.usage import TenantUsage
from aoai_operator.core.names import PoolKey
from aoai_operator.core.observed import Overrides
from aoai_operator.core.quota.asking import read, write
from aoai_operator.core.quota.deciding import Granted
from aoai_operator.core.quota.policy import Due, Policy, answered, settled
from aoai_operator.core.quota.settling import Settlement
from aoai_operator.core.quota.usage import read_usage
from aoai_operator.core.table import RoutingTable
from aoai_operator.ports import QuotaStore, UnavailableError
from aoai_operator.runners.quotas import ASK, KEPT, Meters, read_settlements

_AT_ONCE = 16
_AGAIN = 0.5
"""Seconds before a settlement that could not be told is told again."""

_log = structlog.get_logger("quotas")


class SharedQuotas:
    """One replica's part. It does the same as Quotas, and no leader is needed to answer."""

    def __init__(self, *, store: QuotaStore, meters: Meters) -> None:
        """Take who counts, and what counts how that goes."""
        self._store = store
        self._meters = meters
        self._policy = Policy()
        self._leading = False
        self._away = False
        self._waiting: deque[tuple[Settlement, Due]] = deque(maxlen=KEPT)
        self._woken = asyncio.Event()

    def lead(self, leading: bool) -> None:
        """Write statuses from now on, or leave that to another replica."""
        self._leading = leading

    def follow(self, tables: Mapping[PoolKey, RoutingTable]) -> None:
        """Take the tables that are in force."""
        if self._policy.follow(tables.values()):
            self._store.limit(self._policy.limits)
            self._store.share(self._policy.pools)

    def observed(self, overrides: Overrides) -> None:
        """Take what is observed of hosts."""
        if self._policy.observed(overrides):
            self._store.share(self._policy.pools)

    async def restore(self, told: Mapping[PoolKey, TenantUsage]) -> None:
        """Let the store count what statuses tell, if it knows of nothing: it is new, or was emptied.

        Raises:
            UnavailableError: it does not answer.
        """
        if not await self._store.begun():
            _log.warning("the store of quotas was empty; it counts what the statuses say", tenants=len(told))
            await self._store.restore({tenant: read_usage(usage) for tenant, usage in told.items()})

    async def touched(self) -> set[PoolKey]:
        """Return the tenants of whom something was counted since the last call."""
        return await self._store.touched() if self._leading else set()

    async def usage(self, tenant: PoolKey) -> TenantUsage | None:
        """Return what a tenant used; None for one without limits."""
        return self._policy.told(tenant, await self._store.usage(tenant))

    def differs(self, tenant: PoolKey, before: TenantUsage | None, after: TenantUsage) -> bool:
        """Tell whether what a status says of a tenant is worth another write."""
        return self._policy.differs(tenant, before, after)

    async def ask(self, line: str) -> str:
        """Answer a proxy's ask.

        Raises:
            ValueError: it is none.
            UnavailableError: the store does not answer.
        """
        question = read(line)
        asked = self._policy.asked(question)
        if asked is None:
            return write(None)
        try:
            decided = await self._store.ask(
                asked.ask, request_id=question.request_id, rests=question.rests, owed=question.owed
            )
        except UnavailableError as error:
            self._tell_away(error)
            self._meters.unanswered()
            raise
        self._tell_back()
        if decided is None:
            return write(None)
        found = decided.found
        if isinstance(found, Granted) and found.shadow:
            self._meters.shadowed(question, found.shadow)
        return write(answered(asked, found, decided.bounds, decided.now))

    def settle(self, settlement: Settlement) -> None:
        """Take what a request used."""
        if self._policy.gives(settlement):
            self._store.share(self._policy.pools)
        due = self._policy.due(settlement)
        if due is not None and (settlement.grant or self._policy.knows(settlement.tenant)):
            self._waiting.append((settlement, due))
            self._woken.set()

    async def called(self, what: str, data: bytes) -> bytes:
        """Answer another replica, which does not know yet that it can ask the store itself.

        Raises:
            ValueError: it cannot be read.
            UnavailableError: the store does not answer.
        """
        if what == ASK:
            return (await self.ask(data.decode())).encode()
        for settlement in read_settlements(data):
            self.settle(settlement)
        return b""

    async def run(self) -> None:
        """Tell the store what requests used, until cancelled. What it cannot be told now waits."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(_AT_ONCE, len(self._waiting)))]
                told = await asyncio.gather(*(self._settle(settlement, due) for settlement, due in batch))
                unheard = [each for each, heard in zip(batch, told, strict=True) if not heard]
                self._waiting.extendleft(reversed(unheard))
                if unheard:
                    await asyncio.sleep(_AGAIN)

    async def _settle(self, settlement: Settlement, due: Due) -> bool:
        """Settle one, and tell whether the store heard of it."""
        try:
            reserved = await self._store.settle(
                settlement.grant, settlement.draw, settlement.estimate, due.used, request_id=settlement.request_id
            )
        except UnavailableError as error:
            self._tell_away(error)
            return False
        self._tell_back()
        if reserved is not None and (known := settled(settlement, due, reserved)):
            self._meters.settled(known)
        return True

    def _tell_away(self, error: UnavailableError) -> None:
        if not self._away:
            _log.warning("the store of quotas cannot be asked; until it can, onLedgerFailure holds", why=str(error))
        self._away = True

    def _tell_back(self) -> None:
        if self._away:
            _log.info("the store of quotas answers again")
        self._away = False

"""Holds tenants to their quotas: the leader has the ledger, and every other replica asks it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from pydantic import TypeAdapter, ValidationError

from aoai_operator.core.api.usage import TenantUsage
from aoai_operator.core.names import PoolKey
from aoai_operator.core.observed import Overrides
from aoai_operator.core.quota.admission import Admission
from aoai_operator.core.quota.admission import Meters as LedgerMeters
from aoai_operator.core.quota.asking import Question, read, write
from aoai_operator.core.quota.settling import Settlement
from aoai_operator.core.table import RoutingTable
from aoai_operator.ports import UnavailableError

ASK, SETTLE = "Ask", "Settle"
"""What replicas call each other for."""

Call = Callable[[str, bytes], Awaitable[bytes]]
"""Calls the leader, or raises UnavailableError."""

KEPT = 50_000
"""Settlements that wait for a leader; the oldest are then forgotten, and their charges stay."""
_BATCH = 200
_PAUSE = 0.1
"""Seconds between two batches, and before a new try."""

_SETTLEMENTS = TypeAdapter(list[Settlement])


def read_settlements(data: bytes) -> list[Settlement]:
    """Read what another replica tells of requests. Raises ValueError where that is none."""
    try:
        return _SETTLEMENTS.validate_json(data)
    except ValidationError as error:
        raise ValueError("these are no settlements") from error


class Meters(LedgerMeters, Protocol):
    """Counts what is asked as well."""

    def unanswered(self) -> None:
        """Count an ask that could not be answered."""
        ...


class Quotas:
    """One replica's part. Times are milliseconds."""

    def __init__(self, *, call: Call, now: Callable[[], int], meters: Meters) -> None:
        """Take the ways out.

        Args:
            call: calls the leader.
            now: a clock that never goes back.
            meters: counts what the ledger does.
        """
        self._meters = meters
        self._call = call
        self._now = now
        self._ledger: Admission | None = None
        self._restored = False
        self._tables: Mapping[PoolKey, RoutingTable] = {}
        self._observed = Overrides()
        self._waiting: deque[Settlement] = deque(maxlen=KEPT)
        self._woken = asyncio.Event()

    def lead(self, leading: bool) -> None:
        """Have the ledger from now on, or leave it to another replica."""
        self._ledger = Admission(self._now(), self._meters) if leading else None
        self._restored = False
        if self._ledger is not None:
            self._ledger.follow(self._tables.values())
            self._ledger.observed(self._observed)
            self._woken.set()

    def follow(self, tables: Mapping[PoolKey, RoutingTable]) -> None:
        """Take the tables that are in force."""
        self._tables = tables
        if self._ledger is not None:
            self._ledger.follow(tables.values())

    def observed(self, overrides: Overrides) -> None:
        """Take what is observed of hosts."""
        self._observed = overrides
        if self._ledger is not None:
            self._ledger.observed(overrides)

    async def restore(self, told: Mapping[PoolKey, TenantUsage]) -> None:
        """Count what the leader before this one had counted, and answer from now on."""
        if self._ledger is not None and not self._restored:
            self._ledger.restore(told)
            self._restored = True

    async def touched(self) -> set[PoolKey]:
        """Return the tenants of whom something was counted since the last call."""
        return self._ledger.ledger.touched() if self._ledger is not None else set()

    async def usage(self, tenant: PoolKey) -> TenantUsage | None:
        """Return what a tenant used; None for one without limits, or where this replica does not lead."""
        return self._ledger.usage(tenant, self._now()) if self._ledger is not None else None

    def differs(self, tenant: PoolKey, before: TenantUsage | None, after: TenantUsage) -> bool:
        """Tell whether what a status says of a tenant is worth another write."""
        return self._ledger is not None and self._ledger.policy.differs(tenant, before, after)

    async def ask(self, line: str) -> str:
        """Answer a proxy's ask.

        Raises:
            ValueError: it is none.
            UnavailableError: nobody leads, or the leader does not answer.
        """
        question = read(line)
        try:
            if self._ledger is None:
                return (await self._call(ASK, line.encode())).decode()
            return self._answer(self._ledger, question)
        except UnavailableError:
            self._meters.unanswered()
            raise

    def settle(self, settlement: Settlement) -> None:
        """Take what a request used."""
        if self._ledger is not None:
            self._ledger.settle(settlement)
        else:
            self._waiting.append(settlement)
            self._woken.set()

    async def called(self, what: str, data: bytes) -> bytes:
        """Answer another replica.

        Raises:
            ValueError: it cannot be read.
            UnavailableError: this replica does not lead.
        """
        if self._ledger is None:
            raise UnavailableError("this replica does not lead")
        if what == ASK:
            return self._answer(self._ledger, read(data.decode())).encode()
        for settlement in read_settlements(data):
            self._ledger.settle(settlement)
        return b""

    async def run(self) -> None:
        """Tell the leader what requests used, until cancelled."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            await asyncio.sleep(_PAUSE)
            await self._tell()
            if self._waiting:
                self._woken.set()

    async def _tell(self) -> None:
        batch = [self._waiting[place] for place in range(min(_BATCH, len(self._waiting)))]
        if self._ledger is not None:
            for settlement in batch:
                self._ledger.settle(settlement)
        elif batch:
            try:
                await self._call(SETTLE, _SETTLEMENTS.dump_json(batch))
            except UnavailableError:
                return
        for _ in batch:
            self._waiting.popleft()

    def _answer(self, ledger: Admission, question: Question) -> str:
        if not self._restored:
            raise UnavailableError("the leader does not know yet what was used before")
        return write(ledger.ask(question, self._now()))

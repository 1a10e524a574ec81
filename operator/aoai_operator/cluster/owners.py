"""Whose routing tables are: a ConfigMap can name any pool as its owner, so the API server is asked for that pool."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog

from aoai_operator.core.names import PoolKey
from aoai_operator.ports import JsonObject, KubeError

_log = structlog.get_logger("owners")

_AT_ONCE = 16


class Owners:
    """Asks once for each pool and uid, and remembers those that were there."""

    def __init__(self, pool: Callable[[PoolKey], Awaitable[JsonObject | None]]) -> None:
        """Take where single pools come from."""
        self._pool = pool
        self._limit = asyncio.Semaphore(_AT_ONCE)
        self._known: dict[PoolKey, str] = {}
        self.unasked: dict[PoolKey, bool] = {}
        """Pools that could not be asked for, and whether that may soon be otherwise: the API server was away."""
        self.absent: set[PoolKey] = set()
        """Pools that were asked for last, and were not there."""

    async def ask(self, claimed: Mapping[PoolKey, str]) -> None:
        """Ask for the pools of these keys, unless those of these uids are known to be there; empty: for any uid."""
        await asyncio.gather(*(self._ask(pool) for pool, uid in claimed.items() if not self.owns(pool, uid)))

    def owns(self, pool: PoolKey, uid: str) -> bool:
        """Tell whether the pool of a uid was there."""
        return bool(uid) and self._known.get(pool) == uid

    def forget(self, pool: PoolKey) -> None:
        """Drop who was there."""
        self._known.pop(pool, None)
        self.unasked.pop(pool, None)

    async def _ask(self, pool: PoolKey) -> None:
        try:
            async with self._limit:
                found = await self._pool(pool)
        except KubeError as error:
            if pool not in self.unasked:
                _log.warning("whose a routing table is cannot be asked", pool=str(pool), why=error.message)
            self.unasked[pool] = error.retryable
            return
        self.unasked.pop(pool, None)
        if found is None:
            self.absent.add(pool)
            return
        self.absent.discard(pool)
        self._known[pool] = found["metadata"]["uid"]

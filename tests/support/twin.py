"""The ledger in memory and the one in Redis, side by side: whatever is done to both, they say the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from aoai_operator.adapters.redis.ledger import RedisLedger
from aoai_operator.core.names import PoolKey
from aoai_operator.core.quota.account import Bound
from aoai_operator.core.quota.deciding import Ask, Decision, Granted, Refused, Rest, Shared
from aoai_operator.core.quota.ledger import Ledger
from aoai_operator.core.quota.limits import Amount, Limits
from aoai_operator.core.quota.pool import Pool
from aoai_operator.core.quota.usage import Usage

T = TypeVar("T")


class Twin(Ledger):
    """The ledger in memory, which asks Redis the same and compares."""

    def __init__(self, redis: RedisLedger, run: Callable[[object], object], now: Callable[[], int]) -> None:
        """Take an empty Redis, what runs a coroutine, and the time."""
        super().__init__()
        self._now = now
        self._redis = redis
        self._run = run
        self._run(redis.restore({}))
        self._numbers: dict[int, int] = {}

    def limit(self, limits: Mapping[PoolKey, Limits]) -> None:
        super().limit(limits)
        self._redis.limit(limits)

    def share(self, pools: Mapping[Shared, Pool]) -> None:
        super().share(pools)
        self._redis.share(pools)

    def ask(self, ask: Ask, now: int) -> Granted | Refused:
        found = super().ask(ask, now)
        decided = self._asked(ask)
        if isinstance(found, Granted) and isinstance(decided.found, Granted):
            self._numbers[found.grant] = decided.found.grant
            assert bool(found.grant) == bool(decided.found.grant)
            same = replace(decided.found, grant=found.grant, lease=_some(decided.found.lease))
            assert same == replace(found, lease=_some(found.lease))
        else:
            assert decided.found == found
        assert _seen(decided.bounds, now) == _seen(super().bounds(ask, now), now)
        return found

    def settle(self, grant: int, draw: int, estimate: Amount, used: Amount | None) -> bool:
        self._expire(self._now())
        reserved = self.reserved(grant) if draw == 0 else estimate
        news = super().settle(grant, draw, estimate, used)
        told = self._run(self._redis.settle(self._numbers[grant], draw, estimate, used))
        assert (told is not None) == news
        if news and draw == 0:
            assert told == reserved
        return news

    def give_back(self, grant: int, unused: Amount, now: int) -> bool:
        self._expire(now)
        news = super().give_back(grant, unused, now)
        known = self._grants.get(grant)
        whose = known.tenant if known else PoolKey("ai", "team")
        self._asked(Ask(whose, "gpt-4o", {}), rest=(self._numbers[grant], unused))
        return news

    def owe(self, shared: Shared, tenant: PoolKey, amount: Amount, now: int) -> None:
        super().owe(shared, tenant, amount, now)
        asked = Ask(tenant, shared[1], {}, shared[0])
        super().ask(asked, now)
        self._asked(asked, owed=amount)

    def bounds(self, ask: Ask, now: int) -> tuple[Bound, ...]:
        found = super().bounds(ask, now)
        if not (ask.need or ask.want or ask.pool):
            assert _seen(self._asked(ask).bounds, now) == _seen(found, now)
        return found

    def usage(self, tenant: PoolKey, now: int) -> Usage | None:
        found = super().usage(tenant, now)
        told = self._run(self._redis.usage(tenant))
        assert told is None or told == found
        return found

    def _asked(self, ask: Ask, *, rest: Rest | None = None, owed: Amount | None = None) -> Decision:
        decided = self._run(self._redis.ask(ask, rests=[rest] if rest else [], owed=owed))
        assert isinstance(decided, Decision)
        return decided


def run_with(loop: asyncio.AbstractEventLoop) -> Callable[[object], object]:
    """Return what runs a coroutine on a loop that otherwise stands still."""

    def run(coroutine: object) -> object:
        assert asyncio.iscoroutine(coroutine)
        return loop.run_until_complete(coroutine)

    return run


def _some(amount: Amount) -> Amount:
    return {unit: count for unit, count in amount.items() if count}


def _seen(bounds: tuple[Bound, ...], now: int) -> list[tuple[object, ...]]:
    return [
        (b.name, b.model, b.unit, b.most, b.ends, b.ever, b.meter.used(now), b.meter.fits_at(now, 0)) for b in bounds
    ]

"""A ledger that all replicas share: Redis counts and decides, in one script a call.

All keys have one hash tag. So they are in one slot of a Redis Cluster, and a decision over a tenant's limits and what
its pool can give is one step. The price is that one shard does it all; leases keep it to a few calls a second.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.resources import files
from secrets import randbelow
from time import monotonic_ns
from typing import Any, Protocol

from redis.exceptions import ReadOnlyError, RedisError

from aoai_operator.core.names import PoolKey
from aoai_operator.core.quota.account import ALL_MODELS
from aoai_operator.core.quota.calendar import window_of
from aoai_operator.core.quota.counters import (
    Counter,
    Share,
    asked_key,
    bounds,
    budget_key,
    counters,
    minute_key,
    wanted_key,
)
from aoai_operator.core.quota.deciding import (
    FAR_MS,
    NEAR_MS,
    OF_LEFT,
    OF_LIMIT,
    WORTH_MS,
    Ask,
    Decision,
    Granted,
    Rest,
    Shared,
    refusal,
)
from aoai_operator.core.quota.ledger import RESTS_MS
from aoai_operator.core.quota.limits import Amount, Limits, Unit
from aoai_operator.core.quota.pool import GRAIN_MS, Pool
from aoai_operator.core.quota.sharing import shares
from aoai_operator.core.quota.usage import Usage
from aoai_operator.ports import UnavailableError

_UNITS = (Unit.TOKENS, Unit.REQUESTS, Unit.COST)
_LUA = ("counters.lua", "grants.lua", "ask.lua", "usage.lua")
_CONSTANTS = (
    "local FAR, NEAR, WORTH, OF_LIMIT, OF_LEFT, UNSPENT = "
    f"{FAR_MS}, {NEAR_MS}, {WORTH_MS}, {OF_LIMIT}, {OF_LEFT}, {RESTS_MS}"
)
_GRANTS = 1 << 53
"""Grants are numbers up to here, as Lua counts exactly to it: so many that replicas may take them by chance."""
_TOUCHED = 1_000
_RESTORED = 100
"""Tenants in one call."""


class Script(Protocol):
    """A script of Redis's (redis.commands.core.AsyncScript)."""

    def __call__(self, *, keys: Sequence[str], args: Sequence[str]) -> Awaitable[Any]: ...


class Client(Protocol):
    """What is used of redis.asyncio's clients, of one Redis and of a cluster."""

    def register_script(self, script: str) -> Script: ...

    def spop(self, name: str, count: int) -> Awaitable[Any]: ...

    def exists(self, *names: str) -> Awaitable[int]: ...

    def aclose(self) -> Awaitable[None]:
        """Close all connections; the next call makes new ones."""
        ...


class RedisLedger:
    """What this replica asks of Redis (ports.QuotaStore)."""

    def __init__(self, client: Client, *, prefix: str, now: Callable[[], int] | None = None) -> None:
        """Take the way to Redis.

        Args:
            client: connected when it is used.
            prefix: the first part of all keys; whoever has the same shares the ledger.
            now: a clock, in milliseconds; None: Redis's own, which is the same for all.
        """
        self._client = client
        self._prefix = f"{{{prefix}}}:"
        self._now = now
        self._ahead = 0
        parts = (files(__package__).joinpath("lua", name).read_text("utf-8") for name in _LUA)
        self._script = client.register_script("\n".join((_CONSTANTS, *parts)))
        self._limits: Mapping[PoolKey, Limits] = {}
        self._pools: dict[Shared, _Sharing] = {}

    def limit(self, limits: Mapping[PoolKey, Limits]) -> None:
        """Take the limits of all tenants."""
        self._limits = limits

    def share(self, pools: Mapping[Shared, Pool]) -> None:
        """Take how pools' models are shared; the others are not."""
        before = self._pools
        self._pools = {
            of: known if (known := before.get(of)) and known.pool == pool else _Sharing(pool)
            for of, pool in pools.items()
        }

    async def ask(
        self, ask: Ask, *, request_id: str = "", rests: Sequence[Rest] = (), owed: Amount | None = None
    ) -> Decision | None:
        """See the port."""
        limits = self._limits.get(ask.tenant, Limits())
        share = await self._share_of(ask)
        grant = str(1 + randbelow(_GRANTS - 1))
        while True:
            counted = counters(ask, limits, share, self._time())
            said = _asking(ask, limits, share, counted, grant)
            said |= {"request": request_id, "rests": [[str(n), _amounts(rest)] for n, rest in rests]}
            if owed:
                said["owed"] = _amounts(owed)
            now, word, *found = await self._call("ask", said)
            if word == b"over":
                return None
            if word == b"forgotten":
                raise UnavailableError("Redis does not know what was used before")
            if word != b"window":
                return _decision(ask, limits, share, now, found)

    async def settle(
        self, grant: int, draw: int, estimate: Amount, used: Amount | None, *, request_id: str = ""
    ) -> int | None:
        """See the port."""
        if not grant and not request_id:
            return None
        said: dict[str, Any] = {"draw": draw, "estimate": _amounts(estimate), "request": request_id}
        said |= {"grant": str(grant) if grant else "", "used": None if used is None else _amounts(used)}
        _, news, reserved = await self._call("settle", said)
        return int(reserved) if news else None

    async def usage(self, tenant: PoolKey) -> Usage | None:
        """Return what counts of a tenant; None for one without limits."""
        limits = self._limits.get(tenant)
        if limits is None:
            return None
        budgets = tuple(dict.fromkeys(limits.budgets))
        while True:
            windows = [window_of(budget.period, budget.zone, self._time()) for budget in budgets]
            asked = [[budget_key(tenant, each), began] for each, (began, _) in zip(budgets, windows, strict=True)]
            now, models, spent = await self._call("usage", {"tenant": str(tenant), "budgets": asked})
            if all(began <= now < ends for began, ends in windows):
                break
        return Usage(
            at=now,
            models={name.decode(): (int(t), int(r)) for name, t, r in models if t or r},
            budgets=tuple(
                (budget, int(used), ends) for budget, used, (_, ends) in zip(budgets, spent, windows, strict=True)
            ),
        )

    async def touched(self) -> set[PoolKey]:
        """Return some tenants of whom something was counted since anybody asked for them."""
        found = await self._answered(self._client.spop(self._prefix + "touched", _TOUCHED))
        return {PoolKey.of(name.decode()) for name in found or ()}

    async def begun(self) -> bool:
        """Tell whether Redis knows what was used: not before anything was, and not after it was emptied."""
        return bool(await self._answered(self._client.exists(self._prefix + "begun")))

    async def restore(self, usages: Mapping[PoolKey, Usage]) -> None:
        """Count what was used before, where Redis does not know it, and let it decide from now on."""
        tenants = [_restored(tenant, usage) for tenant, usage in usages.items()]
        batches = [tenants[at : at + _RESTORED] for at in range(0, len(tenants), _RESTORED)] or [[]]
        for batch in batches:
            await self._call("restore", {"tenants": batch, "all": batch is batches[-1]})

    async def _share_of(self, ask: Ask) -> Share | None:
        of = (ask.pool, ask.model) if ask.pool else None
        sharing = self._pools.get(of) if of else None
        if of is None or sharing is None:
            return None
        if sharing.stale(ask.tenant, self._time()):
            tenants = sorted(sharing.pool.rights.keys() | {ask.tenant})
            keys = [wanted_key(of, tenant) for tenant in tenants]
            said = {"asked": asked_key(of), "tenants": [str(t) for t in tenants], "wanted": keys}
            now, told = await self._call("claims", said)
            known = {tenant: (wanted, asked) for tenant, (wanted, asked) in zip(tenants, told, strict=True)}
            sharing.take(known, ask, now)
        return sharing.share(of, ask.tenant, self._time())

    async def _call(self, name: str, said: Mapping[str, Any]) -> Any:
        if self._now is not None:
            said = {**said, "at": self._now()}
        text = json.dumps(said, separators=(",", ":"))
        told = await self._answered(self._script(keys=[self._prefix], args=[name, text]))
        self._ahead = told[0] - _passed()
        return told

    async def _answered(self, call: Awaitable[Any]) -> Any:
        try:
            return await call
        except (RedisError, OSError, TimeoutError) as error:
            # Redis 6 wraps what happens in a script.
            if isinstance(error, ReadOnlyError) or "READONLY" in str(error):
                # It is a replica by now; who took its place is found where the address leads anew.
                await self._client.aclose()
            raise UnavailableError(f"Redis does not answer: {error or type(error).__name__}") from error

    def _time(self) -> int:
        """Return what Redis's clock is likely to show; before the first call nobody knows."""
        return self._now() if self._now is not None else _passed() + self._ahead


class _Sharing:
    """The shares of a pool's tenants, as they were worked out last: ten times a second at most."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._shares: Mapping[PoolKey, int] = {}
        self._asked: dict[PoolKey, int] = {}
        self._at = -1

    def stale(self, tenant: PoolKey, now: int) -> bool:
        """Tell whether they must be worked out anew for a tenant that asks."""
        return now // GRAIN_MS != self._at or self.pool.idle(self._asked.get(tenant, 0), now)

    def take(self, told: Mapping[PoolKey, tuple[int, int]], ask: Ask, now: int) -> None:
        """Work them out, by what each wanted and when it asked last, and by what is asked just now."""
        self._asked = {tenant: asked for tenant, (_, asked) in told.items()} | {ask.tenant: now}
        more = {ask.tenant: ask.need.get(Unit.TOKENS, 0)}
        claims = (
            self.pool.claim(tenant, wanted + more.get(tenant, 0), self._asked[tenant], now)
            for tenant, (wanted, _) in told.items()
        )
        self._shares, self._at = shares(self.pool.capacity, claims), now // GRAIN_MS

    def share(self, of: Shared, tenant: PoolKey, now: int) -> Share:
        """Return the share of a tenant that asks."""
        self._asked[tenant] = now
        pool = self.pool
        most = self._shares.get(tenant, pool.capacity)
        return Share(of, pool.capacity, most, pool.right(tenant).guaranteed, pool.ever(tenant))


def _asking(ask: Ask, limits: Limits, share: Share | None, counted: Sequence[Counter], grant: str) -> dict[str, Any]:
    return {
        "tenant": str(ask.tenant),
        "model": ask.model,
        "grant": grant,
        "running": bool(ask.need),
        "concurrent": limits.concurrent,
        "shadow": limits.shadow,
        "need": _amounts(ask.need),
        "want": [ask.want.get(unit, -1) for unit in _UNITS] if ask.want else None,
        "usual": _amounts(ask.need if ask.usual is None else ask.usual),
        "timeout": ask.timeout_ms,
        "budgets": bool(limits.budgets),
        "counters": [_counter(counter) for counter in counted],
        "mine": len(counted) - 1,
        "wanted": wanted_key(share.of, ask.tenant) if share else None,
        "asked": asked_key(share.of) if share else None,
    }


def _counter(counter: Counter) -> list[str | int | None]:
    most = -1 if counter.most is None else counter.most
    return [counter.key, _UNITS.index(counter.unit) + 1, most, *(counter.window or (-1, -1)), counter.guaranteed]


def _decision(ask: Ask, limits: Limits, share: Share | None, now: int, found: Sequence[Any]) -> Decision:
    running, before, *admitted = found
    seen = bounds(ask, limits, share, before, now) if before else ()
    refused = refusal(ask, limits, running, seen, now) if before else None
    if not admitted:
        if refused is None:
            raise AssertionError("what is refused has a reason")
        return Decision(refused, seen, now)
    after, grant, life, lease = admitted
    given = {unit: int(amount) for unit, amount in zip(_UNITS, lease, strict=False) if amount}
    granted = Granted(int(grant), given, int(life), refused)
    return Decision(granted, bounds(ask, limits, share, after, now), now)


def _restored(tenant: PoolKey, usage: Usage) -> dict[str, Any]:
    sums = {ALL_MODELS: tuple(map(sum, zip(*usage.models.values(), strict=True))) or (0, 0), **usage.models}
    minutes = [
        [minute_key(unit, tenant, model), amount]
        for model, amounts in sums.items()
        for unit, amount in zip(_UNITS, amounts, strict=False)
    ]
    budgets = [
        [budget_key(tenant, budget), window_of(budget.period, budget.zone, usage.at)[0], used, ends]
        for budget, used, ends in usage.budgets
    ]
    return {"name": str(tenant), "at": usage.at, "models": [*usage.models], "minutes": minutes, "budgets": budgets}


def _passed() -> int:
    return monotonic_ns() // 1_000_000


def _amounts(amount: Amount) -> list[int]:
    return [amount.get(unit, 0) for unit in _UNITS]

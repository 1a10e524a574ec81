"""The counters of a request by their names, for a store outside of this process, and limits by what it tells of them.

Such a store counts, and decides whether all of it fits; what a refusal means, and when it would fit, is worked out
here, from the counters as they were at that moment, just as of those in this process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from aoai_operator.core.names import PoolKey
from aoai_operator.core.quota.account import ALL_MODELS, Account, Bound
from aoai_operator.core.quota.calendar import window_of
from aoai_operator.core.quota.deciding import Ask, Shared
from aoai_operator.core.quota.limits import Budget, Limits, Unit
from aoai_operator.core.quota.window import SLOT_MS, Window

_RATES = (Unit.TOKENS, Unit.REQUESTS)


@dataclass(frozen=True, slots=True)
class Counter:
    """Where a request is counted.

    Attributes:
        key: its name.
        unit: what of the request.
        most: the limit; None: it is only counted.
        window: when the calendar window of now begins and ends; None for a minute.
        guaranteed: up to how much of the pool the limit is not looked at for this tenant; None: it always is.
    """

    key: str
    unit: Unit
    most: int | None = None
    window: tuple[int, int] | None = None
    guaranteed: int | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """What a tenant may take of a pool that is shared.

    Attributes:
        of: the pool, and its model.
        capacity: what all of them may, in tokens a minute.
        most: what the tenant may now.
        guaranteed: how much of it whatever others do.
        ever: the most that `most` can become.
    """

    of: Shared
    capacity: int
    most: int
    guaranteed: int
    ever: int


def counters(ask: Ask, limits: Limits, share: Share | None, now: int) -> tuple[Counter, ...]:
    """Return all that a request is counted in; those of a pool come last, the tenant's own first of them."""
    return (*_own(ask, limits, now), *(_pools(ask.tenant, share) if share else ()))


def bounds(ask: Ask, limits: Limits, share: Share | None, told: Sequence[Sequence[int]], now: int) -> tuple[Bound, ...]:
    """Return the limits that a request must keep, with what was used of each.

    Args:
        ask, limits, share: by which `counters` were made.
        told: what counts in each of those: slot and amount, one after the other, of a minute; the amount of a budget.
        now: as of when.
    """
    account = Account(limits)
    meters = account.meters(ask.model)
    for (_, meter), said in zip(meters, told, strict=False):
        if isinstance(meter, Window):
            _fill(meter, said)
        else:
            meter.charge(now, said[0])
    found = tuple(account.bounds(ask.model, now))
    if share is None:
        return found
    mine, total = Window(), Window()
    for window, said in zip((mine, total), told[len(meters) :], strict=True):
        _fill(window, said)
    taken = Bound("capacity", ALL_MODELS, Unit.TOKENS, share.most, mine, ever=share.ever)
    if mine.used(now) + ask.need.get(Unit.TOKENS, 0) <= share.guaranteed:
        return (*found, taken)
    return (*found, taken, Bound("capacity", ALL_MODELS, Unit.TOKENS, share.capacity, total))


def minute_key(unit: Unit, tenant: PoolKey, model: str) -> str:
    """Return the name of what a tenant used of a model, or of all of them, in the last minute."""
    return f"minute:{unit}:{tenant}:{model}"


def budget_key(tenant: PoolKey, budget: Budget) -> str:
    """Return the name of what a tenant used of a budget. Another amount is another limit on the same thing."""
    return f"budget:{budget.unit}:{tenant}:{budget.period}:{budget.zone}"


def wanted_key(of: Shared, tenant: PoolKey) -> str:
    """Return the name of what a tenant asked a pool for in the last minute, refused or not."""
    pool, model = of
    return f"minute:wanted:{pool}:{tenant}:{model}"


def asked_key(of: Shared) -> str:
    """Return the name of when each tenant asked a pool last."""
    pool, model = of
    return f"asked:{pool}:{model}"


def _own(ask: Ask, limits: Limits, now: int) -> Iterator[Counter]:
    scopes = {ALL_MODELS: limits.per_minute, ask.model: limits.per_model.get(ask.model, {})}
    for unit in _RATES:
        for scope, most in scopes.items():
            yield Counter(minute_key(unit, ask.tenant, scope), unit, most.get(unit))
    keys = {budget: budget_key(ask.tenant, budget) for budget in limits.budgets}
    for key in dict.fromkeys(keys.values()):
        same = [budget for budget in limits.budgets if keys[budget] == key]
        window = window_of(same[0].period, same[0].zone, now)
        yield Counter(key, same[0].unit, min(budget.most for budget in same), window)


def _pools(tenant: PoolKey, share: Share) -> Iterator[Counter]:
    pool, model = share.of
    yield Counter(f"minute:taken:{pool}:{tenant}:{model}", Unit.TOKENS, share.most)
    yield Counter(f"minute:given:{pool}:{model}", Unit.TOKENS, share.capacity, guaranteed=share.guaranteed)


def _fill(window: Window, said: Sequence[int]) -> None:
    for slot, amount in zip(said[::2], said[1::2], strict=True):
        window.charge(slot * SLOT_MS, amount)

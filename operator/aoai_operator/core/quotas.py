"""What a TenantQuota grants, as routing tables have it."""

from __future__ import annotations

from collections.abc import Iterator
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from aoai_operator.core.api import TenantQuota
from aoai_operator.core.api.quota import (
    BudgetSpec,
    Enforcement,
    OnLedgerFailure,
    Priority,
    QuotaLimits,
    Reservation,
    TokenWeights,
)
from aoai_operator.core.table import Budget, PerMinute, Quota, Share, TokenRates

_MILLIONTHS = 1_000_000


def table_quota(quota: TenantQuota) -> Quota | None:
    """Return what a tenant was granted, and how it is held; None where nothing is said of either."""
    spec = quota.spec
    limits = spec.limits or QuotaLimits()
    weights = spec.token_weights or TokenWeights()
    made = Quota(
        limits=tuple(_rates(quota)),
        concurrent=limits.concurrent_requests,
        budgets=tuple(map(_budget, limits.budgets)),
        enforced=spec.enforcement is not Enforcement.SHADOW,
        strict=spec.reservation is Reservation.STRICT,
        deny=spec.on_ledger_failure is OnLedgerFailure.DENY,
        weights=TokenRates(input=weights.input, cached=weights.cached_input, output=weights.output),
    )
    return None if made == Quota() else made


def table_share(quota: TenantQuota) -> Share | None:
    """Return what a tenant was promised of its pools; None where nothing is said of it."""
    spec = quota.spec
    share = Share(
        guaranteed=spec.guaranteed.tokens_per_minute if spec.guaranteed else 0,
        burst=spec.burst is not False,
        priority=(spec.priority or Priority.STANDARD).value,
    )
    return None if share == Share() else share


def known_zone(name: str) -> bool:
    """Tell whether there is a time zone of this name."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def _rates(quota: TenantQuota) -> Iterator[PerMinute]:
    limits = quota.spec.limits or QuotaLimits()
    whole = PerMinute(tokens=limits.tokens_per_minute, requests=limits.requests_per_minute)
    if whole != PerMinute():
        yield whole
    for own in quota.spec.per_model or ():
        yield PerMinute(model=own.model, tokens=own.tokens_per_minute, requests=own.requests_per_minute)


def _budget(budget: BudgetSpec) -> Budget:
    cost = budget.cost
    return Budget(
        period=budget.period.value,
        # Of a zone that nobody knows the condition tells; the budget holds all the same.
        time_zone=budget.time_zone if known_zone(budget.time_zone) else "UTC",
        tokens=budget.tokens,
        cost=round(cost.amount * _MILLIONTHS) if cost else None,
        currency=cost.currency if cost else "",
    )

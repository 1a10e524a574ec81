"""What routing tables say of quotas, as the ledger wants it."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from aoai_operator.core.guarantees import NOTHING, Learned, asking_tenants, shared_models
from aoai_operator.core.names import HostKey, PoolKey
from aoai_operator.core.quota.calendar import Period
from aoai_operator.core.quota.deciding import Shared
from aoai_operator.core.quota.estimate import Reservation
from aoai_operator.core.quota.limits import Budget as LedgerBudget
from aoai_operator.core.quota.limits import Limits, Unit
from aoai_operator.core.quota.pool import Pool, Right
from aoai_operator.core.quota.sharing import Priority
from aoai_operator.core.quota.terms import Rates, Terms
from aoai_operator.core.table import Budget, Model, PerMinute, Quota, RoutingTable, Share, TokenRates


@dataclass(frozen=True, slots=True)
class Granted:
    """A tenant's quota.

    Attributes:
        limits: what it may use.
        reservation: how much of a request is reserved.
        weights: what its tokens count for.
        currencies: of its budgets in money.
    """

    limits: Limits
    reservation: Reservation
    weights: Rates
    currencies: Mapping[LedgerBudget, str]


@dataclass(frozen=True, slots=True)
class Served:
    """A model of a pool, as far as quotas go.

    Attributes:
        context: the most tokens that it takes, and the most that it gives.
        prices: in millionths of a currency a token; None: it has none.
        currency: that of the prices.
        timeout_ms: after how long a request for it must be over.
    """

    context: int
    prices: Rates | None
    currency: str
    timeout_ms: int

    def terms(self, granted: Granted) -> Terms:
        """Return how a tenant's use of it is counted."""
        priced = self.currency in granted.currencies.values()
        return Terms(granted.weights, self.prices if priced else None)


def granted_by(table: RoutingTable) -> Mapping[PoolKey, Granted]:
    """Return the quotas of the tenants of a pool that must ask for what they use."""
    return {PoolKey.of(tenant.key): _granted(tenant.quota or Quota()) for tenant in asking_tenants(table)}


def shared_by(table: RoutingTable, out: Container[HostKey] = (), learned: Learned = NOTHING) -> Mapping[Shared, Pool]:
    """Return how a pool's models are shared, while some hosts are `out`, by what was learned of others."""
    return {
        (table.key, model.name): Pool(
            capacity, {PoolKey.of(tenant): _right(share) for tenant, share in shares.items()}, table.lend_idle_ms
        )
        for model, capacity, shares in shared_models(table, out, learned)
    }


def served_by(table: RoutingTable) -> Mapping[tuple[PoolKey, str], Served]:
    """Return the models of a pool, by pool and name."""
    return {(table.key, model.name): _served(table, model) for model in table.models}


def _served(table: RoutingTable, model: Model) -> Served:
    prices = _rates(model.prices) if model.prices else None
    return Served(model.context_tokens, prices, model.currency, table.timeouts.request_ms)


def _right(share: Share) -> Right:
    return Right(share.guaranteed, Priority[share.priority.upper()], share.burst)


def _granted(quota: Quota) -> Granted:
    budgets = {made: spec.currency for spec in quota.budgets for made in _budgets(spec)}
    limits = Limits(
        per_minute=next((_amount(limit) for limit in quota.limits if not limit.model), {}),
        per_model={limit.model: _amount(limit) for limit in quota.limits if limit.model},
        concurrent=quota.concurrent,
        budgets=tuple(budgets),
        shadow=not quota.enforced,
    )
    reservation = Reservation.STRICT if quota.strict else Reservation.EXPECTED
    return Granted(limits, reservation, _rates(quota.weights), {made: cur for made, cur in budgets.items() if cur})


def _budgets(budget: Budget) -> Iterable[LedgerBudget]:
    zone = ZoneInfo(budget.time_zone)
    for unit, most in ((Unit.TOKENS, budget.tokens), (Unit.COST, budget.cost)):
        if most is not None:
            yield LedgerBudget(Period(budget.period), unit, most, zone)


def _amount(limit: PerMinute) -> dict[Unit, int]:
    found = {Unit.TOKENS: limit.tokens, Unit.REQUESTS: limit.requests}
    return {unit: most for unit, most in found.items() if most is not None}


def _rates(rates: TokenRates) -> Rates:
    return Rates(rates.input, rates.cached, rates.output)

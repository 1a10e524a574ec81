"""What a tenant used, for its status; and from there back into a ledger that begins anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from aoai_operator.core.api.quota import Period as PeriodSpec
from aoai_operator.core.api.usage import BudgetUsage, ModelUsage, TenantUsage
from aoai_operator.core.quota.calendar import Period
from aoai_operator.core.quota.limits import Budget, Limits, Unit

_MOST_MODELS = 64


@dataclass(frozen=True, slots=True)
class Usage:
    """What counts of a tenant at a time.

    Attributes:
        at: that time, in milliseconds of the Unix epoch.
        models: tokens and requests of the last minute, by model.
        budgets: what was used of each budget, and when its window ends.
    """

    at: int
    models: Mapping[str, tuple[int, int]]
    budgets: tuple[tuple[Budget, int, int], ...]


def told(usage: Usage, limits: Limits, currencies: Mapping[Budget, str]) -> TenantUsage:
    """Return it as the status tells it."""
    tokens, requests = (sum(used[place] for used in usage.models.values()) for place in (0, 1))
    busiest = sorted(usage.models, key=lambda model: usage.models[model], reverse=True)[:_MOST_MODELS]
    budgets = tuple(_budget(one, used, ends, currencies) for one, used, ends in usage.budgets)
    return TenantUsage(
        at=_time(usage.at),
        tokens=_of(tokens, limits.per_minute.get(Unit.TOKENS)),
        requests=_of(requests, limits.per_minute.get(Unit.REQUESTS)),
        budget=f"{max(b.percent for b in budgets)}%" if budgets else "",
        models=tuple(
            ModelUsage(model=model, tokens=usage.models[model][0], requests=usage.models[model][1])
            for model in sorted(busiest)
            if any(usage.models[model])
        ),
        budgets=budgets,
    )


def read_usage(usage: TenantUsage) -> Usage:
    """Return what a status told."""
    at = int(datetime.fromisoformat(usage.at).timestamp() * 1000)
    return Usage(at, {m.model: (m.tokens, m.requests) for m in usage.models}, tuple(_budgets(usage)))


def differs(before: TenantUsage | None, after: TenantUsage, limits: Limits) -> bool:
    """Tell whether it is worth a write: something changed by a hundredth of its limit, or is over.

    Who has no limits, and shares a pool, is told of by a hundredth of what was used.
    """
    if before is None:
        return bool(after.models or any(b.used for b in after.budgets))
    old, new = ({m.model: (m.tokens, m.requests) for m in one.models} for one in (before, after))
    if _budgets_differ(before, after) or bool(old) != bool(new):
        return True
    if not (limits.per_minute or limits.per_model or limits.budgets):
        tokens = [sum(used for used, _ in each.values()) for each in (old, new)]
        return 100 * abs(tokens[1] - tokens[0]) > max(tokens)
    return _rates_differ(old, new, limits)


_Used = Mapping[str, tuple[int, int]]


def _rates_differ(old: _Used, new: _Used, limits: Limits) -> bool:
    for place, unit in enumerate((Unit.TOKENS, Unit.REQUESTS)):
        most = limits.per_minute.get(unit)
        changed = abs(sum(u[place] for u in new.values()) - sum(u[place] for u in old.values()))
        if most is not None and 100 * changed > most:
            return True
        for model, own in limits.per_model.items():
            changed = abs(new.get(model, (0, 0))[place] - old.get(model, (0, 0))[place])
            if unit in own and 100 * changed > own[unit]:
                return True
    return False


def _budgets_differ(before: TenantUsage, after: TenantUsage) -> bool:
    return [(b.percent, b.resets_at) for b in before.budgets] != [(b.percent, b.resets_at) for b in after.budgets]


def _budgets(usage: TenantUsage) -> Iterator[tuple[Budget, int, int]]:
    for budget in usage.budgets:
        unit = Unit.COST if budget.currency else Unit.TOKENS
        ends = int(datetime.fromisoformat(budget.resets_at).timestamp() * 1000)
        yield Budget(Period(budget.period.value), unit, 0, ZoneInfo(budget.time_zone)), budget.used, ends


def _budget(budget: Budget, used: int, ends: int, currencies: Mapping[Budget, str]) -> BudgetUsage:
    return BudgetUsage(
        period=PeriodSpec(budget.period.value),
        time_zone=str(budget.zone),
        currency=currencies.get(budget, ""),
        used=used,
        percent=100 * used // budget.most,
        resets_at=_time(ends),
    )


def _of(used: int, most: int | None) -> str:
    return "" if most is None else f"{used}/{most}"


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

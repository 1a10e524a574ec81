"""What one tenant used, and whether more fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from aoai_operator.core.quota.calendar import Period, window_of
from aoai_operator.core.quota.limits import Amount, Budget, Limits, Unit
from aoai_operator.core.quota.usage import Usage
from aoai_operator.core.quota.window import Window

ALL_MODELS = ""
"""The model under which what is used of all of them is counted."""


class Meter(Protocol):
    """Counts what was used of one unit. Times are milliseconds."""

    def used(self, now: int) -> int:
        """Return what counts now."""
        ...

    def charge(self, at: int, amount: int) -> None:
        """Count an amount."""
        ...

    def amend(self, at: int, by: int) -> None:
        """Change what was charged at a time."""
        ...

    def fits_at(self, now: int, room: int) -> int:
        """Return when no more than `room` will count, if nothing else is charged."""
        ...

    def lapses(self, now: int) -> Iterator[tuple[int, int]]:
        """Yield when what counts will be less, and how much it will be then, if nothing else is charged."""
        ...


Meters = tuple[tuple[Unit, Meter], ...]
"""Where something counts, by unit."""


def charge(meters: Meters, at: int, amount: Amount) -> None:
    """Count an amount as admitted at a time, wherever it counts."""
    for unit, meter in meters:
        if amount.get(unit):
            meter.charge(at, amount[unit])


def amend(meters: Meters, at: int, by: Amount) -> None:
    """Change what was admitted at a time."""
    for unit, meter in meters:
        if by.get(unit):
            meter.amend(at, by[unit])


class Spent:
    """What was used of a budget in its calendar window."""

    __slots__ = ("_budget", "_used", "_window")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._window = 0, 0
        self._used = 0

    def used(self, now: int) -> int:
        """Return what counts now."""
        self.window(now)
        return self._used

    def charge(self, at: int, amount: int) -> None:
        """Count an amount; nothing of a window that is over."""
        if at >= self.window(at)[0]:
            self._used += amount

    def amend(self, at: int, by: int) -> None:
        """Change what was charged at a time; nothing of a window that is over."""
        self.charge(at, by)

    def fits_at(self, now: int, room: int) -> int:
        """Return when no more than `room` will count."""
        return now if self.used(now) <= room else self.window(now)[1]

    def lapses(self, now: int) -> Iterator[tuple[int, int]]:
        """Yield when its window ends."""
        if self.used(now):
            yield self.window(now)[1], 0

    def window(self, now: int) -> tuple[int, int]:
        """Return when the window of now, or the one that was begun already, began, and when it ends."""
        if now >= self._window[1]:
            self._window, self._used = window_of(self._budget.period, self._budget.zone, now), 0
        return self._window


@dataclass(frozen=True, slots=True)
class Bound:
    """One limit, and what counts against it.

    Attributes:
        name: the field of the TenantQuota that says it.
        model: the model that it is for, or `ALL_MODELS`.
        unit: what it counts.
        most: the limit.
        meter: what was used.
        ends: when the calendar window of now ends; None for a rate.
        period: how long that lasts; None for a rate.
        ever: what `most` may become, where others decide on it; None: it stays.
    """

    name: str
    model: str
    unit: Unit
    most: int
    meter: Meter
    ends: int | None = None
    period: Period | None = None
    ever: int | None = None


_RATES = {Unit.TOKENS: "tokensPerMinute", Unit.REQUESTS: "requestsPerMinute"}


class Account:
    """One tenant's meters. Rates are counted whether they are limited or not: a limit that is set later finds them."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.running = 0
        """Requests that asked, and may be under way."""
        self._windows: dict[tuple[str, Unit], Window] = {}
        self._spent: dict[tuple[object, ...], Spent] = {}

    def bounds(self, model: str, now: int) -> Iterator[Bound]:
        """Yield the limits that a request for a model must keep."""
        for scope, limits in ((ALL_MODELS, self.limits.per_minute), (model, self.limits.per_model.get(model, {}))):
            for unit, most in limits.items():
                yield Bound(_RATES[unit], scope, unit, most, self._window(scope, unit))
        for budget in self.limits.budgets:
            spent = self._budget(budget)
            yield Bound("budgets", ALL_MODELS, budget.unit, budget.most, spent, spent.window(now)[1], budget.period)

    def meters(self, model: str) -> Meters:
        """Return all that counts what is used of a model."""
        rates = [(unit, self._window(scope, unit)) for unit in _RATES for scope in (ALL_MODELS, model)]
        # Two budgets may be limits on the same thing: it is counted once.
        spent = {self._budget(budget): budget.unit for budget in self.limits.budgets}
        return (*rates, *((unit, meter) for meter, unit in spent.items()))

    def usage(self, now: int) -> Usage:
        """Return what counts now."""
        models = {model for model, _ in self._windows if model != ALL_MODELS}
        used = {m: tuple(self._window(m, unit).used(now) for unit in _RATES) for m in models}
        spent = {budget: self._budget(budget) for budget in self.limits.budgets}
        return Usage(
            at=now,
            models={model: (tokens, requests) for model, (tokens, requests) in used.items() if tokens or requests},
            budgets=tuple((budget, one.used(now), one.window(now)[1]) for budget, one in spent.items()),
        )

    def restore(self, usage: Usage) -> None:
        """Count what was used before, as of its time: all of the last minute as if it had been just then."""
        for model, amounts in usage.models.items():
            for unit, amount in zip(_RATES, amounts, strict=True):
                for scope in (ALL_MODELS, model):
                    self._window(scope, unit).charge(usage.at, amount)
        for budget, used, _ in usage.budgets:
            self._budget(budget).charge(usage.at, used)

    def _window(self, model: str, unit: Unit) -> Window:
        return self._windows.setdefault((model, unit), Window())

    def _budget(self, budget: Budget) -> Spent:
        # Another amount is another limit on the same thing.
        return self._spent.setdefault((budget.period, budget.unit, str(budget.zone)), Spent(budget))

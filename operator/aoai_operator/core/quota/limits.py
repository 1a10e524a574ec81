"""What a tenant was granted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from enum import StrEnum

from aoai_operator.core.quota.calendar import Period


class Unit(StrEnum):
    """What is counted. Cost is counted in millionths of the budget's currency."""

    TOKENS = "tokens"
    REQUESTS = "requests"
    COST = "cost"


Amount = Mapping[Unit, int]
"""How much of each unit; what is absent is nothing."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Most of a unit in a calendar window."""

    period: Period
    unit: Unit
    most: int
    zone: tzinfo = UTC


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one tenant; all of them hold.

    Attributes:
        per_minute: the most in any 60 s, over all models.
        per_model: the same for a model's requests alone.
        concurrent: requests at once; None for no limit.
        budgets: the most in calendar windows, over all models.
        shadow: what breaks a limit is let in, counted, and told.
    """

    per_minute: Amount = field(default_factory=dict)
    per_model: Mapping[str, Amount] = field(default_factory=dict)
    concurrent: int | None = None
    budgets: tuple[Budget, ...] = ()
    shadow: bool = False

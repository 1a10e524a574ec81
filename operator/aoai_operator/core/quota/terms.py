"""How what a request used is counted: tokens by their weights, and money by a model's prices."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from aoai_operator.core.quota.limits import Amount, Unit


@dataclass(frozen=True, slots=True)
class Rates:
    """What one token counts for, by its kind; `cached` are those of the input that Azure had in its cache."""

    input: float = 1.0
    cached: float = 1.0
    output: float = 1.0

    def of(self, used: Used) -> int:
        """Return what tokens count for together, rounded up."""
        fresh = max(0, used.prompt - used.cached)
        # Sums of products of floats may be a hair above what is meant.
        return ceil(round(fresh * self.input + used.cached * self.cached + used.output * self.output, 6))


@dataclass(frozen=True, slots=True)
class Used:
    """The tokens of one request. `cached` is part of `prompt`."""

    prompt: int
    output: int
    cached: int = 0


@dataclass(frozen=True, slots=True)
class Terms:
    """How a tenant's use of a model is counted.

    Attributes:
        weights: what its tokens count for against limits in tokens.
        prices: what a token costs, in millionths of the currency, which is to say: what a million of them cost in the
            currency itself; None: the model has no price.
    """

    weights: Rates = Rates()
    prices: Rates | None = None

    def amount(self, used: Used) -> Amount:
        """Return what one request counts for."""
        cost = {Unit.COST: self.prices.of(used)} if self.prices else {}
        return {Unit.TOKENS: self.weights.of(used), Unit.REQUESTS: 1, **cost}

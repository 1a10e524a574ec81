"""What a TenantQuota grants: limits by the minute, at once, and by the calendar, and how they are held."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from aoai_operator.core.api.base import LIST_ATOMIC, Count, Model, ModelName, rule, rules

TIME_ZONE = "^[A-Za-z0-9_+-]{1,32}(/[A-Za-z0-9_+-]{1,32}){0,2}$"
CURRENCY = "^[A-Z]{3}$"

TokensPerMinute = Annotated[int, Field(ge=1, le=2_000_000_000)]
RequestsPerMinute = Annotated[int, Field(ge=1, le=100_000_000)]
Weight = Annotated[float, Field(ge=0, le=1000)]
Currency = Annotated[str, Field(min_length=3, max_length=3, pattern=CURRENCY)]


class Period(StrEnum):
    """How long a budget lasts."""

    HOUR = "Hour"
    DAY = "Day"
    WEEK = "Week"
    MONTH = "Month"


class Enforcement(StrEnum):
    """Whether limits refuse."""

    ENFORCE = "Enforce"
    SHADOW = "Shadow"


class Reservation(StrEnum):
    """How much of a request is reserved before it is sent."""

    EXPECTED = "Expected"
    STRICT = "Strict"


class OnLedgerFailure(StrEnum):
    """What happens while nobody can be asked."""

    ALLOW = "Allow"
    DENY = "Deny"


class Priority(StrEnum):
    """Who is the first to get what a pool has free; the last is the first to lose it."""

    CRITICAL = "Critical"
    STANDARD = "Standard"
    SHEDDABLE = "Sheddable"


class Guarantee(Model):
    """What is kept free for a tenant."""

    tokens_per_minute: TokensPerMinute = Field(
        description="Tokens in any 60 s that are kept free for it, of each model that it may use, in each of its "
        "pools. Required; 1 to 2000000000."
    )


class Money(Model):
    """An amount of a currency."""

    amount: Annotated[float, Field(ge=0.01, le=1_000_000_000)] = Field(
        description="How many units of the currency. Required; 0.01 to 1000000000."
    )
    currency: Currency = Field(
        description="ISO 4217 code in capitals, such as USD; models of the pools must have prices in it. Required."
    )


class BudgetSpec(Model):
    """The most in a calendar window."""

    period: Period = Field(
        description="Calendar window that it is for: Hour, Day, Week (from Monday) or Month. Required."
    )
    time_zone: Annotated[str, Field(min_length=1, max_length=64, pattern=TIME_ZONE)] = Field(
        default="UTC",
        description="IANA time zone in which days begin, such as Europe/Berlin. Default UTC. Hours are those of UTC.",
    )
    tokens: Count | None = Field(
        default=None,
        description="Most tokens in the window, as a number or with k, M or G (thousands, millions, billions), such as "
        "500M. Either this or cost.",
    )
    cost: Money | None = Field(
        default=None, description="Most money in the window, by the prices of the pools' models. Either this or tokens."
    )


BUDGET_RULES = rules(
    rule("has(self.tokens) != has(self.cost)", "must give either tokens or cost", reason="FieldValueRequired")
)


class QuotaLimits(Model):
    """What a tenant may use, over all models, pools and proxies."""

    tokens_per_minute: TokensPerMinute | None = Field(
        default=None,
        description="Most tokens in any 60 s, prompts and answers. Default: no limit. 1 to 2000000000.",
    )
    requests_per_minute: RequestsPerMinute | None = Field(
        default=None, description="Most requests in any 60 s. Default: no limit. 1 to 100000000."
    )
    concurrent_requests: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        default=None, description="Most requests under way at once. Default: no limit. 1 to 100000."
    )
    budgets: tuple[Annotated[BudgetSpec, Field(json_schema_extra=BUDGET_RULES)], ...] = Field(
        default=(),
        max_length=8,
        description="Most tokens or money in calendar windows; each of them holds. Default none. At most 8.",
        json_schema_extra=LIST_ATOMIC,
    )


class ModelLimits(Model):
    """What a tenant may use of one model."""

    model: ModelName = Field(description="Model, by its name in the pools. Required.")
    tokens_per_minute: TokensPerMinute | None = Field(
        default=None,
        description="Most tokens of this model in any 60 s. Default: no limit of its own. 1 to 2000000000.",
    )
    requests_per_minute: RequestsPerMinute | None = Field(
        default=None,
        description="Most requests for this model in any 60 s. Default: no limit of its own. 1 to 100000000.",
    )


MODEL_LIMITS_RULES = rules(
    rule(
        "has(self.tokensPerMinute) || has(self.requestsPerMinute)",
        "must give tokensPerMinute, requestsPerMinute or both",
        reason="FieldValueRequired",
    )
)


class TokenWeights(Model):
    """What one token counts for in limits on tokens."""

    input: Weight = Field(default=1.0, description="Of the prompt, in tokens. Default 1; 0 to 1000.")
    cached_input: Weight = Field(
        default=1.0, description="Of the prompt, where Azure had it in its cache, in tokens. Default 1; 0 to 1000."
    )
    output: Weight = Field(
        default=1.0, description="Of the answer, reasoning included, in tokens. Default 1; 0 to 1000."
    )

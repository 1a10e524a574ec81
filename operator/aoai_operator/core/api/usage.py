"""What a tenant used, as its status tells."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from aoai_operator.core.api.base import LIST_ATOMIC, Model, ModelName, list_map
from aoai_operator.core.api.quota import Period

_Amount = Annotated[int, Field(ge=0, le=10**15)]
Timestamp = Annotated[
    str, Field(max_length=40, pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T", json_schema_extra={"format": "date-time"})
]


class ModelUsage(Model):
    """What was used of one model in the last minute."""

    model: ModelName = Field(description="Model, by its name in the pools.")
    tokens: _Amount = Field(default=0, description="Tokens that count now, those reserved included. Default 0.")
    requests: _Amount = Field(default=0, description="Most requests: those of the last minute. Default 0.")


class BudgetUsage(Model):
    """What was used of one budget."""

    period: Period = Field(description="Calendar window: Hour, Day, Week or Month.")
    time_zone: Annotated[str, Field(max_length=64)] = Field(
        default="UTC", description="IANA time zone in which it begins. Default UTC."
    )
    currency: Annotated[str, Field(max_length=3)] = Field(
        default="", description="Currency of a budget in money. Default empty: it is one in tokens."
    )
    used: _Amount = Field(
        default=0, description="Tokens, or millionths of the currency, used in this window so far. Default 0."
    )
    percent: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        default=0, description="Tokens or money used so far, in percent of the budget, rounded down. Default 0."
    )
    resets_at: Timestamp = Field(description="When the window ends, in RFC 3339.")


class TenantUsage(Model):
    """What a tenant used. Written at most every ten seconds, and where something changed by a hundredth of a limit."""

    at: Timestamp = Field(description="When it was so, in RFC 3339.")
    tokens: Annotated[str, Field(max_length=32)] = Field(
        default="", description="Tokens of the last minute, of the limit: `5120/60000`. Default empty: no limit."
    )
    requests: Annotated[str, Field(max_length=32)] = Field(
        default="", description="Requests of the last minute, of the limit: `12/600`. Default empty: no limit."
    )
    budget: Annotated[str, Field(max_length=16)] = Field(
        default="", description="The fullest budget: `42%`. Default empty: there is none."
    )
    models: tuple[ModelUsage, ...] = Field(
        default=(),
        max_length=64,
        description="Use of the last minute by model. Default none. At most 64.",
        json_schema_extra=list_map("model"),
    )
    budgets: tuple[BudgetUsage, ...] = Field(
        default=(),
        max_length=8,
        description="Use of each budget in its present window. Default none. At most 8.",
        json_schema_extra=LIST_ATOMIC,
    )

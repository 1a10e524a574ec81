"""Which Events a change of a status is worth: transitions that somebody may want to look at, and no other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from aoai_operator.core.api import AOAIBackendPoolStatus, Condition, EndpointStatus, TenantQuotaStatus
from aoai_operator.core.conditions import ConditionReason, ConditionType
from aoai_operator.core.observed import State

ENDPOINT_UNHEALTHY = "EndpointUnhealthy"
ENDPOINT_RECOVERED = "EndpointRecovered"

_SUMS_UP = frozenset({ConditionType.HEALTHY, ConditionType.RECONCILING, ConditionType.STALLED})
"""Conditions that only say again what others, or the endpoints' own Events, say."""

_ON_ITS_WAY = frozenset({ConditionReason.PENDING, ConditionReason.NO_TABLE, ConditionReason.ALL_THROTTLED})
"""Reasons that come and go by themselves within moments."""


@dataclass(frozen=True, slots=True)
class Event:
    """One Event. Its reason is the one of the condition, or about an endpoint one of this module's."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


def pool_events(before: AOAIBackendPoolStatus | None, after: AOAIBackendPoolStatus) -> Iterator[Event]:
    """Yield what a pool's change of status is worth. Throttling is daily work, and is none."""
    yield from _conditions(before.conditions if before else (), after.conditions)
    yield from _endpoints(before.endpoints if before else (), after.endpoints)


def quota_events(before: TenantQuotaStatus | None, after: TenantQuotaStatus) -> Iterator[Event]:
    """Yield what a tenant's change of status is worth."""
    yield from _conditions(before.conditions if before else (), after.conditions)


def _conditions(before: Sequence[Condition], after: Sequence[Condition]) -> Iterator[Event]:
    old = {c.type: c for c in before}
    told = set()
    for new in after:
        was = old.get(new.type)
        if new.type in _SUMS_UP or (was is not None and (was.status, was.reason) == (new.status, new.reason)):
            continue
        if new.status == "Unknown" or new.reason in _ON_ITS_WAY or (was is not None and was.reason in _ON_ITS_WAY):
            continue
        if was is None and new.status == "True":
            continue
        message = new.message or f"{new.type} is {new.status}."
        if (new.reason, message) in told:
            continue  # Ready repeats the condition that it lacks
        told.add((new.reason, message))
        yield Event("Warning" if new.status == "False" else "Normal", new.reason, message)


def _endpoints(before: Sequence[EndpointStatus], after: Sequence[EndpointStatus]) -> Iterator[Event]:
    old = {(e.name, e.deployment): e for e in before}
    for new in after:
        was = old.get((new.name, new.deployment))
        sick = was is not None and was.state is State.UNHEALTHY
        host = f"{new.name}/{new.deployment}"
        if new.state is State.UNHEALTHY and not (sick and was is not None and was.reason == new.reason):
            yield Event("Warning", ENDPOINT_UNHEALTHY, f"{host} is out: {new.reason}.")
        elif new.state is State.HEALTHY and sick:
            yield Event("Normal", ENDPOINT_RECOVERED, f"{host} serves again.")

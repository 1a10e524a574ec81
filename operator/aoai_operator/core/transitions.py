"""What changed between two sets of statuses: the lines that a terminal shows instead of the statuses themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from aoai_operator.core.api import AOAIBackendPoolStatus, Condition, EndpointStatus, TenantQuotaStatus
from aoai_operator.core.conditions import ConditionType
from aoai_operator.core.names import HostKey, PoolKey
from aoai_operator.core.observed import Overrides, State

_TOLD_BY_OTHERS = frozenset({ConditionType.HEALTHY})
"""Conditions that only sum up what the endpoints' own lines say."""


@dataclass(frozen=True, slots=True)
class Transition:
    """One change.

    Attributes:
        kind: "pool", "endpoint" or "tenant".
        name: whose: "namespace/name", for an endpoint followed by " endpoint/deployment".
        what: the condition's type, or "state".
        value: its new value: a condition's status, or an endpoint's state.
        reason: why, in one word.
        message: why, for people; empty when there is no more to say.
        good: whether it is as one would wish.
    """

    kind: str
    name: str
    what: str
    value: str
    reason: str
    message: str
    good: bool

    def __str__(self) -> str:
        value = self.value if self.kind == "endpoint" else f"{self.what}={self.value}"
        why = f" ({self.reason})" if self.reason not in ("", self.value, self.what) else ""
        return f"{self.kind} {self.name}: {value}{why}{': ' + self.message if self.message else ''}"


def pool_transitions(
    before: Mapping[PoolKey, AOAIBackendPoolStatus],
    after: Mapping[PoolKey, AOAIBackendPoolStatus],
    observed: Overrides,
) -> list[Transition]:
    """Return what changed of the pools. A pool that is new shows only what is not well with it.

    `observed` has the words for people about each endpoint, which the statuses have not.
    """
    found: list[Transition] = []
    for key, status in after.items():
        old = before.get(key)
        found += _conditions("pool", key, old.conditions if old else (), status.conditions)
        found += _endpoints(key, old.endpoints if old else (), status.endpoints, observed)
    return found


def tenant_transitions(
    before: Mapping[PoolKey, TenantQuotaStatus], after: Mapping[PoolKey, TenantQuotaStatus]
) -> list[Transition]:
    """Return what changed of the tenants. A tenant that is new shows only what is not well with it."""
    found: list[Transition] = []
    for key, status in after.items():
        old = before.get(key)
        found += _conditions("tenant", key, old.conditions if old else (), status.conditions)
    return found


def _conditions(
    kind: str, key: PoolKey, before: Sequence[Condition], after: Sequence[Condition]
) -> Iterator[Transition]:
    old = {c.type: c for c in before}
    for new in after:
        was = old.get(new.type)
        if was is None and new.status == "True":
            continue
        if was is not None and was.status == new.status and (new.status == "True" or was.message == new.message):
            continue
        if new.type in _TOLD_BY_OTHERS or _repeats(new, after):
            continue
        yield Transition(kind, str(key), new.type, new.status, new.reason, new.message, good=new.status == "True")


def _repeats(condition: Condition, others: Sequence[Condition]) -> bool:
    """Tell whether `Ready` says word for word what another condition says."""
    return condition.type == ConditionType.READY and any(
        o.type != ConditionType.READY and o.reason == condition.reason and o.message == condition.message
        for o in others
    )


def _endpoints(
    key: PoolKey, before: Sequence[EndpointStatus], after: Sequence[EndpointStatus], observed: Overrides
) -> Iterator[Transition]:
    old = {(e.name, e.deployment): e for e in before}
    for new in after:
        was = old.get((new.name, new.deployment))
        usable = new.state in (State.HEALTHY, State.UNKNOWN)
        changed = not usable if was is None else (was.state, was.reason) != (new.state, new.reason)
        if changed:
            words = observed.host(HostKey(key, new.name, new.deployment)).message
            why = f"until {new.throttled_until}" if new.throttled_until else words
            name = f"{key} {new.name}/{new.deployment}"
            yield Transition("endpoint", name, "state", new.state.value, new.reason, why, good=usable)

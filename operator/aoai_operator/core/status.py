"""Statuses: what people see with `kubectl get`. Computed here in one place, written elsewhere.

All conditions are positive: True is good. `Ready` needs Accepted, ResolvedRefs of what serves, Programmed, and one
usable endpoint: a single sick endpoint never flips it, and shows in `Healthy` instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from aoai_operator.core.api import (
    AOAIBackendPool,
    AOAIBackendPoolStatus,
    Condition,
    EndpointStatus,
    ProxiesStatus,
    RoutingTableStatus,
    TenantQuota,
    TenantQuotaStatus,
)
from aoai_operator.core.findings import Finding
from aoai_operator.core.names import HostKey
from aoai_operator.core.observed import HostState, Reason, State
from aoai_operator.core.table import RoutingTable
from aoai_operator.core.world import Programming, World

Fact = tuple[str, bool | None, str, str]
"""A condition before it has a time: type, status (None: Unknown), reason, message."""


def timestamp(milliseconds: int) -> str:
    """Return a time of the Unix epoch in RFC 3339, to the second, in UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def pool_status(
    world: World, pool: AOAIBackendPool, table: RoutingTable | None, findings: Sequence[Finding]
) -> AOAIBackendPoolStatus:
    """Return the whole status of a pool."""
    states = _endpoint_states(world, table)
    programming = Programming.together(world.programming.get(pool.key, ()), table.revision if table else "")
    facts = [
        _about("Accepted", [f for f in findings if not f.fault.of_reference], "Accepted"),
        _about("ResolvedRefs", [f for f in findings if f.fault.of_reference], "ResolvedRefs"),
        _programmed(pool, table, programming),
        _healthy(states),
    ]
    facts.append(_ready(facts, states))
    before = world.pool_statuses.get(pool.key)
    usable = {name for name, _, state in states if state.usable}
    total = len(table.endpoints) if table else len(pool.spec.endpoints)
    return AOAIBackendPoolStatus(
        observed_generation=pool.metadata.generation,
        conditions=_conditions(facts, before.conditions if before else (), pool.metadata.generation, world.now),
        endpoints=tuple(_endpoint_status(*one) for one in states),
        healthy_endpoints=f"{len(usable)}/{total}",
        routing_table=RoutingTableStatus(
            config_map=f"{pool.metadata.name}-routing" if table else "",
            revision=table.revision if table else "",
        ),
        proxies=ProxiesStatus(connected=programming.connected, programmed=programming.programmed),
    )


def quota_status(world: World, quota: TenantQuota, findings: Sequence[Finding]) -> TenantQuotaStatus:
    """Return the whole status of a tenant."""
    facts = [
        _about("Accepted", [f for f in findings if not f.fault.of_reference], "Accepted"),
        _about("ResolvedRefs", [f for f in findings if f.fault.of_reference], "ResolvedRefs"),
    ]
    bad = next((f for f in facts if f[1] is False), None)
    facts.append(("Ready", False, bad[2], bad[3]) if bad else ("Ready", True, "Ready", "The tenant is served."))
    before = world.quota_statuses.get(quota.key)
    return TenantQuotaStatus(
        observed_generation=quota.metadata.generation,
        conditions=_conditions(facts, before.conditions if before else (), quota.metadata.generation, world.now),
    )


def _endpoint_states(world: World, table: RoutingTable | None) -> list[tuple[str, str, HostState]]:
    if table is None:
        return []
    found = []
    for key in table.host_keys():
        endpoint = table.endpoint(key.endpoint)
        state = world.overrides.host(HostKey(table.key, key.endpoint, key.deployment))
        if not endpoint.usable:
            state = HostState(State.UNHEALTHY, Reason.SECRET_MISSING, state.since)
        elif endpoint.drain:
            state = HostState(State.DRAINING, Reason.DRAIN, state.since)
        found.append((key.endpoint, key.deployment, state))
    return found


def _endpoint_status(name: str, deployment: str, state: HostState) -> EndpointStatus:
    return EndpointStatus(
        name=name,
        deployment=deployment,
        state=state.state,
        reason=state.reason.value,
        since=timestamp(state.since) if state.since else None,
        throttled_until=timestamp(state.until) if state.until is not None else None,
    )


def _about(kind: str, findings: Sequence[Finding], good: str) -> Fact:
    if not findings:
        return kind, True, good, ""
    return kind, False, findings[0].fault.value, " ".join(f"{f.sentence()}." for f in findings)


def _programmed(pool: AOAIBackendPool, table: RoutingTable | None, programming: Programming) -> Fact:
    if table is None:
        return "Programmed", False, "NoTable", "There is no routing table yet that could serve."
    if programming.refusal is not None:
        message = f"An Envoy refused it, and keeps serving what it had: {programming.refusal}"
        return "Programmed", False, "Refused", message
    if not programming.connected:
        return "Programmed", None, "NoProxies", f"No Envoy of the gateway {table.gateway} is connected."
    if programming.programmed < programming.connected:
        done = f"{programming.programmed} of {_envoys(programming.connected)} it."
        return "Programmed", False, "Pending", done
    if pool.spec.suspend:
        return "Programmed", True, "Suspended", "Changes are held back (spec.suspend)."
    return "Programmed", True, "Programmed", f"{_envoys(programming.connected)} it."


def _envoys(number: int) -> str:
    return "1 Envoy has" if number == 1 else f"{number} Envoys have"


def _healthy(states: Sequence[tuple[str, str, HostState]]) -> Fact:
    sick = [(n, d, s) for n, d, s in states if not s.usable]
    listed = ", ".join(f"{n}/{d} {s.state.value} ({s.reason.value})" for n, d, s in sick)
    if not states or len(sick) == len(states):
        return "Healthy", False, "NoHealthyEndpoint", f"No endpoint can take requests: {listed}." if listed else ""
    if sick:
        return "Healthy", False, "Degraded", f"Out at the moment: {listed}."
    return "Healthy", True, "Healthy", ""


def _ready(facts: Iterable[Fact], states: Sequence[tuple[str, str, HostState]]) -> Fact:
    known = {kind: (status, reason, message) for kind, status, reason, message in facts}
    for kind in ("Accepted", "Programmed"):
        status, reason, message = known[kind]
        if status is not True:
            return "Ready", status, reason, message
    if not any(s.usable for _, _, s in states):
        _, reason, message = known["Healthy"]
        return "Ready", False, reason, message
    status, reason, message = known["ResolvedRefs"]
    if status is not True:
        return "Ready", True, "Degraded", f"It serves, but not with everything it names: {message}"
    return "Ready", True, "Ready", ""


def _conditions(facts: Iterable[Fact], before: Sequence[Condition], generation: int, now: int) -> tuple[Condition, ...]:
    old = {c.type: c for c in before}
    words = {True: "True", False: "False", None: "Unknown"}
    made = []
    for kind, status, reason, message in facts:
        word = words[status]
        known = old.get(kind)
        since = known.last_transition_time if known and known.status == word else timestamp(now)
        made.append(
            Condition.model_validate(
                {
                    "type": kind,
                    "status": word,
                    "observedGeneration": generation,
                    "lastTransitionTime": since,
                    "reason": reason,
                    "message": message[:32000],
                }
            )
        )
    return tuple(made)

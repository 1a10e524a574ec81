"""Statuses: what people see with `kubectl get`. Computed here in one place, written elsewhere.

All conditions are positive: True is good. `Ready` needs Accepted, ResolvedRefs of what serves, Programmed, and one
usable endpoint: a single sick endpoint never flips it, and shows in `Healthy` instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

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
from aoai_operator.core.api.fault import FieldFault
from aoai_operator.core.conditions import ConditionReason, ConditionType
from aoai_operator.core.discovery import Expansion, field_of
from aoai_operator.core.discovery_status import discovered, discovery_status
from aoai_operator.core.findings import Finding
from aoai_operator.core.guarantees import capacity_of, shares_of
from aoai_operator.core.members import OF_MEMBERS, member_facts
from aoai_operator.core.names import EndpointKey, HostKey
from aoai_operator.core.observed import HostState, Reason, State
from aoai_operator.core.quotas import table_quota, table_share
from aoai_operator.core.table import Quota, RoutingTable
from aoai_operator.core.times import timestamp
from aoai_operator.core.world import Programming, World

Fact = tuple[ConditionType, bool | None, ConditionReason, str]
"""A condition before it has a time: type, status (None: Unknown), reason, message."""

Told = tuple[bool | None, ConditionReason, str]
"""What a condition says: the same without its type."""


_UNWRITTEN: Told = (
    False,
    ConditionReason.NO_TABLE,
    "The routing table cannot be written, so no Envoy gets it.",
)


def pool_status(
    world: World, expansion: Expansion, table: RoutingTable | None, findings: Sequence[Finding]
) -> AOAIBackendPoolStatus:
    """Return the whole status of a pool, which is taken with what was found for it."""
    pool = expansion.pool
    states = _endpoint_states(world, table)
    findings = [
        *findings,
        *_unresolved(pool, states),
        *_ungranted(world, pool, table),
        *_unknown_issuers(world, pool, table),
    ]
    programming = Programming.together(world.programming.get(pool.key, ()), table.revision if table else "")
    # What is compiled reaches an Envoy by its ConfigMap alone.
    written = table if all(f.fault is not ConditionReason.CONFIG_MAP_CONFLICT for f in findings) else None
    facts = [
        _about(ConditionType.ACCEPTED, findings, ConditionReason.ACCEPTED),
        _about(ConditionType.RESOLVED_REFS, findings, ConditionReason.RESOLVED_REFS),
        (ConditionType.PROGRAMMED, *(_programmed(pool, table, programming) if written or not table else _UNWRITTEN)),
        (ConditionType.HEALTHY, *_healthy(states)),
    ]
    facts.append((ConditionType.READY, *_ready(facts, states)))
    facts += _progress(facts)
    before = world.pool_statuses.get(pool.key)
    if told := discovered(expansion):
        facts.append((ConditionType.DISCOVERED, *told))
        unread = expansion.found is not None and expansion.found.accounts is None
        facts += _as_before(before) if unread else member_facts(expansion, world.now)
    facts += _guaranteed(table)
    usable = {name for name, _, state in states if state.usable}
    total = len(table.endpoints) if table else len(pool.spec.endpoints)
    return AOAIBackendPoolStatus(
        observed_generation=pool.metadata.generation,
        conditions=conditions_of(facts, before.conditions if before else (), pool.metadata.generation, world.now),
        endpoints=tuple(_endpoint_status(*one) for one in states),
        healthy_endpoints=f"{len(usable)}/{total}",
        routing_table=RoutingTableStatus(
            config_map=f"{pool.metadata.name}-routing" if written else "",
            revision=written.revision if written else "",
        ),
        proxies=ProxiesStatus(connected=programming.connected, programmed=programming.programmed),
        discovery=discovery_status(expansion),
        last_handled_reconcile_at=pool.metadata.requested_at,
    )


def _as_before(before: AOAIBackendPoolStatus | None) -> list[Fact]:
    """Return what was said of the deployments that were found, while Azure was not read yet: it is no news then."""
    words = {"True": True, "False": False}
    return [
        (ConditionType(c.type), words.get(c.status), ConditionReason(c.reason), c.message)
        for c in (before.conditions if before else ())
        if c.type in OF_MEMBERS and c.reason in set(ConditionReason)
    ]


def _guaranteed(table: RoutingTable | None) -> Iterator[Fact]:
    """Yield whether what tenants were promised of a pool can be kept, where they were promised anything."""
    promised = [(m, shares_of(table, m), capacity_of(table, m)) for m in table.models] if table else []
    if not any(shares for _, shares, _ in promised):
        return
    unknown = [model.name for model, shares, capacity in promised if shares and capacity is None]
    short = [
        f"{kept} tokens a minute of {model.name} are guaranteed, and its deployments give {capacity}"
        for model, shares, capacity in promised
        if capacity is not None and (kept := sum(share.guaranteed for share in shares.values())) > capacity
    ]
    if short:
        mend = "Guarantee less in the TenantQuotas, or add deployments."
        yield ConditionType.GUARANTEED, False, ConditionReason.OVERCOMMITTED, f"{'. '.join(short)}. {mend}"
    elif unknown:
        why = f"What the deployments of {', '.join(unknown)} give is not configured, and learned from Azure's answers."
        mend = "Give each its capacity.tokensPerMinute in spec.endpoints[].deployments."
        yield ConditionType.GUARANTEED, None, ConditionReason.CAPACITY_UNKNOWN, f"{why} {mend}"
    else:
        yield ConditionType.GUARANTEED, True, ConditionReason.GUARANTEED, ""


def quota_status(world: World, quota: TenantQuota, findings: Sequence[Finding]) -> TenantQuotaStatus:
    """Return the whole status of a tenant."""
    facts = [
        _about(ConditionType.ACCEPTED, findings, ConditionReason.ACCEPTED),
        _about(ConditionType.RESOLVED_REFS, findings, ConditionReason.RESOLVED_REFS),
    ]
    bad = next((f for f in facts if f[1] is False), None)
    good = (ConditionType.READY, True, ConditionReason.READY, "The tenant is served.")
    facts.append((ConditionType.READY, False, bad[2], bad[3]) if bad else good)
    facts += _progress(facts)
    facts += _limits(world, quota)
    before = world.quota_statuses.get(quota.key)
    return TenantQuotaStatus(
        last_handled_reconcile_at=quota.metadata.requested_at,
        observed_generation=quota.metadata.generation,
        conditions=conditions_of(facts, before.conditions if before else (), quota.metadata.generation, world.now),
    )


def _limits(world: World, quota: TenantQuota) -> Iterator[Fact]:
    """Yield how the limits of a tenant hold, where it has any."""
    granted = table_quota(quota) or Quota()
    if not granted.limited and table_share(quota) is None:
        return
    if granted.enforced:
        yield ConditionType.ENFORCED, True, ConditionReason.ENFORCED, ""
    else:
        why = "spec.enforcement is Shadow: what breaks a limit is counted, and let in."
        yield ConditionType.ENFORCED, False, ConditionReason.SHADOW, why
    # One ledger answers for all replicas, the leader's or Redis.
    if world.ledger:
        why = f"{world.ledger}; until it answers, spec.onLedgerFailure holds."
        yield ConditionType.EXACT, False, ConditionReason.LEDGER_UNREACHABLE, why
    else:
        yield ConditionType.EXACT, True, ConditionReason.EXACT, ""


def invalid_facts(faults: Iterable[FieldFault]) -> list[Fact]:
    """Return the conditions of a resource that cannot be used at all: what it was before keeps serving."""
    why = " ".join(f"{fault.sentence()}." for fault in faults)
    told = ((ConditionType.ACCEPTED, False), (ConditionType.READY, False), (ConditionType.STALLED, True))
    return [(kind, status, ConditionReason.INVALID, why) for kind, status in told]


def invalid_pool_status(
    faults: Iterable[FieldFault], before: AOAIBackendPoolStatus | None, *, generation: int, now: int
) -> AOAIBackendPoolStatus:
    """Return the status of a pool that cannot be used; what it says of endpoints and Envoys stays as it was."""
    before = before or AOAIBackendPoolStatus()
    conditions = conditions_of(invalid_facts(faults), before.conditions, generation, now)
    return before.model_copy(update={"conditions": conditions, "observed_generation": generation})


def invalid_quota_status(
    faults: Iterable[FieldFault], before: TenantQuotaStatus | None, *, generation: int, now: int
) -> TenantQuotaStatus:
    """Return the status of a tenant that cannot be used."""
    before = before or TenantQuotaStatus()
    conditions = conditions_of(invalid_facts(faults), before.conditions, generation, now)
    return before.model_copy(update={"conditions": conditions, "observed_generation": generation})


def _unresolved(pool: AOAIBackendPool, states: Iterable[tuple[str, str, HostState]]) -> Iterator[Finding]:
    """Yield what is wrong with the endpoints whose names have no address, once for each endpoint."""
    places = {endpoint.name: i for i, endpoint in enumerate(pool.spec.endpoints)}
    told = {name: state.message for name, _, state in states if state.reason is Reason.DNS and name in places}
    for name, message in told.items():
        host = pool.spec.endpoints[places[name]].host
        yield Finding(
            kind=pool.KIND,
            key=pool.key,
            fault=ConditionReason.HOST_UNRESOLVED,
            field=f"{field_of(pool, places[name])}.url",
            message=message or f"{host} has no address",
            mend="mend the name, or the DNS that the operator asks",
        )


def _ungranted(world: World, pool: AOAIBackendPool, table: RoutingTable | None) -> Iterator[Finding]:
    """Yield the endpoints for which Azure does not give a token or keys, or no newer ones."""
    places = {endpoint.name: i for i, endpoint in enumerate(pool.spec.endpoints)}
    for endpoint in table.endpoints if table else ():
        grant = world.overrides.grants.get(EndpointKey(pool.key, endpoint.name))
        way = "entra" if endpoint.bearer else "apiKey.fromAzure"
        if grant and grant.fault and endpoint.name in places:
            yield Finding(
                kind=pool.KIND,
                key=pool.key,
                fault=ConditionReason.TOKEN_NOT_GRANTED,
                field=f"{field_of(pool, places[endpoint.name])}.auth.{way}",
                message=grant.fault,
                mend="mend the identity; until then what it gave last serves while it is good",
            )


def _unknown_issuers(world: World, pool: AOAIBackendPool, table: RoutingTable | None) -> Iterator[Finding]:
    """Yield whose tokens cannot be verified, as nobody knows the keys."""
    fields = {"entra": "spec.auth.entra", "serviceAccount": "spec.auth.serviceAccounts"}
    told = set()
    for issuer in table.issuers if table else ():
        known = world.overrides.issuers.get(issuer.url)
        if known and not known.jwks and issuer.kind not in told:
            told.add(issuer.kind)
            yield Finding(
                kind=pool.KIND,
                key=pool.key,
                fault=ConditionReason.ISSUER_UNREACHABLE,
                field=fields[issuer.kind],
                message=f"the issuer's keys cannot be had, so its tokens prove nothing: {known.fault}",
                mend="mend the address, or the operator's way to it",
            )


def _progress(facts: Sequence[Fact]) -> list[Fact]:
    """Return kstatus' own two conditions, each only while it is so.

    Stalled: somebody has to change something before it can get better. A Secret that is missing is none: it may be on
    its way. Source: sigs.k8s.io/cli-utils, pkg/kstatus, "The Stalled and Reconciling conditions".
    """
    known = {kind: (status, reason, message) for kind, status, reason, message in facts}
    for kind in (ConditionType.ACCEPTED, ConditionType.PROGRAMMED):
        if kind not in known:  # a tenant's are not told what Envoys have
            continue
        status, reason, message = known[kind]
        if status is not True:
            stalled = kind is ConditionType.ACCEPTED or reason is ConditionReason.REFUSED
            return [(ConditionType.STALLED if stalled else ConditionType.RECONCILING, True, reason, message)]
    return []


def _endpoint_states(world: World, table: RoutingTable | None) -> list[tuple[str, str, HostState]]:
    if table is None:
        return []
    found = []
    draining = {HostKey(table.key, h.endpoint, h.deployment) for m in table.models for h in m.hosts if h.drain}
    for key in table.host_keys():
        endpoint = table.endpoint(key.endpoint)
        state = world.overrides.host(HostKey(table.key, key.endpoint, key.deployment))
        if not endpoint.usable:
            reason = Reason.HOST_NOT_TRUSTED if endpoint.identity else Reason.SECRET_MISSING
            state = HostState(State.UNHEALTHY, reason, state.since)
        elif endpoint.drain or key in draining:
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


def _about(kind: ConditionType, findings: Sequence[Finding], good: ConditionReason) -> Fact:
    own = [f for f in findings if f.condition is kind]
    if not own:
        return kind, True, good, ""
    return kind, False, own[0].fault, " ".join(f"{f.sentence()}." for f in own)


def _programmed(pool: AOAIBackendPool, table: RoutingTable | None, programming: Programming) -> Told:
    if table is None:
        return False, ConditionReason.NO_TABLE, "There is no routing table yet that could serve."
    if programming.refusal is not None:
        message = f"An Envoy refused it, and keeps serving what it had: {programming.refusal}"
        return False, ConditionReason.REFUSED, message
    if not programming.connected:
        return None, ConditionReason.NO_PROXIES, f"No Envoy of the gateway {table.gateway} is connected."
    if programming.programmed < programming.connected:
        done = f"{programming.programmed} of {_envoys(programming.connected)} it."
        return False, ConditionReason.PENDING, done
    if pool.spec.suspend:
        return True, ConditionReason.SUSPENDED, "Changes are held back (spec.suspend)."
    return True, ConditionReason.PROGRAMMED, f"{_envoys(programming.connected)} it."


def _envoys(number: int) -> str:
    return "1 Envoy has" if number == 1 else f"{number} Envoys have"


def _healthy(states: Sequence[tuple[str, str, HostState]]) -> Told:
    sick = [(n, d, s) for n, d, s in states if not s.usable]
    listed = ", ".join(f"{n}/{d} {s.state.value} ({s.reason.value})" for n, d, s in sick)
    if sick and len(sick) == len(states) and _throttled(states):
        return False, ConditionReason.ALL_THROTTLED, f"None takes requests before its Retry-After is over: {listed}."
    if not states or len(sick) == len(states):
        return False, ConditionReason.NO_HEALTHY_ENDPOINT, f"No endpoint can take requests: {listed}." if listed else ""
    if sick:
        return False, ConditionReason.DEGRADED, f"Out at the moment: {listed}."
    return True, ConditionReason.HEALTHY, ""


def _throttled(states: Sequence[tuple[str, str, HostState]]) -> bool:
    return any(state.state is State.THROTTLED for _, _, state in states)


def _ready(facts: Iterable[Fact], states: Sequence[tuple[str, str, HostState]]) -> Told:
    known = {kind: (status, reason, message) for kind, status, reason, message in facts}
    for kind in (ConditionType.ACCEPTED, ConditionType.PROGRAMMED):
        status, reason, message = known[kind]
        if status is not True:
            # While Envoys take a new table the last one serves: it is not known yet, and no alarm.
            return None if reason is ConditionReason.PENDING else status, reason, message
    if not any(s.usable for _, _, s in states):
        _, reason, message = known[ConditionType.HEALTHY]
        # Daily work: clients are told when to come back. An alarm at each full minute would be heard by nobody.
        return _throttled(states), reason, message
    status, reason, message = known[ConditionType.RESOLVED_REFS]
    if status is not True:
        return True, ConditionReason.DEGRADED, f"It serves, but not with everything it names: {message}"
    return True, ConditionReason.READY, ""


def conditions_of(
    facts: Iterable[Fact], before: Sequence[Condition], generation: int, now: int
) -> tuple[Condition, ...]:
    """Return facts as conditions; one whose status is as `before` keeps its time."""
    old = {c.type: c for c in before}
    words = {True: "True", False: "False", None: "Unknown"}
    made = []
    for kind, status, reason, message in facts:
        word = words[status]
        known = old.get(kind)
        since = known.last_transition_time if known and known.status == word else timestamp(now)
        made.append(
            _condition(
                kind=kind.value,
                status=word,
                generation=generation,
                since=since,
                reason=reason.value,
                message=message[:32000],
            )
        )
    return tuple(made)


@lru_cache(maxsize=4096)
def _condition(*, kind: str, status: str, generation: int, since: str, reason: str, message: str) -> Condition:
    """Return a condition; ten thousand tenants that are well say the same, and hold it once."""
    return Condition.model_validate(
        {
            "type": kind,
            "status": status,
            "observedGeneration": generation,
            "lastTransitionTime": since,
            "reason": reason,
            "message": message,
        }
    )

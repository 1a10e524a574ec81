"""compile_world(): resources in, routing tables and statuses out. Pure and total: bad input makes findings, not errors.

The steps, in the order in which they run:
1. tenants    who may call which pool, with which keys and models
2. hostnames  who owns a host name of a gateway
3. tables     one routing table for each pool; a pool that cannot be compiled keeps its last good one, and so does a
             suspended pool; one that never had a table has nothing to hold back, and is compiled
4. statuses   what people see of it
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from aoai_operator.core.api import (
    AOAIBackendPool,
    AOAIBackendPoolStatus,
    TenantQuota,
    TenantQuotaStatus,
)
from aoai_operator.core.conditions import ConditionReason
from aoai_operator.core.findings import Finding
from aoai_operator.core.memo import Memo
from aoai_operator.core.names import PoolKey, SecretRef
from aoai_operator.core.observed import Overrides
from aoai_operator.core.pools import credential_refs, pool_table
from aoai_operator.core.status import pool_status, quota_status
from aoai_operator.core.table import RoutingTable, Tenant
from aoai_operator.core.tenants import TenantsStep, still_tenants
from aoai_operator.core.world import World

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Compiled:
    """The outcome: tables and statuses by key, and what was found wrong between the resources."""

    tables: Mapping[PoolKey, RoutingTable]
    pool_statuses: Mapping[PoolKey, AOAIBackendPoolStatus]
    quota_statuses: Mapping[PoolKey, TenantQuotaStatus]
    findings: tuple[Finding, ...]


def compile_world(world: World) -> Compiled:
    """Compile everything. Equal worlds give equal outcomes, in whatever order their parts stand."""
    return Compiler()(world)


class Compiler:
    """compile_world(), for calls one after the other: what nothing changed is not compiled again."""

    def __init__(self) -> None:
        self._tenants = TenantsStep()
        self._refs: Memo[tuple[SecretRef, ...]] = Memo()
        self._tables: Memo[tuple[RoutingTable | None, list[Finding]]] = Memo()
        self._pool_statuses: Memo[AOAIBackendPoolStatus] = Memo()
        self._quota_statuses: Memo[TenantQuotaStatus] = Memo()
        self._all_quota_statuses: Memo[dict[PoolKey, TenantQuotaStatus]] = Memo()
        self._overrides = Overrides()
        self._observed: dict[PoolKey, object] = {}

    def __call__(self, world: World) -> Compiled:
        """Return what compile_world() returns."""
        pools = sorted(world.pools, key=lambda p: p.key)
        tenants = self._tenants(world)
        tables = _held(world, tenants.by_pool)
        hostnames, conflicts = _hostnames(pools, tables)
        findings = [*tenants.findings, *conflicts]
        for pool in pools:
            key = pool.key
            table, found = self._table(world, pool, hostnames.get(key, ()), tenants.by_pool.get(key, ()))
            # Of a held pool as well: what is wrong with it should be seen before it is let go.
            findings += found
            if key not in tables and (table := table or world.last_good.get(key)):
                tables[key] = table
        findings += _taken(world)
        wrong = _by_object(findings)
        pool_statuses = self._of_pools(world, pools, tables, wrong)
        of_quotas = {key: found for (kind, key), found in wrong.items() if kind == TenantQuota.KIND}
        quota_statuses = self._of_quotas(world, of_quotas)
        for memo in (self._refs, self._tables, self._pool_statuses):
            memo.sweep()
        return Compiled(tables, pool_statuses, quota_statuses, tuple(findings))

    def _table(
        self, world: World, pool: AOAIBackendPool, hostnames: tuple[str, ...], tenants: tuple[Tenant, ...]
    ) -> tuple[RoutingTable | None, list[Finding]]:
        refs = self._refs.of(pool.key, (pool,), lambda: credential_refs(pool))
        values = tuple(map(world.secrets.get, refs))
        # Why a Secret is missing depends on all others, and what a certificate is worth on the time.
        news = object() if None in values or pool.spec.gateway.tls else None
        inputs = (pool, hostnames, tenants, values, news)

        def make() -> tuple[RoutingTable | None, list[Finding]]:
            table, found = pool_table(world, pool, hostnames, tenants)
            return (_still(world.last_good.get(pool.key), lambda: table), found) if table else (None, found)

        return self._tables.of(pool.key, inputs, make)

    def _of_pools(
        self,
        world: World,
        pools: Sequence[AOAIBackendPool],
        tables: Mapping[PoolKey, RoutingTable],
        wrong: Mapping[tuple[str, PoolKey], list[Finding]],
    ) -> dict[PoolKey, AOAIBackendPoolStatus]:
        differ = world.overrides.pools_that_differ(self._overrides)
        # Of these pools and no other: what is gone is forgotten.
        self._observed = {p.key: object() if p.key in differ else self._observed.get(p.key) for p in pools}
        self._overrides = world.overrides
        statuses = {}
        for pool in pools:
            key = pool.key
            table, found = tables.get(key), wrong.get((pool.KIND, key), [])
            parts, before = world.programming.get(key, ()), world.pool_statuses.get(key)
            since = _since(before, self._pool_statuses.last(key), world.now)
            inputs = (pool, table, found, parts, before, since, self._observed.get(key))
            make = partial(_still, before, partial(pool_status, world, pool, table, found))
            statuses[key] = self._pool_statuses.of(key, inputs, make)
        return statuses

    def _of_quotas(self, world: World, wrong: Mapping[PoolKey, list[Finding]]) -> Mapping[PoolKey, TenantQuotaStatus]:
        before = world.quota_statuses
        # Statuses that follow themselves, of which nothing changed, stay, and there are ten thousand of them.
        inputs = (world.quotas, wrong, before, None if before is self._all_quota_statuses.last("") else world.now)
        found = self._all_quota_statuses.of("", inputs, lambda: self._of_each_quota(world, wrong))
        self._all_quota_statuses.sweep()
        return found

    def _of_each_quota(self, world: World, wrong: Mapping[PoolKey, list[Finding]]) -> dict[PoolKey, TenantQuotaStatus]:
        statuses = {}
        for quota in world.quotas:
            key = quota.key
            found = wrong.get(key, [])
            before = world.quota_statuses.get(key)
            inputs = (quota, found, before, _since(before, self._quota_statuses.last(key), world.now))
            make = partial(_still, before, partial(quota_status, world, quota, found))
            statuses[key] = self._quota_statuses.of(key, inputs, make)
        self._quota_statuses.sweep()
        return statuses


def _held(world: World, tenants: Mapping[PoolKey, Sequence[Tenant]]) -> dict[PoolKey, RoutingTable]:
    """Return the tables that go on serving: those of suspended pools, and of pools that cannot be read.

    What is held is the pool. Who may call it is said elsewhere, and a tenant that was taken away stays so.
    """
    held = {}
    for pool in world.pools:
        if pool.spec.suspend and (last := world.last_good.get(pool.key)):
            held[pool.key] = last.model_copy(update={"tenants": tuple(tenants.get(pool.key, ()))})
    for key in world.invalid:
        if last := world.last_good.get(key):
            held[key] = last.model_copy(update={"tenants": tuple(still_tenants(world, last))})
    return dict(sorted(held.items()))


def _taken(world: World) -> Iterator[Finding]:
    for key, name in sorted(world.taken.items()):
        if all(key != pool.key for pool in world.pools):
            continue
        yield Finding(
            kind=AOAIBackendPool.KIND,
            key=key,
            fault=ConditionReason.CONFIG_MAP_CONFLICT,
            field="metadata.name",
            message=f"the ConfigMap {key.namespace}/{name} is there already, and belongs to no pool",
            mend="delete or rename it, or give the pool another name",
        )


def _still(before: T | None, make: Callable[[], T]) -> T:
    """Return what is made, and where that is what was there before, the very same: it is held once."""
    made = make()
    return before if before == made and before is not None else made


def _since(before: object, last: object, now: int) -> int | None:
    """Return the time that a transition would have; None where a status only follows itself, and has none."""
    return None if before is not None and (before is last or before == last) else now


def _by_object(findings: Iterable[Finding]) -> dict[tuple[str, PoolKey], list[Finding]]:
    found: dict[tuple[str, PoolKey], list[Finding]] = {}
    for finding in findings:
        found.setdefault((finding.kind, finding.key), []).append(finding)
    return found


def _hostnames(
    pools: Sequence[AOAIBackendPool], held: Mapping[PoolKey, RoutingTable]
) -> tuple[dict[PoolKey, tuple[str, ...]], list[Finding]]:
    """Give each host name of a gateway to the pool that claimed it first, by creation and then by key.

    What a held table serves is taken: Envoy would refuse all routes of the gateway when two pools had one host name.
    What else a held pool claims it gets after all others, since it does not serve it yet.
    """
    owners = {(table.gateway, name): key for key, table in held.items() for name in table.hostnames}
    owned: dict[PoolKey, tuple[str, ...]] = {}
    findings = []
    for pool in sorted(pools, key=lambda p: (p.key in held, p.metadata.creation_timestamp, p.key)):
        gateway, kept = pool.spec.gateway, []
        for i, name in enumerate(gateway.hostnames):
            owner = owners.setdefault((gateway.name, name.lower()), pool.key)
            if owner == pool.key:
                kept.append(name.lower())
                continue
            findings.append(
                Finding(
                    kind=pool.KIND,
                    key=pool.key,
                    fault=ConditionReason.HOSTNAME_CONFLICT,
                    field=f"spec.gateway.hostnames[{i}]",
                    message=f"{name} belongs to the pool {owner} on the gateway {gateway.name}",
                    mend="choose another host name, or take it out of the other pool",
                )
            )
        owned[pool.key] = tuple(sorted(set(kept)))
    return owned, findings

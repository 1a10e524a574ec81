"""compile_world(): resources in, routing tables and statuses out. Pure and total: bad input makes findings, not errors.

The steps, in the order in which they run:
1. tenants    who may call which pool, with which keys and models
2. hostnames  who owns a host name of a gateway
3. tables     one routing table for each pool; a pool that cannot be compiled keeps its last good one, and so does a
             suspended pool; one that never had a table has nothing to hold back, and is compiled
4. statuses   what people see of it
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from aoai_operator.core.api import (
    AOAIBackendPool,
    AOAIBackendPoolStatus,
    TenantQuotaStatus,
)
from aoai_operator.core.findings import Fault, Finding
from aoai_operator.core.names import PoolKey
from aoai_operator.core.pools import pool_table
from aoai_operator.core.status import pool_status, quota_status
from aoai_operator.core.table import RoutingTable, Tenant
from aoai_operator.core.tenants import still_tenants, tenants_by_pool
from aoai_operator.core.world import World


@dataclass(frozen=True, slots=True)
class Compiled:
    """The outcome: tables and statuses by key, and what was found wrong between the resources."""

    tables: Mapping[PoolKey, RoutingTable]
    pool_statuses: Mapping[PoolKey, AOAIBackendPoolStatus]
    quota_statuses: Mapping[PoolKey, TenantQuotaStatus]
    findings: tuple[Finding, ...]


def compile_world(world: World) -> Compiled:
    """Compile everything. Equal worlds give equal outcomes, in whatever order their parts stand."""
    pools = sorted(world.pools, key=lambda p: p.key)
    tenants, quota_findings = tenants_by_pool(world)
    tables = _held(world, tenants)
    hostnames, conflicts = _hostnames([p for p in pools if p.key not in tables], tables)
    findings = [*quota_findings, *conflicts]
    for pool in pools:
        table, found = pool_table(world, pool, hostnames.get(pool.key, ()), tenants.get(pool.key, ()))
        # Of a held pool as well: what is wrong with it should be seen before it is let go.
        findings += found
        if pool.key not in tables and (table := table or world.last_good.get(pool.key)):
            tables[pool.key] = table
    return Compiled(
        tables=tables,
        pool_statuses={p.key: pool_status(world, p, tables.get(p.key), _of(findings, p.KIND, p.key)) for p in pools},
        quota_statuses={q.key: quota_status(world, q, _of(findings, q.KIND, q.key)) for q in world.quotas},
        findings=tuple(findings),
    )


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


def _of(findings: Iterable[Finding], kind: str, key: PoolKey) -> list[Finding]:
    return [f for f in findings if f.kind == kind and f.key == key]


def _hostnames(
    pools: Sequence[AOAIBackendPool], held: Mapping[PoolKey, RoutingTable]
) -> tuple[dict[PoolKey, tuple[str, ...]], list[Finding]]:
    """Give each host name of a gateway to the pool that claimed it first, by creation and then by key.

    What a held table serves is taken: Envoy would refuse all routes of the gateway when two pools had one host name.
    """
    owners = {(table.gateway, name): key for key, table in held.items() for name in table.hostnames}
    owned: dict[PoolKey, tuple[str, ...]] = {}
    findings = []
    for pool in sorted(pools, key=lambda p: (p.metadata.creation_timestamp, p.key)):
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
                    fault=Fault.HOSTNAME_CONFLICT,
                    field=f"spec.gateway.hostnames[{i}]",
                    message=f"{name} belongs to the pool {owner} on the gateway {gateway.name}",
                    mend="choose another host name, or take it out of the other pool",
                )
            )
        owned[pool.key] = tuple(sorted(set(kept)))
    return owned, findings

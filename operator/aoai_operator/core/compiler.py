"""compile_world(): resources in, routing tables and statuses out. Pure and total: bad input makes findings, not errors.

The steps, in the order in which they run:
0. discovery  pools with the endpoints that were found for them in Azure, as if they had been written down
1. tenants    who may call which pool, with which keys and models
2. tables     who owns a host name of a gateway, and one routing table for each pool; a pool that cannot be compiled
             keeps its last good one, and so does a suspended pool; one that never had a table has nothing to hold
             back, and is compiled
3. statuses   what people see of it
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from aoai_operator.core.api import (
    AOAIBackendPool,
    AOAIBackendPoolStatus,
    TenantQuota,
    TenantQuotaStatus,
)
from aoai_operator.core.conditions import ConditionReason
from aoai_operator.core.differing import differing, still
from aoai_operator.core.discovery import DiscoveryStep, Expansion
from aoai_operator.core.findings import Finding
from aoai_operator.core.members import stage
from aoai_operator.core.names import PoolKey
from aoai_operator.core.news import News
from aoai_operator.core.status import pool_status, quota_status
from aoai_operator.core.table import RoutingTable
from aoai_operator.core.tables import TablesStep
from aoai_operator.core.tenants import TenantsStep
from aoai_operator.core.world import World

S = TypeVar("S", AOAIBackendPoolStatus, TenantQuotaStatus)


@dataclass(frozen=True, slots=True)
class Compiled:
    """The outcome by pool and tenant: tables, statuses, what is wrong between them, what was found in Azure."""

    tables: Mapping[PoolKey, RoutingTable]
    pool_statuses: Mapping[PoolKey, AOAIBackendPoolStatus]
    quota_statuses: Mapping[PoolKey, TenantQuotaStatus]
    findings: tuple[Finding, ...]
    expansions: Mapping[PoolKey, Expansion] = field(default_factory=dict)


def compile_world(world: World) -> Compiled:
    """Compile everything. Equal worlds give equal outcomes, in whatever order their parts stand."""
    return Compiler()(world)


class Compiler:
    """compile_world(), for calls one after the other: what nothing changed is not compiled again.

    What it remembers is of no use after a call that failed.
    """

    def __init__(self) -> None:
        self._discovery = DiscoveryStep()
        self._news = News()
        self._tenants = TenantsStep()
        self._tables = TablesStep()
        self._wrong: Mapping[tuple[str, PoolKey], list[Finding]] = {}
        self._pool_statuses = _StatusesStep[AOAIBackendPoolStatus]()
        self._quota_statuses = _StatusesStep[TenantQuotaStatus]()

    def __call__(self, world: World) -> Compiled:
        """Return what compile_world() returns."""
        expansions = self._discovery.expansions
        world = replace(world, pools=self._discovery(world.pools, world.discovered, world.last_good))
        before, news = self._news.world, self._news.then(world)
        self._news = news
        tenants = self._tenants(news)
        last = self._tables.tables
        tables, conflicts = self._tables(news, tenants.by_pool)
        findings = (*tenants.findings, *conflicts, *_taken(world), *self._unwritten(world))
        told, self._wrong = self._wrong, _by_object(findings)
        found = self._discovery.expansions
        concerned = {key for _, key in differing(told, self._wrong)} | differing(expansions, found)
        # What retires does so by the passing of time alone.
        concerned |= {key for key, one in found.items() if stage(one, before.now) != stage(one, world.now)}
        return Compiled(
            tables,
            self._of_pools(before, concerned | differing(last, tables)),
            self._of_quotas(before, concerned),
            findings,
            found,
        )

    def _unwritten(self, world: World) -> Iterator[Finding]:
        for key, why in sorted(world.unwritten.items()):
            if key in self._news.quotas:
                yield Finding(
                    kind=TenantQuota.KIND,
                    key=key,
                    fault=ConditionReason.SECRET_NOT_WRITTEN,
                    field="spec.credentials.generateSecret",
                    message=why,
                    mend="name another one, or mend what stands in the way",
                )

    def _of_pools(self, before: World, concerned: set[PoolKey]) -> Mapping[PoolKey, AOAIBackendPoolStatus]:
        world, pools, tables = self._news.world, self._news.pools, self._tables.tables
        concerned = concerned | differing(before.programming, world.programming)
        concerned |= {pool.key for pool in self._news.pools_come}
        observed = world.overrides.pools_that_differ(before.overrides)
        if world.overrides.issuers != before.overrides.issuers:
            observed |= {key for key, table in tables.items() if table.issuers}

        def make(key: PoolKey) -> AOAIBackendPoolStatus:
            wrong = self._wrong.get((AOAIBackendPool.KIND, key), ())
            expansion = self._discovery.expansions.get(key) or Expansion(pools[key])
            return pool_status(world, expansion, tables.get(key), wrong)

        return self._pool_statuses(pools, concerned | observed, world.pool_statuses, make)

    def _of_quotas(self, before: World, concerned: set[PoolKey]) -> Mapping[PoolKey, TenantQuotaStatus]:
        world, quotas = self._news.world, self._news.quotas
        concerned = concerned | {quota.key for quota in self._news.quotas_come}
        if world.ledger != before.ledger:
            concerned |= quotas.keys()

        def make(key: PoolKey) -> TenantQuotaStatus:
            return quota_status(world, quotas[key], self._wrong.get((TenantQuota.KIND, key), ()))

        return self._quota_statuses(quotas, concerned, world.quota_statuses, make)


class _StatusesStep(Generic[S]):
    """The statuses of one kind. Those that follow themselves, and of which nothing changed, stay the very same."""

    def __init__(self) -> None:
        self._last: Mapping[PoolKey, S] = {}
        self._changed: set[PoolKey] = set()

    def __call__(
        self,
        known: Collection[PoolKey],
        concerned: set[PoolKey],
        before: Mapping[PoolKey, S],
        make: Callable[[PoolKey], S],
    ) -> Mapping[PoolKey, S]:
        """Return the statuses of all that is known.

        Args:
            known: the keys of all resources.
            concerned: those of which something changed, besides their statuses.
            before: what the statuses say now.
            make: works one out.
        """
        if before is not self._last:
            # A transition that they do not know of has the present time.
            concerned = set(known)
        keys = [key for key in concerned | self._changed if key in known]
        made = {key: still(before.get(key), make(key)) for key in keys}
        self._changed = {key for key, status in made.items() if self._last.get(key) is not status}
        if self._changed or len(known) != len(self._last):
            statuses = {**self._last, **made}
            # What came is in it now, so that only what left can be too much.
            self._last = {key: statuses[key] for key in known} if len(statuses) != len(known) else statuses
        return self._last


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


def _by_object(findings: Iterable[Finding]) -> dict[tuple[str, PoolKey], list[Finding]]:
    found: dict[tuple[str, PoolKey], list[Finding]] = {}
    for finding in findings:
        found.setdefault((finding.kind, finding.key), []).append(finding)
    return found

"""One routing table for each pool, and the last good one of a pool that is held."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from aoai_operator.core.api import AOAIBackendPool
from aoai_operator.core.differing import differing, still
from aoai_operator.core.findings import Finding
from aoai_operator.core.hostnames import owned_hostnames
from aoai_operator.core.names import PoolKey, SecretRef
from aoai_operator.core.news import News
from aoai_operator.core.pools import credential_refs, pool_table
from aoai_operator.core.table import RoutingTable, Tenant
from aoai_operator.core.tenants import still_tenants
from aoai_operator.core.world import World


class TablesStep:
    """The tables. Of a thousand only those are made again of which something changed."""

    def __init__(self) -> None:
        self.tables: Mapping[PoolKey, RoutingTable] = {}
        """The tables of the last pass."""
        self._news = News()
        self._hostnames: Mapping[PoolKey, tuple[str, ...]] = {}
        self._tenants: Mapping[PoolKey, tuple[Tenant, ...]] = {}
        self._refs: dict[PoolKey, tuple[SecretRef, ...]] = {}
        self._made: dict[PoolKey, RoutingTable | None] = {}
        self._findings: dict[PoolKey, list[Finding]] = {}
        self._lacking: set[PoolKey] = set()

    def __call__(
        self, news: News, tenants: Mapping[PoolKey, tuple[Tenant, ...]]
    ) -> tuple[Mapping[PoolKey, RoutingTable], list[Finding]]:
        """Return the tables that are to serve, and what is wrong with their pools."""
        self._news = news
        concerned = self._concerned()
        held = _held(news.world, tenants)
        hostnames, conflicts = owned_hostnames(news.pools.values(), held)
        concerned |= differing(self._hostnames, hostnames) | differing(self._tenants, tenants)
        self._hostnames, self._tenants = hostnames, tenants
        for key in concerned & news.pools.keys():
            self._make(news.pools[key])
        tables = {**held, **{key: table for key, table in self._compiled() if key not in held}}
        if differing(tables, self.tables):
            self.tables = tables
        # Of a held pool as well: what is wrong with it should be seen before it is let go.
        faulty = (self._findings[key] for key in sorted(self._findings))
        return self.tables, [*conflicts, *(finding for found in faulty for finding in found)]

    def _concerned(self) -> set[PoolKey]:
        """Take the pools; return those that are others, or whose Secrets are, or whose certificates may be by now."""
        news = self._news
        for pool in news.pools_gone:
            for known in (self._refs, self._made, self._findings):
                known.pop(pool.key, None)
            self._lacking.discard(pool.key)
        self._refs.update({pool.key: credential_refs(pool) for pool in news.pools_come})
        # Why a Secret is missing depends on all others, and what a certificate is worth on the time.
        concerned = {key for key, pool in news.pools.items() if pool.spec.gateway.tls}
        if news.secrets:
            concerned |= self._lacking
            concerned.update(key for key, refs in self._refs.items() if not news.secrets.isdisjoint(refs))
        return concerned.union(pool.key for pool in news.pools_come)

    def _make(self, pool: AOAIBackendPool) -> None:
        key, world = pool.key, self._news.world
        table, found = pool_table(world, pool, self._hostnames.get(key, ()), self._tenants.get(key, ()))
        self._made[key] = still(world.last_good.get(key), table) if table else None
        if found:
            self._findings[key] = found
        else:
            self._findings.pop(key, None)
        if all(ref in world.secrets for ref in self._refs[key]):
            self._lacking.discard(key)
        else:
            self._lacking.add(key)

    def _compiled(self) -> Iterator[tuple[PoolKey, RoutingTable]]:
        for key in self._news.pools:
            if table := self._made[key] or self._news.world.last_good.get(key):
                yield key, table


def _held(world: World, tenants: Mapping[PoolKey, tuple[Tenant, ...]]) -> dict[PoolKey, RoutingTable]:
    """Return the tables that go on serving: those of suspended pools, and of pools that cannot be read.

    What is held is the pool. Who may call it is said elsewhere, and a tenant that was taken away stays so.
    """
    held = {}
    for pool in world.pools:
        if pool.spec.suspend and (last := world.last_good.get(pool.key)):
            held[pool.key] = last.model_copy(update={"tenants": tenants.get(pool.key, ())})
    for key in world.invalid:
        if last := world.last_good.get(key):
            held[key] = last.model_copy(update={"tenants": tuple(still_tenants(world, last))})
    return dict(sorted(held.items()))

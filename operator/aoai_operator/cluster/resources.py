"""Pools and tenants as the API server has them: parsed when they change, with what their statuses say."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import BaseModel

from aoai_operator.adapters.kube.store import ObjectStore
from aoai_operator.core.api import (
    AOAIBackendPool,
    AOAIBackendPoolStatus,
    Invalid,
    Parsed,
    TenantQuota,
    TenantQuotaStatus,
    parse,
    read_status,
)
from aoai_operator.core.credentials import reference
from aoai_operator.core.names import PoolKey, SecretRef
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.status import invalid_pool_status, invalid_quota_status
from aoai_operator.core.table import RoutingTable, tls_refs
from aoai_operator.core.world import World
from aoai_operator.ports import JsonObject, Resource

Named = tuple[str, PoolKey]
"""A resource by its kind and key."""


S = TypeVar("S", bound=BaseModel)


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    version: str
    parsed: Parsed | Invalid
    generation: int
    refs: frozenset[SecretRef]


class Resources:
    """Reads pools and tenants; an object is parsed again only when its version is another one."""

    def __init__(self, pools: ObjectStore, quotas: ObjectStore, *, namespaces: Collection[str] = ()) -> None:
        """Take the stores, and the namespaces that they read; empty: all."""
        self._namespaces = frozenset(namespaces)
        self._stores = {AOAIBackendPool.KIND: pools, TenantQuota.KIND: quotas}
        self._read: dict[Named, _Read] = {}
        self._fresh: list[Named] = []
        self._asked: dict[Named, str] = {}
        self._pool_statuses = _Statuses(AOAIBackendPoolStatus)
        self._quota_statuses = _Statuses(TenantQuotaStatus)
        self._refs: frozenset[SecretRef] = frozenset()

    async def refresh(self) -> None:
        """Read what was woken.

        Raises:
            Unavailable: the API server does not answer; what was read before stays.
        """
        for store in self._stores.values():
            await store.refresh()
        read, fresh = await asyncio.to_thread(self._parsed)
        if fresh or len(read) != len(self._read):
            self._read = read
            self._fresh += fresh
            self._refs = frozenset().union(*(one.refs for one in read.values()))

    @property
    def complete(self) -> bool:
        """Whether all of them were read at least once."""
        return all(store.complete for store in self._stores.values())

    def wake(self, resource: Resource, key: PoolKey | None) -> None:
        """Note that an object may have changed; None: any of its kind."""
        self._stores[resource.kind].wake(key)

    def due_in(self) -> float:
        """Return the seconds after which a refresh is needed though nothing is woken."""
        return min(store.due_in() for store in self._stores.values())

    def _parsed(self) -> tuple[dict[Named, _Read], list[Named]]:
        """Return all objects, and which of them are others than before."""
        read, fresh = {}, []
        for kind, store in self._stores.items():
            for key, raw in tuple(store.objects.items()):
                metadata = raw["metadata"]
                version, known = metadata["resourceVersion"], self._read.get((kind, key))
                if known is None or known.version != version:
                    # `metadata` has much that is the API server's own; a status is read by status_of.
                    spec = {"apiVersion": raw["apiVersion"], "kind": kind, "spec": raw.get("spec")}
                    parsed = parse({**spec, "metadata": metadata})
                    known = _Read(version, parsed, metadata["generation"], frozenset(_refs(parsed)))
                    fresh.append((kind, key))
                read[kind, key] = known
        return read, fresh

    def pools(self) -> Iterator[AOAIBackendPool]:
        """Yield the pools that are valid in themselves."""
        return (r.parsed for r in self._read.values() if isinstance(r.parsed, AOAIBackendPool))

    def quotas(self) -> Iterator[TenantQuota]:
        """Yield the tenants that are valid in themselves."""
        return (r.parsed for r in self._read.values() if isinstance(r.parsed, TenantQuota))

    def invalid(self) -> Iterator[tuple[Named, Invalid, int]]:
        """Yield what cannot be used, what is wrong with it, and its generation."""
        return ((n, r.parsed, r.generation) for n, r in self._read.items() if isinstance(r.parsed, Invalid))

    def refs(self) -> frozenset[SecretRef]:
        """Return the entries of Secrets that pools and tenants refer to."""
        return self._refs

    def requested(self) -> frozenset[PoolKey]:
        """Return the Secrets of the resources that a user asks to look at anew, once for each time that one asks."""
        found: set[PoolKey] = set()
        named_anew, self._fresh = self._fresh, []
        for named in named_anew:
            read = self._read.get(named)
            if read is None or isinstance(read.parsed, Invalid):
                continue
            asked = read.parsed.metadata.requested_at
            if asked and self._asked.get(named) != asked:
                self._asked[named] = asked
                found.update(PoolKey(ref.namespace, ref.name) for ref in read.refs)
        return frozenset(found)

    def statuses_of_invalid(
        self, now: int
    ) -> tuple[dict[PoolKey, AOAIBackendPoolStatus], dict[PoolKey, TenantQuotaStatus]]:
        """Return the statuses of the pools and of the tenants that cannot be used."""
        pools, quotas = {}, {}
        for (kind, key), invalid, generation in self.invalid():
            if kind == AOAIBackendPool.KIND:
                before = self.pool_status(key)
                pools[key] = invalid_pool_status(invalid.faults, before, generation=generation, now=now)
            else:
                known = self.quota_status(key)
                quotas[key] = invalid_quota_status(invalid.faults, known, generation=generation, now=now)
        return pools, quotas

    def world(
        self, secrets: Mapping[SecretRef, SecretValue], last_good: Mapping[PoolKey, RoutingTable], *, statuses: bool
    ) -> World:
        """Return the world of what was read; `statuses`: with those that are on the API server."""
        pools, quotas = tuple(self.pools()), tuple(self.quotas())
        return World(
            pools=pools,
            quotas=quotas,
            namespaces=self._namespaces,
            secrets=secrets,
            last_good=last_good,
            invalid=frozenset(key for (kind, key), _, _ in self.invalid() if kind == AOAIBackendPool.KIND),
            pool_statuses={p.key: known for p in pools if statuses and (known := self.pool_status(p.key))},
            quota_statuses={q.key: told for q in quotas if statuses and (told := self.quota_status(q.key))},
        )

    def object(self, kind: str, key: PoolKey) -> JsonObject | None:
        """Return an object as it was read last."""
        return self._stores[kind].objects.get(key)

    def objects(self, kind: str) -> Mapping[PoolKey, JsonObject]:
        """Return all objects of a kind as they were read last."""
        return self._stores[kind].objects

    def put(self, item: JsonObject) -> None:
        """Take an object as the server answered it to a write of ours."""
        self._stores[item["kind"]].put(item)

    def pool_status(self, key: PoolKey) -> AOAIBackendPoolStatus | None:
        """Return what the status of a pool says on the API server; None for nothing that we could have written."""
        return self._pool_statuses.of(self.object(AOAIBackendPool.KIND, key), key)

    def quota_status(self, key: PoolKey) -> TenantQuotaStatus | None:
        """Return what the status of a tenant says on the API server; None for nothing that we could have written."""
        return self._quota_statuses.of(self.object(TenantQuota.KIND, key), key)


class _Statuses(Generic[S]):
    """Reads statuses, each once as long as its object is the same."""

    def __init__(self, model: type[S]) -> None:
        self._model = model
        self._read: dict[PoolKey, tuple[JsonObject, S | None]] = {}

    def of(self, raw: JsonObject | None, key: PoolKey) -> S | None:
        if raw is None:
            self._read.pop(key, None)
            return None
        known = self._read.get(key)
        if known is None or known[0] is not raw:
            self._read[key] = known = (raw, read_status(self._model, raw.get("status")))
        return known[1]


def _refs(resource: Parsed | Invalid) -> Iterator[SecretRef]:
    if isinstance(resource, Invalid):
        return
    namespace = resource.metadata.namespace
    if isinstance(resource, TenantQuota):
        for identity in resource.spec.identities:
            yield reference(namespace, identity.api_key.secret_ref)
        return
    for endpoint in resource.spec.endpoints:
        yield reference(namespace, endpoint.auth.api_key.secret_ref)
    if resource.spec.gateway.tls is not None:
        yield from tls_refs(namespace, resource.spec.gateway.tls.secret_ref.name)

"""Pools and tenants as the API server has them: parsed when they change, with what their statuses say."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Generic, TypeVar

from aoai_operator.adapters.kube.store import Changes, ObjectStore, Unavailable
from aoai_operator.cluster.known import KnownPool, KnownQuota
from aoai_operator.core.api import (
    AOAIBackendPool,
    AOAIBackendPoolStatus,
    Invalid,
    TenantQuota,
    TenantQuotaStatus,
)
from aoai_operator.core.differing import differing
from aoai_operator.core.names import PoolKey, SecretRef
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.status import invalid_pool_status, invalid_quota_status
from aoai_operator.core.table import RoutingTable
from aoai_operator.core.world import World
from aoai_operator.ports import JsonObject, Resource

R = TypeVar("R", AOAIBackendPool, TenantQuota)


class Resources:
    """Reads pools and tenants, and tells what is made of all of them; that is made anew when one of them changed."""

    def __init__(
        self,
        pools: ObjectStore[KnownPool],
        quotas: ObjectStore[KnownQuota],
        *,
        namespaces: Collection[str] = (),
        token_hosts: Collection[str] = (),
    ) -> None:
        """Take the stores, the namespaces that they read (empty: all), and what a World says of `token_hosts`."""
        self._namespaces = frozenset(namespaces)
        self._token_hosts = frozenset(token_hosts)
        self.pools = pools.objects
        """The pools as they were read last."""
        self.quotas = quotas.objects
        """The tenants as they were read last."""
        self._pools, self._quotas = pools, quotas
        self._asked: dict[tuple[str, PoolKey], str] = {}
        self._requested: set[PoolKey] = set()
        self._read_pools = _Read[AOAIBackendPool](AOAIBackendPool)
        self._read_quotas = _Read[TenantQuota](TenantQuota)

    async def refresh(self) -> None:
        """Read what was woken.

        Raises:
            Unavailable: the API server does not answer; what was read before stays.
        """
        # One pool that cannot be read keeps no tenant from being read.
        pools, no_pools = await _read(self._pools)
        quotas, no_quotas = await _read(self._quotas)
        if pools:
            self._note_requests(AOAIBackendPool.KIND, self.pools, pools)
            self._read_pools.take(pools, self.pools)
        if quotas:
            self._note_requests(TenantQuota.KIND, self.quotas, quotas)
            self._read_quotas.take(quotas, self.quotas)
        if error := no_pools or no_quotas:
            raise error

    @property
    def pool_moves(self) -> int:
        """How often a pool became another one, or went."""
        return self._pools.moves

    @property
    def quota_moves(self) -> int:
        """How often a tenant became another one, or went."""
        return self._quotas.moves

    @property
    def complete(self) -> bool:
        """Whether all of them were read at least once."""
        return self._pools.complete and self._quotas.complete

    def wake(self, resource: Resource, key: PoolKey | None) -> None:
        """Note that an object may have changed; None: any of its kind."""
        store: ObjectStore[KnownPool] | ObjectStore[KnownQuota]
        store = self._pools if resource.kind == AOAIBackendPool.KIND else self._quotas
        store.wake(key)

    def due_in(self) -> float:
        """Return the seconds after which a refresh is needed though nothing is woken."""
        return min(self._pools.due_in(), self._quotas.due_in())

    def refs(self) -> dict[str, Mapping[PoolKey, frozenset[SecretRef]]]:
        """Return the entries of Secrets that pools and tenants refer to, by kind and object."""
        return {AOAIBackendPool.KIND: self._read_pools.refs, TenantQuota.KIND: self._read_quotas.refs}

    def requested(self) -> frozenset[PoolKey]:
        """Return the Secrets of the resources that a user asks to look at anew, once for each time that one asks."""
        found, self._requested = frozenset(self._requested), set()
        return found

    def _note_requests(
        self, kind: str, objects: Mapping[PoolKey, KnownPool] | Mapping[PoolKey, KnownQuota], changes: Changes
    ) -> None:
        for key in changes.removed:
            self._asked.pop((kind, key), None)
        for key in changes.changed:
            known = objects[key]
            if isinstance(known.parsed, Invalid):
                continue
            asked = known.parsed.metadata.requested_at
            if asked and self._asked.get((kind, key)) != asked:
                self._asked[kind, key] = asked
                self._requested.update(PoolKey(ref.namespace, ref.name) for ref in known.refs)

    def statuses_of_invalid(
        self, now: int
    ) -> tuple[dict[PoolKey, AOAIBackendPoolStatus], dict[PoolKey, TenantQuotaStatus]]:
        """Return the statuses of the pools and of the tenants that cannot be used."""
        pools, quotas = {}, {}
        for key, invalid in self._read_pools.invalid.items():
            if pool := self.pools.get(key):
                pools[key] = invalid_pool_status(invalid.faults, pool.status, generation=pool.generation, now=now)
        for key, invalid in self._read_quotas.invalid.items():
            if quota := self.quotas.get(key):
                quotas[key] = invalid_quota_status(invalid.faults, quota.status, generation=quota.generation, now=now)
        return pools, quotas

    def world(
        self, secrets: Mapping[SecretRef, SecretValue], last_good: Mapping[PoolKey, RoutingTable], *, statuses: bool
    ) -> World:
        """Return the world of what was read; `statuses`: with those that are on the API server."""
        return World(
            pools=self._read_pools.valid,
            quotas=self._read_quotas.valid,
            secrets=secrets,
            last_good=last_good,
            invalid=frozenset(self._read_pools.invalid),
            namespaces=self._namespaces,
            token_hosts=self._token_hosts,
            pool_statuses={key: p.status for key, p in self.pools.items() if p.status} if statuses else {},
            quota_statuses={key: q.status for key, q in self.quotas.items() if q.status} if statuses else {},
        )

    def put_pool(self, item: JsonObject) -> KnownPool:
        """Take a pool as the server answered it to a write of ours."""
        return self._pools.put(item)

    def put_quota(self, item: JsonObject) -> KnownQuota:
        """Take a tenant as the server answered it to a write of ours."""
        return self._quotas.put(item)


async def _read(store: ObjectStore[KnownPool] | ObjectStore[KnownQuota]) -> tuple[Changes, Unavailable | None]:
    """Return what a refresh found, and why it found nothing."""
    try:
        return await store.refresh(), None
    except Unavailable as error:
        return Changes(), error


class _Read(Generic[R]):
    """The objects of one kind: those that can be used, those that cannot, and what they refer to."""

    def __init__(self, model: type[R]) -> None:
        self.valid: tuple[R, ...] = ()
        self.invalid: dict[PoolKey, Invalid] = {}
        self.refs: Mapping[PoolKey, frozenset[SecretRef]] = {}
        self._model: type[R] = model
        self._valid: dict[PoolKey, R] = {}

    def take(self, changes: Changes, objects: Mapping[PoolKey, KnownPool] | Mapping[PoolKey, KnownQuota]) -> None:
        """Take what changed. A status alone changes nothing here, and leaves the very same."""
        valid, refs = self._valid.copy(), dict(self.refs)
        for key in changes.removed | changes.changed:
            for known in (valid, self.invalid, refs):
                known.pop(key, None)
        for key in changes.changed:
            found = objects[key]
            refs[key] = found.refs
            if isinstance(found.parsed, self._model):
                valid[key] = found.parsed
            elif isinstance(found.parsed, Invalid):
                self.invalid[key] = found.parsed
        if differing(valid, self._valid):
            self._valid, self.valid = valid, tuple(valid.values())
        self.refs = refs

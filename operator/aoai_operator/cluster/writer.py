"""Brings ConfigMaps and statuses to what was compiled: only what differs, and for each object only the last word."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import structlog

from aoai_operator.adapters.kube.events import EventPoster
from aoai_operator.adapters.kube.resources import CONFIG_MAPS, POOLS, QUOTAS
from aoai_operator.cluster.resources import Resources
from aoai_operator.cluster.serving import Serving
from aoai_operator.core import configmaps
from aoai_operator.core.api import AOAIBackendPoolStatus, TenantQuotaStatus
from aoai_operator.core.compiler import Compiled
from aoai_operator.core.conditions import ConditionReason, ConditionType
from aoai_operator.core.events import Event, pool_events, quota_events
from aoai_operator.core.names import PoolKey
from aoai_operator.core.table import RoutingTable
from aoai_operator.ports import JsonObject, KubeApi, KubeError, Resource

_log = structlog.get_logger("writer")

_AT_ONCE = 8
_IN_A_PASS = 200
"""Writes of one pass. At a start there are thousands, and a table that changes meanwhile must not wait for them all."""
_PAUSE = 0.1
"""Seconds between two passes: what comes meanwhile is written once."""
_QUIET = 2.0
"""Seconds between two writes of a status for its endpoints' sake alone: a region that throttles comes and goes."""
_SETTLING = 0.5
"""Seconds for which Envoys may be taking a table before a status says so: mostly they have it before that."""
_RETRY, _LONGEST_RETRY = 1.0, 30.0
_LOOK_AGAIN = 10.0
"""Seconds until a name is tried again that somebody else's ConfigMap has."""
_GONE = 404
_CONFLICT = 409

Job = Callable[[], Awaitable[None]]
Status = AOAIBackendPoolStatus | TenantQuotaStatus
S = TypeVar("S", AOAIBackendPoolStatus, TenantQuotaStatus)


class Writer:
    """Writes for one term of a leader. What failed is tried again, with the state that is wanted then."""

    def __init__(
        self,
        *,
        api: KubeApi,
        resources: Resources,
        serving: Serving,
        events: EventPoster,
        waiting: Callable[[int], None],
        taken_changed: Callable[[], None],
    ) -> None:
        """Take the parts.

        Args:
            api: the API server, where only a leader's writes succeed.
            resources, serving: what is there.
            events: posts Events.
            waiting: hears how many objects are to be written.
            taken_changed: hears that `taken` changed.
        """
        self._waiting = waiting
        self._taken_changed = taken_changed
        self.taken: dict[PoolKey, str] = {}
        """The names of ConfigMaps that pools need, and that are somebody else's."""
        self._look_at: dict[PoolKey, float] = {}
        self._api = api
        self._resources = resources
        self._serving = serving
        self._events = events
        self._compiled = Compiled({}, {}, {}, ())
        self._wake = asyncio.Event()
        self._limit = asyncio.Semaphore(_AT_ONCE)
        self._retry = _RETRY
        self._odd: set[str] = set()
        self._written: dict[tuple[str, PoolKey], Status] = {}
        self._same: dict[str, dict[PoolKey, tuple[JsonObject, Status]]] = {POOLS.kind: {}, QUOTAS.kind: {}}
        self._quiet_until: dict[PoolKey, float] = {}
        self._on_its_way: dict[PoolKey, float] = {}

    def want(self, compiled: Compiled) -> None:
        """Take what was compiled last."""
        self._compiled = compiled
        wanted: tuple[tuple[str, Mapping[PoolKey, Status]], ...] = (
            (POOLS.kind, compiled.pool_statuses),
            (QUOTAS.kind, compiled.quota_statuses),
        )
        for kind, statuses in wanted:
            for key in self._same[kind].keys() - statuses.keys():
                del self._same[kind][key]
                self._written.pop((kind, key), None)
        # A pool that is made again under the name of one that is gone starts with nothing of it.
        memories: tuple[dict[PoolKey, Any], ...] = (self.taken, self._look_at, self._quiet_until, self._on_its_way)
        for memory in memories:
            for key in memory.keys() - compiled.pool_statuses.keys():
                del memory[key]
        self._wake.set()

    def look_again(self) -> None:
        """Compare again soon: somebody changed a ConfigMap."""
        self._wake.set()

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            jobs = list(islice(self._jobs(), _IN_A_PASS))
            self._waiting(len(jobs))
            results = await asyncio.gather(*(self._tried(job) for job in jobs))
            self._waiting(results.count(False))
            if len(jobs) == _IN_A_PASS and any(results):
                self._wake.set()
            if not all(results):
                asyncio.get_running_loop().call_later(self._retry, self._wake.set)
            self._retry = _RETRY if all(results) else min(2 * self._retry, _LONGEST_RETRY)
            await asyncio.sleep(_PAUSE)

    def _jobs(self) -> Iterator[Job]:
        """Yield what there is to do, an object at a time: tables first, then pools, and the many tenants last."""
        compiled = self._compiled
        now = asyncio.get_running_loop().time()
        for key, table in compiled.tables.items():
            pool = self._resources.object(POOLS.kind, key)
            if pool is None or self._serving.holds(table, uid := pool["metadata"]["uid"]):
                continue
            if self._look_at.get(key, 0.0) <= now:
                yield partial(self._write_table, table, uid)
        for key, wanted in self._unknown(POOLS, compiled.pool_statuses):
            before = self._resources.pool_status(key)
            if self._differs(POOLS, key, before, wanted) and not self._postponed(key, before, wanted):
                yield partial(self._write_status, POOLS, key, wanted, pool_events(before, wanted))
        for key, status in self._unknown(QUOTAS, compiled.quota_statuses):
            known = self._resources.quota_status(key)
            if self._differs(QUOTAS, key, known, status):
                yield partial(self._write_status, QUOTAS, key, status, quota_events(known, status))

    def _differs(self, resource: Resource, key: PoolKey, before: Status | None, wanted: Status) -> bool:
        """Tell whether a status is to be written.

        One that cannot be read, as a newer version of this operator may leave it, is written once, and not for ever.
        """
        known = self._resources.object(resource.kind, key)
        if known is None:
            return False
        if wanted not in (before, self._written.get((resource.kind, key)) if before is None else None):
            return True
        self._same[resource.kind][key] = known, wanted
        return False

    def _unknown(self, resource: Resource, statuses: Mapping[PoolKey, S]) -> Iterator[tuple[PoolKey, S]]:
        """Yield the statuses that are not known to be there: to compare thousands at each pass would take too long."""
        there, same = self._resources.objects(resource.kind), self._same[resource.kind]
        for key, wanted in statuses.items():
            known = same.get(key)
            if known is None or known[1] is not wanted or known[0] is not there.get(key):
                yield key, wanted

    def _postponed(self, key: PoolKey, before: AOAIBackendPoolStatus | None, wanted: AOAIBackendPoolStatus) -> bool:
        """Tell whether it can wait: Envoys are just taking the table, or only the states of endpoints changed."""
        loop = asyncio.get_running_loop()
        if _on_its_way(wanted):
            until = self._on_its_way.setdefault(key, loop.time() + _SETTLING)
        else:
            self._on_its_way.pop(key, None)
            if before is None or _facts(before) != _facts(wanted):
                return False
            until = self._quiet_until.get(key, 0.0)
        left = until - loop.time()
        if left > 0:
            loop.call_later(left, self._wake.set)
        return left > 0

    async def _write_table(self, table: RoutingTable, uid: str) -> None:
        wanted = {
            PoolKey(table.namespace, manifest["metadata"]["name"]): manifest
            for manifest in configmaps.manifests(table, uid)
        }
        there = set(self._serving.names(table.key))
        for key in wanted.keys() - there:
            found = await self._api.get(CONFIG_MAPS, key)
            if found is not None and not configmaps.belongs(found, table.name, uid):
                self._leave(table.key, key)
                return
        self._look_at.pop(table.key, None)
        if self.taken.pop(table.key, None) is not None:
            self._taken_changed()
        for manifest in wanted.values():
            self._serving.put(await self._api.apply(CONFIG_MAPS, manifest))
        for key in there - wanted.keys():
            await self._api.delete(CONFIG_MAPS, key)
        _log.info("a routing table is written", pool=str(table.key), revision=table.revision)

    def _leave(self, pool: PoolKey, name: PoolKey) -> None:
        """Leave a ConfigMap alone that has the name of one of ours: it is somebody's work, and would go with the pool.

        No watch tells when it goes, since it has no label of ours.
        """
        loop = asyncio.get_running_loop()
        self._look_at[pool] = loop.time() + _LOOK_AGAIN
        loop.call_later(_LOOK_AGAIN, self._wake.set)
        if self.taken.get(pool) != name.name:
            self.taken[pool] = name.name
            _log.warning(
                "a routing table cannot be written: somebody else's ConfigMap has its name", configmap=str(name)
            )
            self._taken_changed()

    async def _write_status(self, resource: Resource, key: PoolKey, status: Status, events: Iterator[Event]) -> None:
        known = self._resources.object(resource.kind, key)
        if known is None:
            return
        metadata = {"namespace": key.namespace, "name": key.name, "uid": known["metadata"]["uid"]}
        # The default belongs to a status that nobody has written: what is not said here would be the API server's.
        body = {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": metadata,
            "status": status.model_dump(mode="json", by_alias=True, exclude_none=True),
        }
        self._resources.put(await self._api.apply(resource, body, status=True))
        self._written[resource.kind, key] = status
        self._quiet_until[key] = asyncio.get_running_loop().time() + _QUIET
        for event in events:
            self._events.post(known, event.type, reason=event.reason, message=event.message, action="Reconcile")

    async def _tried(self, job: Job) -> bool:
        """Do a job; tell whether it is done, or will never be."""
        async with self._limit:
            try:
                await job()
            except KubeError as error:
                if error.status in (_GONE, _CONFLICT):
                    # The object is gone, or another one has its name: a wake came, or comes, for it.
                    return True
                _log.warning("a write failed, and is tried again", why=error.message, reason=error.reason)
                return False
            except Exception as error:  # noqa: BLE001 - one odd object must not end this leader, and then the next
                if repr(error) not in self._odd:
                    _log.exception("an object cannot be written, and is tried again")
                    self._odd.add(repr(error))
                return False
            return True


def _facts(status: AOAIBackendPoolStatus) -> object:
    """Return what is written at once when it changes."""
    # What sums up the endpoints' states waits with them.
    conditions = [
        (c.type, c.status, "" if c.type == ConditionType.READY else c.reason, c.observed_generation)
        for c in status.conditions
        if c.type != ConditionType.HEALTHY
    ]
    return conditions, status.routing_table, status.proxies


def _on_its_way(status: AOAIBackendPoolStatus) -> bool:
    pending = (ConditionType.RECONCILING, ConditionReason.PENDING)
    return any((c.type, c.reason) == pending for c in status.conditions)

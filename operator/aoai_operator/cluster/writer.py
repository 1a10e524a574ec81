"""Brings ConfigMaps and statuses to what was compiled: only what differs, and for each object only the last word."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

import structlog

from aoai_operator.adapters.kube.events import EventPoster
from aoai_operator.adapters.kube.resources import CONFIG_MAPS, POOLS, QUOTAS
from aoai_operator.cluster.known import Known, KnownPool, KnownQuota, S
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
from aoai_operator.runners.jobs import Job, Jobs

_log = structlog.get_logger("writer")

_AT_ONCE = 8
_PAUSE = 0.1
"""Seconds between two looks at what is to be written: what comes meanwhile is written once."""
_QUIET = 2.0
"""Seconds between two writes of a status for its endpoints' sake alone: a region that throttles comes and goes."""
_SETTLING = 0.5
"""Seconds for which Envoys may be taking a table before a status says so: mostly they have it before that."""
ARRIVING = 20.0
"""Seconds in which Envoys find another replica: one that begins to serve, or to lead."""
_LONGEST_ARRIVING = 60.0
"""The same at the start of a term where this replica does not serve them yet."""
_RETURNING = 5.0
"""Seconds for which an Envoy that had a table may be away: its connection ends from time to time, for its age."""
_RETRY, _LONGEST_RETRY = 1.0, 30.0
_LOOK = 1.0
"""Seconds between two looks whether the Envoys are back."""
_LOOK_AGAIN = 10.0
"""Seconds until a name is tried again that somebody else's ConfigMap has."""
_GONE = 404
_CONFLICT = 409

Status = AOAIBackendPoolStatus | TenantQuotaStatus
W = TypeVar("W")
_Named = tuple[Hashable, Job]
_Todo = _Named | None


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
        arrived: Callable[[], bool],
    ) -> None:
        """Take the parts.

        Args:
            api: the API server, where only a leader's writes succeed.
            resources, serving: what is there.
            events: posts Events.
            waiting: hears how many objects are to be written.
            taken_changed: hears that `taken` changed.
            arrived: tells whether this replica has served Envoys for long enough that all of them found it.
        """
        self._taken_changed = taken_changed
        self._arrived = arrived
        self.taken: dict[PoolKey, str] = {}
        """The names of ConfigMaps that pools need, and that are somebody else's."""
        self._look_at: dict[PoolKey, float] = {}
        self._api = api
        self._resources = resources
        self._serving = serving
        self._events = events
        self._compiled = Compiled({}, {}, {}, ())
        self._jobs = Jobs(
            self._to_do,
            at_once=_AT_ONCE,
            pause=_PAUSE,
            retry=_RETRY,
            longest_retry=_LONGEST_RETRY,
            waiting=waiting,
        )
        self._begun = math.inf
        self._odd: set[str] = set()
        self._tables_done, self._pools_done, self._quotas_done = _Done(), _Done(), _Done()
        self._written: dict[tuple[str, PoolKey], Status] = {}
        self._quiet_until: dict[PoolKey, float] = {}
        self._on_its_way: dict[PoolKey, float] = {}
        self._away: dict[PoolKey, tuple[int, float]] = {}

    def want(self, compiled: Compiled) -> None:
        """Take what was compiled last."""
        self._compiled = compiled
        statuses = {POOLS.kind: compiled.pool_statuses, QUOTAS.kind: compiled.quota_statuses}
        for kind, key in [named for named in self._written if named[1] not in statuses[named[0]]]:
            del self._written[kind, key]
        # A pool that is made again under the name of one that is gone starts with nothing of it.
        memories: tuple[dict[PoolKey, Any], ...] = (self.taken, self._look_at, self._quiet_until)
        for memory in (*memories, self._on_its_way, self._away):
            for key in memory.keys() - compiled.pool_statuses.keys():
                del memory[key]
        self._jobs.wake()

    def look_again(self) -> None:
        """Compare again soon: somebody changed a ConfigMap."""
        self._jobs.wake()

    async def run(self) -> None:
        """Run until cancelled."""
        self._begun = asyncio.get_running_loop().time()
        await self._jobs.run()

    def _to_do(self) -> Iterator[_Named]:
        """Yield what there is to do, an object at a time: tables first, then pools, and the many tenants last."""
        compiled, resources = self._compiled, self._resources
        moves = resources.pool_moves, self._serving.moves
        yield from self._tables_done.unless(compiled.tables, moves, self._tables_to_do)
        yield from self._pools_done.unless(compiled.pool_statuses, resources.pool_moves, self._pools_to_do)
        yield from self._quotas_done.unless(compiled.quota_statuses, resources.quota_moves, self._quotas_to_do)

    def _tables_to_do(self, wanted: Mapping[PoolKey, RoutingTable]) -> Iterator[_Todo]:
        now = asyncio.get_running_loop().time()
        for key, table in wanted.items():
            pool = self._resources.pools.get(key)
            if pool is None or self._serving.holds(table, pool.uid):
                continue
            waits = self._look_at.get(key, 0.0) > now
            yield None if waits else self._job(CONFIG_MAPS, key, partial(self._write_table, table, pool.uid))

    def _pools_to_do(self, wanted: Mapping[PoolKey, AOAIBackendPoolStatus]) -> Iterator[_Todo]:
        due, now = math.inf, asyncio.get_running_loop().time()
        for key, told in wanted.items():
            pool = self._resources.pools.get(key)
            if pool is None or not self._differs(POOLS, key, pool, told):
                self._on_its_way.pop(key, None)
                self._away.pop(key, None)
                continue
            until = self._postponed(key, pool.status, told, now)
            due = min(due, until if until > now else math.inf)
            yield None if until > now else self._job(POOLS, key, partial(self._write_pool, key, pool, told))
        if due < math.inf:
            self._jobs.wake_in(due - now)

    def _quotas_to_do(self, wanted: Mapping[PoolKey, TenantQuotaStatus]) -> Iterator[_Todo]:
        for key, told in wanted.items():
            quota = self._resources.quotas.get(key)
            # Of ten thousand nearly all are as they should be, and known to be by identity.
            if quota is not None and quota.status is not told and self._differs(QUOTAS, key, quota, told):
                yield self._job(QUOTAS, key, partial(self._write_quota, key, quota, told))

    def _job(self, resource: Resource, key: PoolKey, write: Callable[[], Awaitable[None]]) -> _Named:
        return (resource.kind, key), partial(self._tried, resource, key, write)

    def _differs(self, resource: Resource, key: PoolKey, known: Known[S], wanted: S) -> bool:
        """Tell whether a status is to be written.

        One that cannot be read, as a newer version of this operator may leave it, is written once, and not for ever.
        What changed and changed back before it was written leaves only other times of transition: that is nothing.
        """
        if known.says(wanted) or (known.status is not None and _untimed(known.status) == _untimed(wanted)):
            return False
        return known.status is not None or self._written.get((resource.kind, key)) != wanted

    def _postponed(
        self, key: PoolKey, before: AOAIBackendPoolStatus | None, wanted: AOAIBackendPoolStatus, now: float
    ) -> float:
        """Return until when it can wait: Envoys come, or take the table, or only states of endpoints changed."""
        arriving = ARRIVING if self._arrived() else _LONGEST_ARRIVING
        if before is not None and now < self._begun + arriving and _lost(before, wanted):
            return now + _LOOK
        if before is not None and (until := self._returning(key, before, wanted, now)) > now:
            return until
        if _on_its_way(wanted):
            return self._on_its_way.setdefault(key, now + _SETTLING)
        self._on_its_way.pop(key, None)
        if before is None or _facts(before) != _facts(wanted):
            return now
        return self._quiet_until.get(key, 0.0)

    def _returning(
        self, key: PoolKey, before: AOAIBackendPoolStatus, wanted: AOAIBackendPoolStatus, now: float
    ) -> float:
        """Return until when Envoys that are away may come back; each that comes or goes begins the time anew.

        Of thousands one is away at nearly any moment, and another one at the next.
        """
        if not _lost(before, wanted) or before.observed_generation != wanted.observed_generation:
            self._away.pop(key, None)
            return now
        there = wanted.proxies.programmed
        known, until = self._away.get(key, (-1, now))
        if known != there:
            until = now + _RETURNING
            self._away[key] = there, until
        return until

    async def _write_table(self, table: RoutingTable, uid: str) -> None:
        manifests = configmaps.manifests(table, uid, self._serving.key)
        wanted = {PoolKey(table.namespace, manifest["metadata"]["name"]): manifest for manifest in manifests}
        there = set(self._serving.names(table.key))
        for key in wanted.keys() - there:
            found = await self._api.get(CONFIG_MAPS, key)
            if found is not None and not configmaps.belongs(found, table.name, uid):
                self._leave(table.key, key)
                return
        self._look_at.pop(table.key, None)
        if self.taken.pop(table.key, None) is not None:
            self._taken_changed()
        self._serving.expect(configmaps.written(manifests, table))
        for manifest in manifests:
            self._serving.put(await self._api.apply(CONFIG_MAPS, manifest))
        for key in there - wanted.keys():
            if self._serving.belongs(table.key, key, uid):
                await self._api.delete(CONFIG_MAPS, key)
        _log.info("a routing table is written", pool=str(table.key), revision=table.revision)

    def _leave(self, pool: PoolKey, name: PoolKey) -> None:
        """Leave a ConfigMap alone that has the name of one of ours: it is somebody's work, and would go with the pool.

        No watch tells when it goes, since it has no label of ours.
        """
        self._look_at[pool] = asyncio.get_running_loop().time() + _LOOK_AGAIN
        self._jobs.wake_in(_LOOK_AGAIN)
        if self.taken.get(pool) != name.name:
            self.taken[pool] = name.name
            _log.warning(
                "a routing table cannot be written: somebody else's ConfigMap has its name", configmap=str(name)
            )
            self._taken_changed()

    async def _write_pool(self, key: PoolKey, known: KnownPool, status: AOAIBackendPoolStatus) -> None:
        self._resources.put_pool(await self._apply(POOLS, known, status)).says(status)
        self._quiet_until[key] = asyncio.get_running_loop().time() + _QUIET
        self._wrote(POOLS, key, known, status, pool_events(known.status, status))

    async def _write_quota(self, key: PoolKey, known: KnownQuota, status: TenantQuotaStatus) -> None:
        self._resources.put_quota(await self._apply(QUOTAS, known, status)).says(status)
        self._wrote(QUOTAS, key, known, status, quota_events(known.status, status))

    async def _apply(self, resource: Resource, known: Known[S], status: S) -> JsonObject:
        metadata = {field: known.reference["metadata"][field] for field in ("namespace", "name", "uid")}
        # The default belongs to a status that nobody has written: what is not said here would be the API server's.
        body = {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": metadata,
            "status": status.model_dump(mode="json", by_alias=True, exclude_none=True),
        }
        return await self._api.apply(resource, body, status=True)

    def _wrote(self, resource: Resource, key: PoolKey, known: Known[S], status: S, events: Iterable[Event]) -> None:
        if known.status is None:
            self._written[resource.kind, key] = status
        for event in events:
            about = known.reference
            self._events.post(about, event.type, reason=event.reason, message=event.message, action="Reconcile")

    async def _tried(self, resource: Resource, key: PoolKey, write: Callable[[], Awaitable[None]]) -> bool:
        """Write; tell whether it is done, or will never be. A ConfigMap is named by its pool."""
        told = {"kind": resource.kind, "object": str(key)}
        try:
            await write()
        except KubeError as error:
            if error.status in (_GONE, _CONFLICT):
                # The object is gone, or another one has its name: a wake came, or comes, for it.
                return True
            _log.warning("a write failed, and is tried again", **told, why=error.message, reason=error.reason)
            return False
        except Exception as error:  # noqa: BLE001 - one odd object must not end this leader, and then the next
            if repr(error) not in self._odd:
                _log.exception("an object cannot be written, and is tried again", **told)
                self._odd.add(repr(error))
            return False
        return True


class _Done:
    """Knows when all was as it is wanted, so that it is gone through again only after something moved."""

    def __init__(self) -> None:
        self._wanted: object = None
        self._moves: object = None

    def unless(self, wanted: W, moves: object, look: Callable[[W], Iterator[_Todo]]) -> Iterator[_Named]:
        """Yield what a look finds that is to be done now, unless the last look at all this found nothing at all.

        Args:
            wanted: what is to be; another object where it is another one.
            moves: tells apart what is there now from what was there then.
            look: compares them; None: something that is to be done later.
        """
        if self._wanted is wanted and self._moves == moves:
            return
        found = False
        for one in look(wanted):
            found = True
            if one is not None:
                yield one
        self._wanted, self._moves = (None, None) if found else (wanted, moves)


def _lost(before: AOAIBackendPoolStatus, wanted: AOAIBackendPoolStatus) -> bool:
    """Tell whether Envoys that had the present table are not seen now."""
    same = before.routing_table == wanted.routing_table
    return same and before.proxies.programmed > wanted.proxies.programmed


def _untimed(status: Status) -> Status:
    """Return a status without the times of its conditions."""
    conditions = tuple(c.model_copy(update={"last_transition_time": ""}) for c in status.conditions)
    return status.model_copy(update={"conditions": conditions})


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

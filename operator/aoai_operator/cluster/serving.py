"""What every replica does: keep its Envoys on the routing tables, as the ConfigMaps say them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping

import structlog

from aoai_operator.adapters.kube.secrets import SecretReader
from aoai_operator.adapters.kube.store import Changes, ObjectStore, Unavailable
from aoai_operator.core import configmaps
from aoai_operator.core.names import PoolKey, SecretRef
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.table import RoutingTable
from aoai_operator.ports import JsonObject, KubeError

_log = structlog.get_logger("serving")

Deliver = Callable[[Mapping[PoolKey, RoutingTable], Mapping[SecretRef, SecretValue]], None]

_LOOK_AGAIN = 5.0
"""Seconds until it is asked again whether a pool without ConfigMaps is still there."""
_TOGETHER = 0.02
"""Seconds to wait for what belongs together: a routing table and its shards are several objects."""


class Serving:
    """Reads the tables, and hands them on with the secrets that they refer to.

    A table that is broken, incomplete, or not what its hash says is refused, and its last good one keeps serving; so
    do all of them while the API server is away, and one whose ConfigMaps somebody deleted, until its pool is gone.
    """

    def __init__(
        self,
        *,
        store: ObjectStore,
        pool: Callable[[PoolKey], Awaitable[JsonObject | None]],
        secrets: SecretReader,
        deliver: Deliver,
    ) -> None:
        """Take where the ConfigMaps, single pools and the Secrets come from, and where the tables go."""
        self._store = store
        self._pool = pool
        self._secrets = secrets
        self._deliver = deliver
        self._woken = asyncio.Event()
        self._woken.set()
        self._present: defaultdict[PoolKey, dict[PoolKey, JsonObject]] = defaultdict(dict)
        self.tables: dict[PoolKey, RoutingTable] = {}
        """The tables that serve."""
        self.ready = asyncio.Event()
        """Set once all tables were read, and the secrets that they refer to."""
        self.changed: Callable[[], None] = lambda: None
        """Is called when a ConfigMap changed, by us or by somebody else."""
        self._as_applied: dict[PoolKey, tuple[str, str]] = {}
        self._refused: dict[PoolKey, str] = {}
        self._bare: set[PoolKey] = set()

    def names(self, pool: PoolKey) -> list[PoolKey]:
        """Return the ConfigMaps that are there for a pool."""
        return list(self._present.get(pool, ()))

    def holds(self, table: RoutingTable, uid: str) -> bool:
        """Tell whether the ConfigMaps say this table, all of it and nothing else, as belonging to the pool of a uid."""
        return self._as_applied.get(table.key) == (table.revision, uid)

    def put(self, item: JsonObject) -> None:
        """Take a ConfigMap as the server answered it to a write of ours, before the watch tells of it."""
        self._store.put(item)
        self._woken.set()

    def refs(self) -> set[SecretRef]:
        """Return the entries of Secrets that the tables refer to."""
        return {ref for table in self.tables.values() for ref in table.refs()}

    def wake(self, key: PoolKey | None) -> None:
        """Read a ConfigMap again soon; None: all."""
        self._store.wake(key)
        self._woken.set()

    def secrets_changed(self) -> None:
        """Hand the tables on again soon: a Secret changed."""
        self._woken.set()

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            await self._next_reason()
            await asyncio.sleep(_TOGETHER)
            self._woken.clear()
            try:
                changes = await self._store.refresh()
            except Unavailable as error:
                _log.warning("the routing tables cannot be read, what was read last keeps serving", why=str(error))
                if not self._store.complete:
                    continue
                changes = Changes()
            concerned = self._concerned(changes)
            self._read(concerned)
            await self._forget(concerned | self._bare)
            await self._hand_on()
            if changes:
                self.changed()

    async def _next_reason(self) -> None:
        try:
            due = self._store.due_in()
            await asyncio.wait_for(self._woken.wait(), min(due, _LOOK_AGAIN) if self._bare else due)
        except TimeoutError:
            return

    def _concerned(self, changes: Changes) -> set[PoolKey]:
        """Return the pools whose ConfigMaps changed, after sorting these by pool."""
        concerned = set()
        for key in changes.removed | changes.changed:
            # By the name: whoever edits the label does not take a ConfigMap from its pool.
            pool = configmaps.pool_of(key)
            if pool is None:
                continue
            concerned.add(pool)
            if key in changes.removed:
                self._present[pool].pop(key, None)
            else:
                self._present[pool][key] = self._store.objects[key]
        return concerned

    def _read(self, pools: Iterable[PoolKey]) -> None:
        for pool in pools:
            present = self._present.get(pool, {})
            found = configmaps.read(pool, present.values())
            if found.table is not None:
                self.tables[pool] = found.table
            self._as_applied[pool] = (found.table.revision if found.table else "", found.owner)
            if found.refused and self._refused.get(pool) != found.refused:
                _log.error("a routing table is refused, its last good one serves", pool=str(pool), why=found.refused)
            self._refused[pool] = found.refused

    async def _forget(self, pools: Iterable[PoolKey]) -> None:
        """Drop the tables of pools that are gone, whose ConfigMaps the garbage collector took."""
        self._bare = set()
        for pool in pools:
            present = self._present.get(pool, {})
            if PoolKey(pool.namespace, configmaps.routing_name(pool.name)) in present:
                continue
            if pool in self.tables and await self._lives(pool):
                self._bare.add(pool)
                continue
            for known in (self.tables, self._as_applied, self._refused):
                known.pop(pool, None)
            if not present:
                self._present.pop(pool, None)

    async def _lives(self, pool: PoolKey) -> bool:
        try:
            found = await self._pool(pool)
        except KubeError:
            return True
        return found is not None and "deletionTimestamp" not in found["metadata"]

    async def _hand_on(self) -> None:
        self._secrets.want("tables", self.refs())
        if not self.ready.is_set():
            await self._secrets.settled()
        self._deliver(self.tables, self._secrets.values)
        self.ready.set()

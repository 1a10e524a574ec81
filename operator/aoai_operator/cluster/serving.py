"""What every replica does: keep its Envoys on the routing tables, as the ConfigMaps say them."""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import structlog

from aoai_operator.adapters.kube.secrets import SecretReader
from aoai_operator.adapters.kube.store import Changes, ObjectStore, Unavailable
from aoai_operator.core import configmaps
from aoai_operator.core.envoy.snapshot import Owners
from aoai_operator.core.names import PoolKey, SecretRef
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.table import RoutingTable
from aoai_operator.ports import JsonObject, KubeError
from aoai_operator.runners.signing import TableKey

_log = structlog.get_logger("serving")

Deliver = Callable[[Mapping[PoolKey, RoutingTable], Mapping[SecretRef, SecretValue], Owners], None]
"""Takes the tables, the secrets that they refer to, and of whose resources Envoys keep what they have."""

_PATIENCE = 30.0
"""Seconds for which a start waits for tables that are refused, or half written: longer than it takes until somebody
leads, and mends them."""
_SHARED_KEPT = 300.0
"""Seconds from there on for which Envoys keep what pools share, such as routes by host name, where a pool is not known:
one pool, and whoever keeps its table unreadable, must not hold up the changes of others for ever."""
_LOOK_AGAIN = 5.0
"""Seconds until it is asked again whether a pool is still there whose ConfigMaps hold no table that is taken."""
_ASKED = 16
"""How many such pools are asked for at once, and in the long run in a second."""
_SECRETS_WITHIN = 10.0
"""Seconds for which a new table waits for the Secrets that only it names. Its last good one serves meanwhile."""
_TOGETHER = 0.02
"""Seconds to wait for what belongs together: a routing table and its shards are several objects."""


class Serving:
    """Reads the tables, and hands them on with the secrets that they refer to.

    A table that the operator did not sign, or that is broken or incomplete, is refused, and its last good one keeps
    serving; so do all of them while the API server is away, and one whose ConfigMaps somebody deleted, until its pool
    is gone.
    """

    def __init__(
        self,
        *,
        store: ObjectStore[JsonObject],
        key: TableKey,
        pool: Callable[[PoolKey], Awaitable[JsonObject | None]],
        secrets: SecretReader,
        deliver: Deliver,
        refused: Callable[[int], None],
    ) -> None:
        """Take the ways in and out.

        Args:
            store: reads ConfigMaps.
            key: what their tables are signed with.
            pool: reads a single pool.
            secrets: reads what the tables refer to.
            deliver: takes the tables that are to be served.
            refused: hears how many tables are refused.
        """
        self._store = store
        self._key = key
        self._keyed = asyncio.Event()
        self._rekeyed = False
        self._pool = pool
        self._secrets = secrets
        self._deliver = deliver
        self._tell_refused = refused
        self._woken = asyncio.Event()
        self._woken.set()
        self._present: defaultdict[PoolKey, dict[PoolKey, JsonObject]] = defaultdict(dict)
        self.tables: dict[PoolKey, RoutingTable] = {}
        """The tables as they are to be served."""
        self._served: dict[PoolKey, RoutingTable] = {}
        self._held: dict[PoolKey, float] = {}
        self.read = asyncio.Event()
        """Set once all tables were read, as far as they can be."""
        self.ready = asyncio.Event()
        """Set once they could be served: with their secrets, and after some patience with those that are refused."""
        self._patient_until = math.inf
        self._shared_kept_until = 0.0
        self.changed: Callable[[], None] = lambda: None
        """Is called when a ConfigMap changed, by us or by somebody else."""
        self.moves = 0
        """How often it may have changed what `holds` says."""
        self._as_applied: dict[PoolKey, tuple[str, str]] = {}
        self._texts: dict[PoolKey, configmaps.Text] = {}
        self._refused: dict[PoolKey, str] = {}
        self._doubted: dict[PoolKey, float] = {}
        self._absent: set[PoolKey] = set()
        self._moved = False
        self._unknown: Owners = frozenset()
        self._handed_on: Mapping[SecretRef, SecretValue] = {}

    @property
    def key(self) -> SecretValue:
        """The key that tables are signed with; there is one once anything was read."""
        if self._key.key is None:
            raise AssertionError("nothing is read before the key is")
        return self._key.key

    def names(self, pool: PoolKey) -> list[PoolKey]:
        """Return the ConfigMaps that are there for a pool."""
        return list(self._present.get(pool, ()))

    def belongs(self, pool: PoolKey, name: PoolKey, uid: str) -> bool:
        """Tell whether a ConfigMap that has the name of a pool's is owned by the pool of a uid."""
        item = self._present.get(pool, {}).get(name)
        return item is not None and configmaps.owned_by(item, pool.name) == uid

    def holds(self, table: RoutingTable, uid: str) -> bool:
        """Tell whether the ConfigMaps say this table, all of it and nothing else, as belonging to the pool of a uid.

        That is: signed with the present key.
        """
        return self._as_applied.get(table.key) == (table.revision, uid)

    def expect(self, text: configmaps.Text) -> None:
        """Take what a ConfigMap will say that is being written: its table is not read again, but is ours."""
        self._texts[text.table.key] = text

    def put(self, item: JsonObject) -> None:
        """Take a ConfigMap as the server answered it to a write of ours, before the watch tells of it."""
        self._store.put(item)
        self._woken.set()

    def wake(self, key: PoolKey | None) -> None:
        """Read a ConfigMap again soon; None: all."""
        self._store.wake(key)
        self._woken.set()

    def key_changed(self) -> None:
        """Read again soon what was refused, and have all be signed again: the key is another one.

        What serves was signed with the key of its time, and goes on.
        """
        self._as_applied.clear()
        self.moves += 1
        self._rekeyed = True
        self._keyed.set()
        self._woken.set()

    def secrets_changed(self) -> None:
        """Hand the tables on again soon: a Secret changed."""
        self._woken.set()

    async def run(self) -> None:
        """Run until cancelled."""
        await self._keyed.wait()
        while True:
            resync = not await self._next_reason()
            await asyncio.sleep(_TOGETHER)
            self._woken.clear()
            try:
                changes = await self._store.refresh()
            except Unavailable as error:
                _log.warning("the routing tables cannot be read, what was read last keeps serving", why=str(error))
                if not self._store.complete:
                    continue
                changes = Changes()
            rekeyed, self._rekeyed = self._rekeyed, False
            # A table that was refused before may be signed with a key that is known only now.
            refused = {pool for pool, why in self._refused.items() if why} if rekeyed else set()
            await self._read(self._concerned(changes) | refused)
            self.read.set()
            await self._ask_for_doubted()
            self._tell_refused(sum(1 for why in self._refused.values() if why))
            if self._may_serve():
                self._hand_on(again=resync)
            if changes or rekeyed:
                self.changed()

    def _may_serve(self) -> bool:
        """Tell whether to hand the tables on. At the start, a leader is given time to mend those that are refused.

        An Envoy that comes from another replica keeps what it has of them, but one that starts would not know them.
        """
        if self.ready.is_set():
            return True
        if all(pool in self.tables or pool in self._absent for pool in self._present):
            return True
        now = asyncio.get_running_loop().time()
        self._patient_until = min(self._patient_until, now + _PATIENCE)
        self._shared_kept_until = self._patient_until + _SHARED_KEPT
        return now >= self._patient_until

    async def _next_reason(self) -> bool:
        """Wait for a wake, or until something is due; tell whether there was a wake."""
        if self._woken.is_set():
            return True
        due = self._store.due_in()
        try:
            # Not wait_for: in Python 3.11 a cancellation is lost in it when what it waits for comes just then.
            now = asyncio.get_running_loop().time()
            if not self.ready.is_set():
                due = min(due, _LOOK_AGAIN)
            if self._doubted:
                due = min(due, max(0.0, min(self._doubted.values()) - now))
            if self._held and self.ready.is_set():
                due = min(due, max(0.0, min(self._held.values()) - now))
            async with asyncio.timeout(due):
                await self._woken.wait()
        except TimeoutError:
            return False
        return True

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

    async def _read(self, pools: Iterable[PoolKey]) -> None:
        present = {pool: tuple(self._present.get(pool, {}).values()) for pool in pools}
        key = self.key
        # At a start these are all tables, and each takes milliseconds.
        read = await asyncio.to_thread(self._as_signed, present, key)
        if any(found.refused and not found.signed for found in read.values()):
            # They may be signed with a key that this replica has not read yet.
            await self._key.look()
        while self.key is not key:
            key = self.key
            read = await asyncio.to_thread(self._as_signed, present, key)
        for pool, found in read.items():
            if found.table is not None and found.table != self.tables.get(pool):
                self.tables[pool] = found.table
                self._moved = True
            if found.text is not None:
                self._texts[pool] = found.text
            self._as_applied[pool] = (found.table.revision if found.table else "", found.owner)
            self.moves += 1
            if found.refused and self._refused.get(pool) != found.refused:
                if pool in self.tables:
                    _log.error(
                        "a routing table is refused, its last good one serves", pool=str(pool), why=found.refused
                    )
                else:
                    _log.error(
                        "a routing table is refused, and none was good before", pool=str(pool), why=found.refused
                    )
            self._refused[pool] = found.refused
            if found.table is None:
                self._doubted[pool] = 0.0
            else:
                self._doubted.pop(pool, None)
                self._absent.discard(pool)

    def _as_signed(
        self, present: Mapping[PoolKey, Sequence[JsonObject]], key: SecretValue
    ) -> dict[PoolKey, configmaps.Read]:
        known = self._texts.get
        return {pool: configmaps.read(pool, items, key, known=known(pool)) for pool, items in present.items()}

    async def _ask_for_doubted(self) -> None:
        """Ask for the pools whose ConfigMaps hold no table that is taken, and forget those that are gone.

        Mostly the garbage collector took the ConfigMaps; but whoever may write them can also keep them there.
        """
        loop = asyncio.get_running_loop()
        due = [pool for pool, at in self._doubted.items() if at <= loop.time()]
        if len(due) > _ASKED:
            self._woken.set()
            del due[_ASKED:]
        for pool, lives in zip(due, await asyncio.gather(*map(self._lives, due)), strict=True):
            if lives:
                self._absent.discard(pool)
                self._doubted[pool] = loop.time() + max(_LOOK_AGAIN, len(self._doubted) / _ASKED)
                continue
            self._moved |= pool in self.tables
            for known in (self.tables, self._as_applied, self._refused, self._texts, self._doubted):
                known.pop(pool, None)
            self.moves += 1
            if self._present.get(pool):
                self._absent.add(pool)
            else:
                self._present.pop(pool, None)
                self._absent.discard(pool)

    async def _lives(self, pool: PoolKey) -> bool:
        try:
            found = await self._pool(pool)
        except KubeError:
            return True
        return found is not None and "deletionTimestamp" not in found["metadata"]

    def _hand_on(self, *, again: bool) -> None:
        """Hand on what changed; `again`: even if nothing did, since certificates get old.

        At the start nothing is before all Secrets are read: an Envoy that comes from another replica has the keys.
        """
        if self._moved:
            self._want_secrets("tables", self.tables)
        served = self._with_their_secrets() if self._moved or self._held else self._served
        self._moved = False
        unknown = self._not_known(served)
        if not self.ready.is_set():
            if self._held:
                return
        elif not (
            again or served != self._served or self._handed_on is not self._secrets.values or self._unknown != unknown
        ):
            return
        if served != self._served:
            self._want_secrets("served", served)
        self._served, self._handed_on, self._unknown = served, self._secrets.values, unknown
        self._deliver(self._served, self._handed_on, self._unknown)
        self.ready.set()

    def _want_secrets(self, who: str, tables: Mapping[PoolKey, RoutingTable]) -> None:
        self._secrets.want(who, {pool: table.refs for pool, table in tables.items()})

    def _not_known(self, served: Mapping[PoolKey, RoutingTable]) -> Owners:
        """Return the pools that live, and of which there is no table to serve since the start; None: what pools share.

        None could be read, or the first one waits for its Secrets.
        """
        pools = (self._doubted.keys() - self.tables.keys()) | (self._held.keys() - served.keys())
        shared = asyncio.get_running_loop().time() < self._shared_kept_until
        return frozenset(map(str, pools)) | ({None} if pools and shared else frozenset())

    def _with_their_secrets(self) -> dict[PoolKey, RoutingTable]:
        """Return the tables, and in place of one whose Secrets are not read yet the last good one, for some time."""
        now = asyncio.get_running_loop().time()
        held, served = {}, {}
        for pool, table in self.tables.items():
            before = self._served.get(pool)
            until = self._held.get(pool, now + _SECRETS_WITHIN)
            if table is before or not self._secrets.unread(table.refs) or (self.ready.is_set() and until <= now):
                served[pool] = table
                continue
            held[pool] = until
            if before is not None:
                served[pool] = before
        self._held = held
        return served

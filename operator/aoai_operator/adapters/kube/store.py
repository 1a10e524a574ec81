"""The objects of one kind as they were read last: by GET when single ones are woken, else by LIST."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog

from aoai_operator.core.names import PoolKey
from aoai_operator.ports import JsonObject, KubeApi, KubeError, Resource

_log = structlog.get_logger("store")

_MANY = 50
"""Woken keys above which one LIST is cheaper than so many GETs."""
_FIRST_RETRY, _LONGEST_RETRY = 1.0, 30.0

T = TypeVar("T")

Everywhere = None
"""The scope of a LIST in all namespaces."""


class Unavailable(Exception):  # noqa: N818 - what it says, as with KeyboardInterrupt
    """What was asked for cannot be read now, and stays as it was; the message is one sentence for people."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What a refresh found."""

    changed: frozenset[PoolKey] = frozenset()
    removed: frozenset[PoolKey] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.changed or self.removed)


class ObjectStore(Generic[T]):
    """Holds what is needed of the objects of one kind, by key, in some namespaces or in all of them.

    A namespace that was deleted, or may not be read, holds nothing new, and stops none of the others; it is listed
    again at each resync. When none may be read, that is a failure like others.
    """

    def __init__(
        self,
        api: KubeApi,
        resource: Resource,
        *,
        keep: Callable[[JsonObject, T | None], T],
        namespaces: Collection[str] = (),
        labels: str = "",
        resync: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take what to hold.

        Args:
            api: the API server.
            resource: the kind.
            keep: gives what is held of an object, after what was held of it before; many are kept in a thread.
            namespaces: where; empty: everywhere.
            labels: a label selector, of `key` and `key=value` joined by commas.
            resync: seconds after which everything is listed again.
            clock: gives seconds; never goes back.
        """
        self.objects: dict[PoolKey, T] = {}
        """What is held of the objects, as they were read last."""
        self.moves = 0
        """How often one of them became another, or went: whoever saw them at the same number knows them all."""
        self._versions: dict[PoolKey, _Version] = {}
        self._keep = keep
        self._api = api
        self._resource = resource
        self._scopes: tuple[str | None, ...] = tuple(namespaces) or (Everywhere,)
        self._labels = labels
        self._wanted = dict(part.partition("=")[::2] for part in labels.split(",") if part)
        self._resync = resync
        self._clock = clock
        self._keys: set[PoolKey] = set()
        self._lists: set[str | None] = set(self._scopes)
        self._failed: set[PoolKey] = set()
        self._failed_lists: set[str | None] = set()
        self._unlisted: set[str | None] = set(self._scopes)
        self._refused: set[str | None] = set()
        self._told: set[str | None] = set()
        self._listed_at = clock()
        self._retry, self._retry_at = _FIRST_RETRY, 0.0
        self._why = ""
        self._changed: set[PoolKey] = set()
        self._removed: set[PoolKey] = set()
        self._written: set[PoolKey] = set()
        self._refreshing = asyncio.Lock()

    @property
    def complete(self) -> bool:
        """Whether everything was read at least once, as far as it may be read."""
        return not self._unlisted

    def wake(self, key: PoolKey | None) -> None:
        """Note that an object may have changed; None: any of them."""
        if key is None:
            self._lists.update(self._scopes)
        elif self._scopes[0] is Everywhere or key.namespace in self._scopes:
            self._keys.add(key)

    def put(self, item: JsonObject) -> T:
        """Take an object as the server answered it to a write of ours; return what is held of it."""
        key = _key(item)
        # What is being read now was perhaps asked for before this write; if it is newer, a watch tells of it.
        self._written.add(key)
        self._put(key, item)
        return self.objects[key]

    def due_in(self) -> float:
        """Return the seconds after which a refresh is needed though nothing is woken: to resync, or to try again."""
        if self._keys or self._lists:
            return 0.0
        due = self._listed_at + self._resync
        if self._failed or self._failed_lists:
            due = min(due, self._retry_at)
        return max(0.0, due - self._clock())

    async def refresh(self) -> Changes:
        """Read what was woken, what failed and is to be tried again by now, and everything when a resync is due.

        What fails is tried again by a later refresh, after 1 s at first and 30 s at most; the rest is told meanwhile.

        Raises:
            Unavailable: nothing could be read, or not yet everything once. What was found is told by a later refresh.
        """
        async with self._refreshing:
            scopes, keys = self._take()
            self._written.clear()
            before = len(self._failed) + len(self._failed_lists)
            try:
                read = await asyncio.gather(*(self._list(s) for s in scopes), *(self._get(k) for k in keys))
            except BaseException:
                # It was cut off, as when a leader's term ends: whoever reads next would take it for read.
                self._lists |= scopes
                self._keys |= keys
                raise
            self._do_without_refused()
            waiting = len(self._failed) + len(self._failed_lists)
            if waiting > before:
                self._retry_at = self._clock() + self._retry
                self._retry = min(2 * self._retry, _LONGEST_RETRY)
            elif not waiting:
                self._retry = _FIRST_RETRY
            if waiting and (self._unlisted or not any(read)):
                raise Unavailable(f"{self._resource}: {self._why}")
            changes = Changes(frozenset(self._changed), frozenset(self._removed))
            self._changed, self._removed = set(), set()
            return changes

    def _take(self) -> tuple[set[str | None], set[PoolKey]]:
        scopes, keys = self._lists, self._keys
        self._lists, self._keys = set(), set()
        now = self._clock()
        if now >= self._retry_at:
            scopes, keys = scopes | self._failed_lists, keys | self._failed
            self._failed, self._failed_lists = set(), set()
        if now - self._listed_at >= self._resync or len(keys) > _MANY:
            scopes = set(self._scopes)
        if scopes == set(self._scopes):
            self._listed_at = now
        everywhere = Everywhere in scopes
        # What is woken later than this is read by a later refresh, so that a LIST says nothing that is older.
        return scopes, {key for key in keys if not everywhere and key.namespace not in scopes}

    async def _list(self, scope: str | None) -> bool:
        try:
            items = await self._api.list(self._resource, scope, self._labels)
        except KubeError as error:
            self._failed_lists.add(scope)
            if not error.retryable:
                self._refused.add(scope)
            self._why = error.message
            return False
        self._unlisted.discard(scope)
        self._refused.discard(scope)
        self._told.discard(scope)
        listed = set(map(_key, items))
        kept = await asyncio.to_thread(self._kept, items)
        for key in [k for k in self.objects if k not in listed and scope in (Everywhere, k.namespace)]:
            if not self._overtaken(key, None):
                self._remove(key)
        for key, (version, value) in kept.items():
            if not self._overtaken(key, version):
                self._take_in(key, version, value)
        return True

    def _overtaken(self, key: PoolKey, version: _Version | None) -> bool:
        """Tell whether we wrote an object while it was being read; what says something else is read once more.

        Mostly that was asked for before our write. But somebody may have written, or deleted, it after us, before the
        answer to ours came: the watch has told of that already.
        """
        if key not in self._written:
            return False
        if self._versions.get(key) != version:
            self._keys.add(key)
        return True

    def _kept(self, items: Sequence[JsonObject]) -> dict[PoolKey, tuple[_Version, T]]:
        """Return what is to be held of those that are others than before."""
        return {
            key: (version, self._keep(item, self.objects.get(key)))
            for key, version, item in ((_key(item), _version(item), item) for item in items)
            if self._versions.get(key) != version
        }

    def _do_without_refused(self) -> None:
        """Take what is refused in some namespaces, while others are read, for all that there is to be read."""
        if not set(self._scopes) - self._unlisted - self._refused:
            return
        for scope in self._refused - self._told:
            _log.warning("a namespace cannot be read, the others are", namespace=scope, what=str(self._resource))
            self._told.add(scope)
        self._failed_lists -= self._refused
        self._unlisted -= self._refused

    async def _get(self, key: PoolKey) -> bool:
        try:
            found = await self._api.get(self._resource, key)
        except KubeError as error:
            self._failed.add(key)
            self._why = error.message
            return False
        there = found is not None and self._selects(found)
        if self._overtaken(key, _version(found) if found is not None and there else None):
            return True
        if found is None or not there:
            self._remove(key)
        else:
            self._put(key, found)
        return True

    def _selects(self, item: JsonObject) -> bool:
        labels = item["metadata"].get("labels", {})
        return all(key in labels and value in ("", labels[key]) for key, value in self._wanted.items())

    def _put(self, key: PoolKey, item: JsonObject) -> None:
        version = _version(item)
        if self._versions.get(key) != version:
            self._take_in(key, version, self._keep(item, self.objects.get(key)))

    def _take_in(self, key: PoolKey, version: _Version, value: T) -> None:
        self.objects[key], self._versions[key] = value, version
        self.moves += 1
        self._changed.add(key)
        self._removed.discard(key)

    def _remove(self, key: PoolKey) -> None:
        self._versions.pop(key, None)
        if self.objects.pop(key, None) is not None:
            self.moves += 1
            self._removed.add(key)
            self._changed.discard(key)


_Version = tuple[str, str]
"""An object's uid and resourceVersion."""


def whole(item: JsonObject, _before: JsonObject | None) -> JsonObject:
    """Keep an object as it is."""
    return item


def _key(item: JsonObject) -> PoolKey:
    metadata: Mapping[str, str] = item["metadata"]
    return PoolKey(metadata["namespace"], metadata["name"])


def _version(item: JsonObject) -> _Version:
    metadata: Mapping[str, str] = item["metadata"]
    return metadata["uid"], metadata["resourceVersion"]

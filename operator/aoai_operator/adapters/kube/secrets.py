"""The entries of Secrets that are wanted, read one Secret at a time by name: no list, no watch."""

from __future__ import annotations

import asyncio
import base64
import binascii
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping

import structlog

from aoai_operator.adapters.kube.resources import SECRETS
from aoai_operator.core.credentials import cleaned
from aoai_operator.core.differing import differing
from aoai_operator.core.names import PoolKey, SecretRef
from aoai_operator.core.secret import SecretValue
from aoai_operator.ports import JsonObject, KubeApi, KubeError

_log = structlog.get_logger("secrets")

_AT_ONCE = 8
_EARLY = 0.2
"""Largest part of the interval by which a reading is early, so that they spread."""
_RATE = 10.0
"""Most Secrets a second that are read again; with more than 10 * interval of them, the interval is longer."""
_RETRY, _RETRY_RATE = 1.0, 50.0
"""Seconds until one that could not be read is tried again, and most of them a second."""
_TOGETHER = 0.2
_PATIENCE = 10.0
"""Seconds for which one Secret may fail, while others are answered, until it counts as one that cannot be read."""
_NOT_PRINTABLE = "\ufffd"


class SecretReader:
    """Keeps the wanted entries of Secrets, each Secret read again after `interval` seconds, or at 10 of them a second.

    Of other entries of the same Secrets only the names are kept, with empty values: they help to say what is wrong.
    A Secret that is gone has no entries; one that cannot be read keeps those that it had.
    """

    def __init__(
        self,
        api: KubeApi,
        *,
        interval: float = 30.0,
        changed: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the API server, seconds until a Secret is read again, and a clock.

        `changed` hears that a value is another one, or that the API server has answered for a Secret the first time.
        """
        self._api = api
        self._interval = interval
        self._changed = changed
        self._clock = clock
        self._wanted: dict[str, Mapping[PoolKey, Collection[SecretRef]]] = {}
        self._all: Counter[SecretRef] = Counter()
        self._entries: dict[PoolKey, dict[SecretRef, SecretValue]] = {}
        self._due: dict[PoolKey, float] = {}
        self._tried: set[PoolKey] = set()
        self._failing: dict[PoolKey, float] = {}
        self._answered_at = clock()
        self._woken = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()
        self._values: Mapping[SecretRef, SecretValue] | None = {}

    @property
    def values(self) -> Mapping[SecretRef, SecretValue]:
        """What is known now; another mapping after each change."""
        # Put together when it is asked for: at a start a thousand Secrets change before anybody does.
        if self._values is None:
            self._values = {ref: value for entries in self._entries.values() for ref, value in entries.items()}
        return self._values

    def want(self, who: str, refs: Mapping[PoolKey, Collection[SecretRef]]) -> None:
        """Take all entries that somebody wants from now on, by the objects that refer to them.

        Who wants them is only told apart by name. Only objects with other references than before are looked at.
        """
        before, self._wanted[who] = self._wanted.get(who, {}), refs
        left, come = self._counted(before, refs)
        if not (left or come):
            return
        if left:
            self._leave(left)
        now = self._clock()
        for ref in come:
            key = _name(ref)
            if ref in self._entries.get(key, ()):
                # An entry of which only the name was kept is not there until it is read.
                self._replace(key, {r: v for r, v in self._entries[key].items() if r != ref})
            self._due[key] = now
            self._tried.discard(key)
        self._wake()

    def refresh(self, names: Iterable[PoolKey] | None = None) -> None:
        """Read some Secrets again at once, those of them that are wanted; None: all."""
        for key in self._due.keys() if names is None else self._due.keys() & set(names):
            self._due[key] = self._clock()
        self._wake()

    def unread(self, refs: Iterable[SecretRef]) -> bool:
        """Tell whether the API server has not said yet what is in the Secrets of some entries.

        It has when a Secret was found, is not there, or may not be read. No answer, and an error that is said to pass,
        say nothing; one Secret that goes on to fail while others are answered counts as one that cannot be read.
        """
        return any(_name(ref) not in self._tried for ref in refs)

    async def settled(self) -> None:
        """Wait until no wanted entry is `unread`."""
        await self._settled.wait()

    async def run(self) -> None:
        """Read until cancelled."""
        limit = asyncio.Semaphore(_AT_ONCE)
        while True:
            self._woken.clear()
            now = self._clock()
            due = [key for key, at in self._due.items() if at <= now]
            if due:
                await asyncio.gather(*(self._read(key, limit) for key in due))
                self._look_settled()
                continue
            # Secrets that are due soon after each other are read together: each look goes through all of them.
            wait = max(min(self._due.values(), default=now + self._interval) - now, min(_TOGETHER, self._interval / 20))
            try:
                async with asyncio.timeout(wait):
                    await self._woken.wait()
            except TimeoutError:
                continue

    def _counted(
        self, before: Mapping[PoolKey, Collection[SecretRef]], after: Mapping[PoolKey, Collection[SecretRef]]
    ) -> tuple[set[SecretRef], set[SecretRef]]:
        """Count who wants an entry; return those that nobody wants any more, and those that nobody wanted before."""
        more, less = Counter[SecretRef](), Counter[SecretRef]()
        for key in differing(before, after):
            more.update(after.get(key, ()))
            less.update(before.get(key, ()))
        left, come = set(), set()
        for ref in more.keys() | less.keys():
            had = self._all[ref]
            self._all[ref] += more[ref] - less[ref]
            if not self._all[ref]:
                del self._all[ref]
                left.add(ref)
            elif not had:
                come.add(ref)
        return left, come

    def _leave(self, refs: set[SecretRef]) -> None:
        """Forget entries that nobody wants any more, and Secrets of which nobody wants any."""
        wanted = set(map(_name, self._all))
        for key in set(map(_name, refs)):
            if key in wanted:
                known = self._entries.get(key, {})
                self._replace(key, {r: SecretValue("") if r in refs else v for r, v in known.items()})
                continue
            self._replace(key, {})
            del self._due[key]
            self._tried.discard(key)
            self._failing.pop(key, None)

    def _wake(self) -> None:
        self._look_settled()
        self._woken.set()

    def _look_settled(self) -> None:
        if self._due.keys() <= self._tried:
            self._settled.set()
        else:
            self._settled.clear()

    async def _read(self, key: PoolKey, limit: asyncio.Semaphore) -> None:
        async with limit:
            if key not in self._due:
                return
            # Whoever asks while it is being read has it read once more.
            # The first time after anything up to the interval: what begins together does not stay together.
            least = 1 - _EARLY if key in self._tried else 0.0
            interval = max(self._interval, len(self._due) / _RATE)
            at = self._due[key] = self._clock() + interval * random.uniform(least, 1)  # noqa: S311
            try:
                found = await self._api.get(SECRETS, key)
            except KubeError as error:
                self._failed(key, at, error)
            else:
                self._take(key, at, found)

    def _failed(self, key: PoolKey, at: float, error: KubeError) -> None:
        if key not in self._due:
            return
        if key not in self._failing:
            _log.warning("a Secret cannot be read, what was read last stays in use", secret=str(key), why=error.message)
        since = self._failing.setdefault(key, self._clock())
        if self._due[key] == at and error.retryable:
            self._due[key] = self._clock() + max(min(_RETRY, self._interval), len(self._failing) / _RETRY_RATE)
        if (not error.retryable or self._answered_at - since > _PATIENCE) and key not in self._tried:
            self._tried.add(key)
            self._changed()

    def _take(self, key: PoolKey, at: float, found: JsonObject | None) -> None:
        self._answered_at = self._clock()
        if key not in self._due:
            return
        self._failing.pop(key, None)
        data: Mapping[str, str] = (found or {}).get("data") or {}
        entries = {
            ref: _decoded(text) if ref in self._all else SecretValue("")
            for name, text in data.items()
            for ref in [SecretRef(key.namespace, key.name, name)]
        }
        # One that was wanted anew, or asked for, while it was being read is read once more.
        first = key not in self._tried and self._due[key] == at
        if first:
            self._tried.add(key)
        if first or self._entries.get(key, {}) != entries:
            self._replace(key, entries)
            self._changed()

    def _replace(self, key: PoolKey, entries: dict[SecretRef, SecretValue]) -> None:
        """Take the entries of one Secret."""
        before = self._entries.pop(key, {})
        if entries:
            self._entries[key] = entries
        if before != entries:
            self._values = None


def _name(ref: SecretRef) -> PoolKey:
    return PoolKey(ref.namespace, ref.name)


def _decoded(text: str) -> SecretValue:
    """Return an entry as text. What is none holds characters that no key may have, and is refused for that."""
    try:
        return cleaned(base64.b64decode(text).decode("utf-8", errors="replace"))
    except (binascii.Error, ValueError):
        return SecretValue(_NOT_PRINTABLE)

"""Does one job again and again for each of many keys, jittered, a bounded number at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from itertools import count
from typing import Generic, TypeVar

import structlog

_log = structlog.get_logger("schedule")

K = TypeVar("K", bound=Hashable)
P = TypeVar("P")

SOONEST_MS = 1_000
JITTER = 0.1


@dataclass(frozen=True, slots=True)
class Plan(Generic[P]):
    """What to do for a key, and how often, in milliseconds."""

    interval_ms: int
    what: P


@dataclass(slots=True)
class _Entry(Generic[P]):
    plan: Plan[P]
    due: int
    started: int | None = None
    task: asyncio.Task[None] | None = None


class Schedule(Generic[K, P]):
    """Runs `job(key, what)` for each key: at once, then every interval, 10 % earlier or later by chance."""

    def __init__(
        self,
        job: Callable[[K, P], Awaitable[None]],
        *,
        now: Callable[[], int],
        concurrency: int,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Take the job, a clock in milliseconds, how many jobs may run at once, and a chance in [0, 1)."""
        self._job = job
        self._now = now
        self._concurrency = concurrency
        self._chance = chance
        self._entries: dict[K, _Entry[P]] = {}
        self._queue: list[tuple[int, int, K, _Entry[P]]] = []
        """A heap by due time. What runs, was dropped or is due at another time now stays in it, and is passed over."""
        self._count = count()
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()

    def put(self, key: K, plan: Plan[P]) -> None:
        """Take the plan of a key; where it did not change, the key keeps its time."""
        entry = self._entries.get(key)
        if entry is None or entry.plan != plan:
            self.drop(key)
            entry = self._entries[key] = _Entry(plan, self._now())
            self._push(key, entry)
        self._wake.set()

    def drop(self, key: K) -> None:
        """Forget a key, and give up its job that is under way; unknown keys are ignored."""
        entry = self._entries.pop(key, None)
        if entry is not None and entry.task is not None:
            entry.task.cancel()

    def soon(self, key: K) -> None:
        """Do the job of a key early, but not within a second of its last start; unknown keys are ignored."""
        entry = self._entries.get(key)
        if entry is None or entry.started is None:
            return
        due = max(self._now(), entry.started + SOONEST_MS)
        if due < entry.due:
            entry.due = due
            self._push(key, entry)

    async def run(self) -> None:
        """Run until cancelled; then every job has ended."""
        try:
            while True:
                self._wake.clear()
                self._start_due()
                await self._next()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start_due(self) -> None:
        now = self._now()
        while len(self._tasks) < self._concurrency and (due := self._next_due()) is not None and due <= now:
            _, _, key, entry = heappop(self._queue)
            entry.started = now
            entry.due = now + round(entry.plan.interval_ms * (1 - JITTER + 2 * JITTER * self._chance()))
            entry.task = asyncio.create_task(self._do(key, entry.plan.what))
            self._tasks.add(entry.task)
            entry.task.add_done_callback(partial(self._done, key, entry))

    def _push(self, key: K, entry: _Entry[P]) -> None:
        if entry.task is None:
            heappush(self._queue, (entry.due, next(self._count), key, entry))
            self._wake.set()

    def _next_due(self) -> int | None:
        """Return when the first of those that wait is due."""
        while self._queue:
            due, _, key, entry = self._queue[0]
            if self._entries.get(key) is entry and entry.task is None and entry.due == due:
                return due
            heappop(self._queue)
        return None

    def _done(self, key: K, entry: _Entry[P], task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        entry.task = None
        self._push(key, entry)

    async def _do(self, key: K, what: P) -> None:
        try:
            await self._job(key, what)
        except Exception:  # noqa: BLE001 - one faulty job must not end the others
            _log.exception("a job failed, it will be done again", key=str(key))

    async def _next(self) -> None:
        # Where all places are taken, the end of a job wakes us.
        free = len(self._tasks) < self._concurrency
        due = self._next_due() if free else None
        try:
            async with asyncio.timeout(None if due is None else max(0, due - self._now()) / 1000):
                await self._wake.wait()
        except TimeoutError:
            return

"""Does one job again and again for each of many keys, jittered, a bounded number at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass
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
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()

    def follow(self, plans: Mapping[K, Plan[P]]) -> None:
        """Take the plans that hold now; a key whose plan did not change keeps its time."""
        for key in [k for k, entry in self._entries.items() if plans.get(k) != entry.plan]:
            task = self._entries.pop(key).task
            if task is not None:
                task.cancel()
        for key, plan in plans.items():
            if key not in self._entries:
                self._entries[key] = _Entry(plan, self._now())
        self._wake.set()

    def soon(self, key: K) -> None:
        """Do the job of a key early, but not within a second of its last start; unknown keys are ignored."""
        entry = self._entries.get(key)
        if entry is not None and entry.started is not None:
            entry.due = min(entry.due, max(self._now(), entry.started + SOONEST_MS))
            self._wake.set()

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
        due = sorted(
            (e.due, n, k, e) for n, (k, e) in enumerate(self._entries.items()) if self._ready(e) and e.due <= now
        )
        for _, _, key, entry in due[: max(0, self._concurrency - len(self._tasks))]:
            entry.started = now
            entry.due = now + round(entry.plan.interval_ms * (1 - JITTER + 2 * JITTER * self._chance()))
            entry.task = asyncio.create_task(self._do(key, entry.plan.what))
            self._tasks.add(entry.task)
            entry.task.add_done_callback(self._done)

    def _ready(self, entry: _Entry[P]) -> bool:
        return entry.task is None or entry.task.done()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._wake.set()

    async def _do(self, key: K, what: P) -> None:
        try:
            await self._job(key, what)
        except Exception:  # noqa: BLE001 - one faulty job must not end the others
            _log.exception("a job failed, it will be done again", key=str(key))

    async def _next(self) -> None:
        # Where all places are taken, the end of a job wakes us.
        free = len(self._tasks) < self._concurrency
        due = min((e.due for e in self._entries.values() if self._ready(e)), default=None) if free else None
        try:
            async with asyncio.timeout(None if due is None else max(0, due - self._now()) / 1000):
                await self._wake.wait()
        except TimeoutError:
            return

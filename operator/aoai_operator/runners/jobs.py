"""Jobs by name, a few at once, the most urgent first. What failed is done again later, and holds up nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping

import structlog

_log = structlog.get_logger("jobs")

Job = Callable[[], Awaitable[bool]]
"""Does one thing; tells whether it is done, or will never be."""


class Jobs:
    """Does what there is to do, again and again. There is one job of a name at a time."""

    def __init__(
        self,
        look: Callable[[], Iterable[tuple[Hashable, Job]]],
        *,
        at_once: int,
        pause: float,
        retry: float,
        longest_retry: float,
        waiting: Callable[[int], None],
    ) -> None:
        """Take the work.

        Args:
            look: gives all there is to do now, the most urgent first.
            at_once: how many jobs run at once.
            pause: seconds between two looks: what comes meanwhile is done once.
            retry, longest_retry: seconds until what failed is done again, at first and at most.
            waiting: hears how many jobs there are to do, those that failed with them.
        """
        self._look = look
        self._limit = asyncio.Semaphore(at_once)
        self._pause = pause
        self._first_retry, self._longest_retry = retry, longest_retry
        self._waiting = waiting
        self._woken = asyncio.Event()
        self._running: set[Hashable] = set()
        self._again: set[Hashable] = set()
        self._left: set[Hashable] = set()
        self._odd = ""
        self._failed: dict[Hashable, tuple[float, float]] = {}

    def wake(self) -> None:
        """Look again soon."""
        self._woken.set()

    def wake_in(self, seconds: float) -> None:
        """Look again after some time."""
        asyncio.get_running_loop().call_later(seconds, self._woken.set)

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._woken.wait()
                self._woken.clear()
                await self._start(tasks)
                await asyncio.sleep(self._pause)

    async def _start(self, tasks: asyncio.TaskGroup) -> None:
        found = self._found()
        self._failed = {name: failed for name, failed in self._failed.items() if name in found}
        self._left = set(found)
        self._waiting(len(found))
        now = asyncio.get_running_loop().time()
        for name, job in found.items():
            if name in self._running:
                self._again.add(name)
            elif self._failed.get(name, (0.0, 0.0))[0] <= now:
                await self._limit.acquire()
                if self._woken.is_set():
                    # Something else may be more urgent now.
                    self._limit.release()
                    return
                self._running.add(name)
                tasks.create_task(self._do(name, job))

    def _found(self) -> Mapping[Hashable, Job]:
        try:
            found = dict(self._look())
        except Exception as error:  # noqa: BLE001 - one odd thing must not end what does all others
            if repr(error) != self._odd:
                _log.exception("what there is to do cannot be worked out, it is tried again")
            self._odd = repr(error)
            self.wake_in(self._longest_retry)
            return {}
        self._odd = ""
        return found

    async def _do(self, name: Hashable, job: Job) -> None:
        try:
            done = await job()
        finally:
            self._running.discard(name)
            self._limit.release()
        if done:
            self._failed.pop(name, None)
            self._left.discard(name)
            self._waiting(len(self._left))
        else:
            pause = min(2 * self._failed.get(name, (0.0, self._first_retry / 2))[1], self._longest_retry)
            self._failed[name] = asyncio.get_running_loop().time() + pause, pause
            self.wake_in(pause)
        if name in self._again:
            self._again.discard(name)
            self._woken.set()

"""The level-triggered loop: wake, hold off, load the world, compile, hand on. Never two passes at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

import structlog

from aoai_operator.core.compiler import Compiled, Compiler
from aoai_operator.core.names import PoolKey
from aoai_operator.core.observed import Overrides
from aoai_operator.core.world import Programming, World

_log = structlog.get_logger("reconcile")


class Reconciler:
    """Turns resources into tables and statuses, whenever either they or the observations changed.

    Resources that cannot be loaded stay as they were read last, and are tried again after a second.
    """

    def __init__(
        self,
        *,
        load: Callable[[], Awaitable[World]],
        observe: Callable[[int], Overrides],
        programming: Callable[[], Mapping[PoolKey, Sequence[Programming]]],
        deliver: Callable[[World, Compiled], None],
        now: Callable[[], int],
        hold_off: float,
        hold_off_max: float,
        retry_after: float = 1.0,
    ) -> None:
        """Take the ways in and out.

        Args:
            load: reads the resources and secrets, and what the tables and statuses were before the first pass.
            observe: gives what was observed of the hosts, as of a time.
            programming: gives how far the Envoys are.
            deliver: takes each outcome, with the world that it was made of.
            now: gives milliseconds of the Unix epoch.
            hold_off: seconds of quiet to wait for after a wake.
            hold_off_max: seconds that an unquiet time can put a pass off.
            retry_after: seconds after which what could not be read is tried again.
        """
        self._load = load
        self._observe = observe
        self._programming = programming
        self._deliver = deliver
        self._now = now
        self._hold_off = hold_off
        self._hold_off_max = hold_off_max
        self._retry_after = retry_after
        self._woken = asyncio.Event()
        self._wanted, self._read = 1, 0
        self._odd = ""
        self._again: asyncio.TimerHandle | None = None
        self._resources = World()
        self._last: Compiled | None = None
        self._compile = Compiler()
        self._passing = asyncio.Lock()

    def resources_changed(self) -> None:
        """Read the resources again soon."""
        self._wanted += 1
        self._woken.set()

    def observations_changed(self) -> None:
        """Work the statuses out again soon, from the resources as they were read last."""
        self._woken.set()

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            await self._woken.wait()
            await self._quiet()
            self._woken.clear()
            await self.reconcile()

    async def reconcile(self) -> None:
        """Make one pass now, after the one that is under way."""
        async with self._passing:
            await self._reconcile()

    async def _reconcile(self) -> None:
        try:
            world = await self._world()
            compiled = await asyncio.to_thread(self._compile, world)
            self._last = compiled
            self._deliver(world, compiled)
        except Exception as error:  # noqa: BLE001 - the last good tables must outlive whatever goes wrong here
            self._say(error, "the resources cannot be read or compiled, the last good state keeps serving")
            # It may have been cut off in the midst of what it remembers.
            self._compile = Compiler()
            self._try_again()
        else:
            if self._read == self._wanted:
                self._odd = ""

    def _say(self, error: Exception, event: str) -> None:
        """Log an error: where it happened only when it is another one than the last, since it is tried again soon."""
        if self._odd != repr(error):
            _log.error(event, exc_info=error)
        self._odd = repr(error)

    def _try_again(self) -> None:
        if self._again is not None:
            self._again.cancel()
        self._again = asyncio.get_running_loop().call_later(self._retry_after, self._woken.set)

    async def _world(self) -> World:
        wanted = self._wanted
        if self._read != wanted:
            try:
                self._resources = await self._load()
                self._read = wanted
            except Exception as error:
                self._try_again()
                if not self._read:
                    raise
                self._say(error, "the resources cannot be read, what was read last keeps serving")
        now = self._now()
        last = self._last
        return replace(
            self._resources,
            last_good=last.tables if last else self._resources.last_good,
            overrides=self._observe(now),
            programming=self._programming(),
            pool_statuses=last.pool_statuses if last else self._resources.pool_statuses,
            quota_statuses=last.quota_statuses if last else self._resources.quota_statuses,
            now=now,
        )

    async def _quiet(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._hold_off_max
        while self._woken.is_set() and (left := deadline - loop.time()) > 0:
            self._woken.clear()
            try:
                # Not wait_for: in Python 3.11 a cancellation is lost in it when what it waits for comes just then.
                async with asyncio.timeout(min(self._hold_off, left)):
                    await self._woken.wait()
            except TimeoutError:
                return

"""The level-triggered loop: wake, hold off, load the world, compile, hand on. Never two passes at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace

import structlog

from aoai_operator.core.compiler import Compiled, compile_world
from aoai_operator.core.names import PoolKey
from aoai_operator.core.observed import Overrides
from aoai_operator.core.world import Programming, World

_log = structlog.get_logger("reconcile")


class Reconciler:
    """Turns resources into tables and statuses, whenever either they or the observations changed.

    A world that cannot be loaded leaves everything as it was.
    """

    def __init__(
        self,
        *,
        load: Callable[[], World],
        observe: Callable[[int], Overrides],
        programming: Callable[[], Mapping[PoolKey, Programming]],
        deliver: Callable[[World, Compiled], None],
        now: Callable[[], int],
        hold_off: float,
        hold_off_max: float,
    ) -> None:
        """Take the ways in and out.

        Args:
            load: reads the resources and secrets; runs in a thread.
            observe: gives what was observed of the hosts, as of a time.
            programming: gives how far the Envoys are.
            deliver: takes each outcome, with the world that it was made of.
            now: gives milliseconds of the Unix epoch.
            hold_off: seconds of quiet to wait for after a wake.
            hold_off_max: seconds that an unquiet time can put a pass off.
        """
        self._load = load
        self._observe = observe
        self._programming = programming
        self._deliver = deliver
        self._now = now
        self._hold_off = hold_off
        self._hold_off_max = hold_off_max
        self._woken = asyncio.Event()
        self._reload = True
        self._resources = World()
        self._last: Compiled | None = None
        self._passing = asyncio.Lock()

    def resources_changed(self) -> None:
        """Read the resources again soon."""
        self._reload = True
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
            compiled = compile_world(world)
        except Exception:  # noqa: BLE001 - the last good tables must outlive whatever goes wrong here
            _log.exception("the resources cannot be read or compiled, the last good state keeps serving")
            return
        self._last = compiled
        self._deliver(world, compiled)

    async def _world(self) -> World:
        if self._reload:
            self._reload = False
            self._resources = await asyncio.to_thread(self._load)
        now = self._now()
        last = self._last
        return replace(
            self._resources,
            last_good=last.tables if last else {},
            overrides=self._observe(now),
            programming=self._programming(),
            pool_statuses=last.pool_statuses if last else {},
            quota_statuses=last.quota_statuses if last else {},
            now=now,
        )

    async def _quiet(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._hold_off_max
        while self._woken.is_set() and (left := deadline - loop.time()) > 0:
            self._woken.clear()
            try:
                await asyncio.wait_for(self._woken.wait(), min(self._hold_off, left))
            except TimeoutError:
                return

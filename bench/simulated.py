"""Simulated Azure OpenAI regions that count tokens and break on demand, in a thread of their own.

They are Python, so nothing is timed against them: they serve where the question is what is served, not how fast.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from aoai_operator.simulator.faults import Fault
from aoai_operator.simulator.model import Deployment
from aoai_operator.simulator.model import Region as SimulatedRegion
from aoai_operator.simulator.simulator import Simulator
from bench import payloads
from bench.chain import REGION_KEY
from bench.machine import free_port
from bench.site import UNEQUAL, Region, Site


@dataclass(frozen=True, slots=True)
class Simulation:
    """Running regions. `origin` is when, on the monotonic clock, their first minute began."""

    regions: tuple[Region, ...]
    origin: float
    minute: float
    _simulator: Simulator
    _loop: asyncio.AbstractEventLoop

    def inject(self, region: str, fault: Fault) -> None:
        """Break a region; in force on return."""
        self._call(lambda: self._simulator.fault(region, fault))

    def heal(self, region: str) -> None:
        """Mend a region; in force on return."""
        self._call(lambda: self._simulator.heal(region))

    @property
    def admitted_tokens(self) -> int:
        """Tokens that the limits of all regions admitted so far."""
        return sum(region.counts.admitted_tokens for region in self._simulator.regions.values())

    @property
    def throttled(self) -> int:
        """Attempts that any region answered with 429 so far."""
        return sum(region.counts.throttled for region in self._simulator.regions.values())

    def await_minute(self, *, offset: float = 0.0) -> None:
        """Sleep until `offset` seconds into the next simulated minute."""
        elapsed = time.monotonic() - self.origin
        time.sleep(self.minute - elapsed % self.minute + offset)

    def _call(self, work: Callable[[], None]) -> None:
        async def in_the_loop() -> None:
            work()

        asyncio.run_coroutine_threadsafe(in_the_loop(), self._loop).result(10)


@contextmanager
def simulated(site: Site, *, minute: float = 60.0, limited: bool = True) -> Iterator[Simulation]:
    """Run the three unequal regions; `limited` says whether their tokens a minute bind."""
    loop = asyncio.new_event_loop()

    def serve() -> None:
        os.sched_setaffinity(0, {site.cores.load})
        loop.run_forever()

    thread = threading.Thread(target=serve, name="simulated regions")
    thread.start()
    regions = tuple(Region(name, free_port(), tpm) for name, tpm in UNEQUAL)
    origin = time.monotonic()
    simulator = Simulator(_settings(region, minute, limited=limited) for region in regions)
    try:
        asyncio.run_coroutine_threadsafe(simulator.__aenter__(), loop).result(10)
        yield Simulation(regions, origin, minute, simulator, loop)
    finally:
        asyncio.run_coroutine_threadsafe(simulator.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _settings(region: Region, minute: float, *, limited: bool) -> SimulatedRegion:
    """Give a region that takes the client's key too: bare Envoy, which is compared, passes it on."""
    limit = region.tokens_per_minute if limited else None
    deployment = Deployment(name=region.deployment, model=payloads.MODEL, tokens_per_minute=limit)
    return SimulatedRegion(
        name=region.name,
        deployments=(deployment,),
        keys=(REGION_KEY, payloads.CLIENT_KEY),
        port=region.port,
        minute_seconds=minute,
        log_size=1,
    )

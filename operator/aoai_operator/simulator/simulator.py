"""Several simulated regions in one event loop: the thing that tests embed and the command line runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

from aoai_operator.simulator.accounting import Counts, RequestLog
from aoai_operator.simulator.edge import RegionServer
from aoai_operator.simulator.entra import EntraState
from aoai_operator.simulator.faults import Fault
from aoai_operator.simulator.model import Deployment, Region
from aoai_operator.simulator.region import DeploymentState, RegionState


class RunningRegion:
    """A region of a simulator: its address, what it saw, and what can be changed while it runs."""

    def __init__(self, settings: Region, clock: Callable[[], float]) -> None:
        self.state = RegionState(settings, clock())
        self.server = RegionServer(self.state, clock)

    @property
    def name(self) -> str:
        """The region's name."""
        return self.state.settings.name

    @property
    def url(self) -> str:
        """Its address, ``http://127.0.0.1:PORT``; stays the same while it is down."""
        return self.server.url

    @property
    def key(self) -> str:
        """The first of the keys that open it."""
        return self.state.keys[0] if self.state.keys else ""

    @property
    def counts(self) -> Counts:
        """Totals of the region."""
        return self.state.counts

    @property
    def attempts(self) -> int:
        """Requests that arrived."""
        return self.state.counts.attempts

    @property
    def served(self) -> int:
        """Answers with a 2xx status that were written to their end."""
        return self.state.counts.served

    @property
    def throttled(self) -> int:
        """Answers with status 429."""
        return self.state.counts.throttled

    @property
    def log(self) -> RequestLog:
        """The last requests, oldest first."""
        return self.state.log

    @property
    def deployments(self) -> dict[str, DeploymentState]:
        """The deployments by name, each with its ``counts``."""
        return self.state.deployments

    @property
    def faults(self) -> tuple[Fault, ...]:
        """The faults at work."""
        return tuple(active.fault for active in self.state.faults)

    def set_keys(self, *keys: str) -> None:
        """Rotate: only these keys open the region from now on."""
        self.state.keys = keys

    def deploy(self, deployment: Deployment) -> None:
        """Add or replace a deployment."""
        self.state.deploy(deployment)

    def undeploy(self, name: str) -> None:
        """Remove a deployment. Raises KeyError when there is none of that name."""
        self.state.undeploy(name)

    def adjust(self, deployment: str, **changes: Any) -> None:
        """Change settings of a deployment: ``tokens_per_minute=10_000`` is Azure's temporary rate-limit adjustment."""
        self.state.adjust(deployment, changes)


class Simulator:
    """Simulated regions, started by ``async with``.

    ``clock`` gives the seconds by which limits are counted (monotonic); latencies and faults wait in real time.
    """

    def __init__(
        self,
        regions: Iterable[Region],
        *,
        clock: Callable[[], float] = time.monotonic,
        entra: EntraState | None = None,
    ) -> None:
        """Take the regions, and the directory whose tokens open them besides their keys."""
        self.regions: dict[str, RunningRegion] = {}
        for settings in regions:
            if settings.name in self.regions:
                raise ValueError(f"two regions are called {settings.name!r}")
            self.regions[settings.name] = RunningRegion(settings, clock)
            self.regions[settings.name].state.entra = entra

    async def __aenter__(self) -> Self:
        """Start every region, or none."""
        try:
            for region in self.regions.values():
                region.server.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Stop every region and drop its connections."""
        for region in self.regions.values():
            await region.server.stop()

    def fault(self, region: str, fault: Fault) -> None:
        """Inject a fault; in force when this returns. Raises KeyError for an unknown region."""
        running = self.regions[region]
        running.state.inject(fault)
        running.server.apply_faults()

    def heal(self, region: str, *, kind: str | None = None, deployment: str | None = None) -> None:
        """Remove the faults of a region, of this kind and this deployment (None: any); in force when this returns."""
        running = self.regions[region]
        running.state.heal(kind=kind, deployment=deployment)
        running.server.apply_faults()

    def reset_counts(self) -> None:
        """Start all counts and logs afresh."""
        for region in self.regions.values():
            region.state.reset_counts()

"""The phases of the demo: what is broken when, and what is waited for. Nothing is timed but the shortest lengths."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from aoai_operator.demo.facts import Phase, Storm
from aoai_operator.demo.gateway import Gateway
from aoai_operator.demo.load import Load
from aoai_operator.demo.screen import Moment, Row, View
from aoai_operator.demo.site import BIGGEST, CAPACITY, MINUTE_SECONDS, PLANS, THROTTLED
from aoai_operator.simulator import Down, Simulator, Throttle

CALM = 0.25
"""Share of the capacity that is asked for, so that what is left without the biggest region suffices."""
RUSH = 0.85
"""Share of the capacity that is asked for in the rush."""
RATE = 25.0
"""Calls a second."""
RETRY_AFTER_MS = 3000

_CHAT_CALLS = 4 / 5
_TICK = 0.2
_PATIENCE = 10.0
"""Seconds that a phase goes on, when what it waits for has not come about."""


@dataclass(frozen=True, slots=True)
class _Counts:
    at: float
    answered: int
    failed: int
    served: dict[str, int]
    refused: dict[str, int]
    admitted: dict[str, int]


class Story:
    """Tells the story once, and keeps what was measured."""

    def __init__(self, simulator: Simulator, gateway: Gateway, load: Load, view: View, *, seconds: float) -> None:
        """Take the actors; `seconds` is the sum of the phases' shortest lengths."""
        self._simulator = simulator
        self._gateway = gateway
        self._load = load
        self._view = view
        self._unit = seconds / 32
        self._started = time.monotonic()
        self.phases: dict[str, Phase] = {}
        self._storm_from = 0.0

    async def tell(self) -> None:
        """Go through the phases.

        Raises:
            GatewayError: the gateway ended by itself.
        """
        before = self._begin("warm-up", "three unequal regions, one address", CALM)
        await self._until(5, before, lambda: all(self._served_since(before).values()))

        before = self._begin("rush", f"clients ask for {RUSH:.0%} of all that the regions have", RUSH)
        await self._until(7, before, lambda: True)

        before = self._begin("throttled", f"{THROTTLED} answers 429, retry after {RETRY_AFTER_MS / 1000:g} s", CALM)
        await self._throttle(before)

        self._load.phase, self._load.max_tokens = "killed", _size(CALM)
        await self._kill()
        before = self._begin("killed", f"{BIGGEST} refuses connections", CALM)
        await self._until(7, before, lambda: self._is(BIGGEST, "Unhealthy"))

        self._simulator.heal(BIGGEST)
        before = self._begin("restored", f"{BIGGEST} is back", CALM)
        await self._until(6, before, lambda: all(self._served_since(before).values()))

    def storm(self) -> Storm:
        """Return the throttled region's view of its storm."""
        arrivals: dict[str, list[float]] = {}
        for record in self._simulator.regions[THROTTLED].log:
            if record.status == 429 and record.at >= self._storm_from:
                arrivals.setdefault(record.deployment, []).append(record.at)
        return Storm(THROTTLED, RETRY_AFTER_MS / 1000, arrivals)

    def moment(self) -> Moment:
        """Return what there is to show now."""
        now = self._count()
        total = sum(now.served.values())
        rows = tuple(
            Row(
                region=plan.name,
                tokens_per_minute=plan.tokens_per_minute,
                deployment=plan.chat_deployment,
                state=self._gateway.states.get((plan.name, plan.chat_deployment), "Unknown"),
                served=now.served[plan.name],
                share=now.served[plan.name] / total if total else 0.0,
                tokens=now.admitted[plan.name],
                refused=now.refused[plan.name],
            )
            for plan in PLANS
        )
        return Moment(
            seconds=now.at - self._started,
            rows=rows,
            answered=now.answered,
            failed=now.failed,
            in_flight=self._load.in_flight,
        )

    async def _throttle(self, before: _Counts) -> None:
        self._storm_from = time.monotonic()
        self._simulator.fault(THROTTLED, Throttle(retry_after_ms=RETRY_AFTER_MS))
        # The length counts to the end of the storm; then it takes until the last Retry-After is over.
        await self._wait(7, self._storm_was_seen)
        self._simulator.heal(THROTTLED)
        self._view.event(f"{THROTTLED} would serve again, when its last Retry-After is over")
        known = await self._wait(0, lambda: self._is(THROTTLED, "Healthy"))
        self._end(before, came_about=known and self._storm_was_seen())

    def _storm_was_seen(self) -> bool:
        return (THROTTLED, "Throttled") in self._gateway.told

    async def _kill(self) -> None:
        """Kill the region at a moment when no stream is half-way: nobody could save that one (docs/architecture.md)."""
        self._load.hold_streams = True
        try:
            await self._wait(0, lambda: self._load.streams_open == 0)
            self._simulator.fault(BIGGEST, Down())
        finally:
            self._load.hold_streams = False

    def _is(self, region: str, state: str) -> bool:
        return all(self._gateway.states.get(host) == state for host in self._hosts(region))

    def _hosts(self, region: str) -> list[tuple[str, str]]:
        return [(region, deployment) for deployment in self._simulator.regions[region].deployments]

    def _served_since(self, before: _Counts) -> dict[str, int]:
        return _difference(self._count().served, before.served)

    def _begin(self, name: str, title: str, share: float) -> _Counts:
        self._load.phase, self._load.max_tokens, self._load.peak_in_flight = name, _size(share), 0
        self._view.phase(name, title)
        return self._count()

    async def _until(self, units: float, before: _Counts, condition: Callable[[], bool]) -> None:
        self._end(before, came_about=await self._wait(units, condition))

    async def _wait(self, units: float, condition: Callable[[], bool]) -> bool:
        loop = asyncio.get_running_loop()
        start = loop.time()
        while True:
            await self._gateway.look()
            elapsed, came_about = loop.time() - start, condition()
            if elapsed >= units * self._unit and (came_about or elapsed >= units * self._unit + _PATIENCE):
                return came_about
            if not self._gateway.alive:
                raise self._gateway.failure()
            self._view.tick(self.moment())
            await asyncio.sleep(_TICK)

    def _end(self, before: _Counts, *, came_about: bool) -> None:
        now = self._count()
        phase = Phase(
            name=self._load.phase,
            seconds=now.at - before.at,
            answered=now.answered - before.answered,
            failed=now.failed - before.failed,
            served=_difference(now.served, before.served),
            refused=_difference(now.refused, before.refused),
            admitted=_difference(now.admitted, before.admitted),
            peak_in_flight=self._load.peak_in_flight,
            came_about=came_about,
        )
        self.phases[phase.name] = phase
        self._view.ended(phase)

    def _count(self) -> _Counts:
        # Counted by deployment, so that probes, which ask none, are left out.
        counts = {
            name: [state.counts for state in region.deployments.values()]
            for name, region in self._simulator.regions.items()
        }
        return _Counts(
            at=time.monotonic(),
            answered=self._load.ok.total(),
            failed=len(self._load.errors),
            served={name: sum(c.served for c in found) for name, found in counts.items()},
            refused={name: sum(c.throttled for c in found) for name, found in counts.items()},
            admitted={name: sum(c.admitted_tokens for c in found) for name, found in counts.items()},
        )


def _size(share: float) -> int:
    """Return the tokens that each chat call asks for, so that all calls ask for this share of the capacity."""
    return round(share * CAPACITY / MINUTE_SECONDS / (RATE * _CHAT_CALLS))


def _difference(now: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    return {name: now[name] - before[name] for name in now}

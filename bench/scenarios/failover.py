"""What clients see while one of three regions breaks: nothing, if failover works."""

from __future__ import annotations

import functools
import time
from dataclasses import asdict, dataclass
from typing import Any

from aoai_operator.simulator.faults import Blackhole, Down, Fault, Flapping, Throttle
from bench.chain import our_chain
from bench.load import Load, Window, parse, running
from bench.payloads import Request
from bench.report import Cell, Outcome, Table, Target, say
from bench.simulated import simulated
from bench.site import UNEQUAL, Site
from bench.subject import SubjectFactory

FAULTS: dict[str, Fault | None] = {
    "nothing": None,
    "dies: connections refused": Down(),
    "goes dark: accepts, never answers": Blackhole(),
    "throttles: 429, retry-after 2 s": Throttle(retry_after=2, retry_after_ms=2000),
    "flaps: 0.5 s down, 0.5 s up": Flapping(down_seconds=0.5, up_seconds=0.5),
}
REQUESTS = 10_000
RATE = 400.0
BREAK_AT, MEND_AT = 0.2, 0.7
"""Shares of the run between which the largest region is broken."""

COLUMNS = ("one of three regions", "requests", "errors", "which", "p50 ms", "p99 ms", "longest ms")
ATTEMPT_TIMEOUT = 1.0

_SPEC: dict[str, Any] = {
    "failover": {"perTryTimeout": f"{ATTEMPT_TIMEOUT:g}s"},
    "health": {"probe": {"interval": "1s", "timeout": "500ms"}, "unhealthyAfter": 2},
}


@dataclass(frozen=True, slots=True)
class Broken:
    """What came of the requests of one run."""

    fault: str
    requests: int
    errors: int
    window: Window

    def row(self) -> tuple[Cell, ...]:
        """Give the figures in the order of `COLUMNS`."""
        latency = self.window.latency
        times = (latency.p50 / 1000, latency.p99 / 1000, latency.max / 1000)
        return (self.fault, self.requests, self.errors, self.window.troubles, *times)


def run(site: Site) -> Outcome:
    """Send 10,000 requests through each fault."""
    factory = functools.partial(our_chain, spec=_SPEC)
    results = [measure(site, factory, fault) for fault in FAULTS]
    return Outcome(
        "failover",
        tables=(Table("Errors that clients see", COLUMNS, tuple(result.row() for result in results)),),
        targets=tuple(Target(f"errors, {result.fault}", result.errors, 0, at_least=False) for result in results),
        notes=(
            f"{RATE:g} requests/s, the largest region broken from {BREAK_AT:.0%} to {MEND_AT:.0%} of the run",
            f"perTryTimeout {ATTEMPT_TIMEOUT:g}s, probes every 1s; clients do not retry",
        ),
        raw={"failover": [asdict(result) for result in results]},
    )


def measure(site: Site, factory: SubjectFactory, fault: str, *, requests: int = REQUESTS, rate: float = RATE) -> Broken:
    """Break the largest region in the middle of a run."""
    say(f"  {fault}: {requests} requests at {rate:g}/s")
    victim, kind = UNEQUAL[0][0], FAULTS[fault]
    with simulated(site, limited=False) as simulation, factory(site, simulation.regions) as subject:
        load = Load(
            port=subject.port,
            request=subject.request(Request()),
            connections=2000,
            warmup=0,
            rate=rate,
            requests=requests,
        )
        with running(site, load) as (output,):
            time.sleep(BREAK_AT * requests / rate)
            if kind:
                simulation.inject(victim, kind)
            time.sleep((MEND_AT - BREAK_AT) * requests / rate)
            simulation.heal(victim)
            window = parse(output.read())
    return Broken(fault, requests, window.failures, window)

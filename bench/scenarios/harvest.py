"""How much of what three unequal regions have is served before a client sees a 429.

A minute of the regions is shortened to `MINUTE` seconds. In each trial requests of equal cost come at 140 % of what
the regions have together until the first 429 reaches the client; what was admitted by then is the harvest. Under
sustained overload (125 %, whole minutes) the share that is served shows whether regions come back in time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from bench.chain import our_chain
from bench.envoys import bare_envoy
from bench.load import Load
from bench.load import run as run_load
from bench.payloads import Request
from bench.processes import BenchError, await_condition, status_of
from bench.report import Cell, Outcome, Table, Target, say
from bench.simulated import Simulation, simulated
from bench.site import UNEQUAL, Site
from bench.subject import Subject, SubjectFactory

MINUTE = 12.0
TRIALS = 3
SUSTAINED_MINUTES = 3
COST = 500
"""Tokens a request: it divides every region's limit, so that no remainder is lost to rounding."""

SUM = sum(tpm for _, tpm in UNEQUAL)
COLUMNS = ("balancing", "harvest", "worst", "refused attempts", "sustained", "client 429", "refused attempts")
"""Harvest and sustained are shares of the sum; refused attempts are Azure's 429s a thousand served requests."""

_SCALED: dict[str, Any] = {"throttling": {"rampUp": "1s"}}
"""The ramp after a throttling, shortened like the minute."""


@dataclass(frozen=True, slots=True)
class Harvest:
    """Shares of the sum, and attempts in vain for 1,000 served requests."""

    name: str
    trials: tuple[float, ...]
    trials_refused: float
    sustained: float
    sustained_refused: float
    client_429: int

    def row(self) -> tuple[Cell, ...]:
        """Give the figures in the order of `COLUMNS`."""
        return (
            self.name,
            f"{median(self.trials):.1%}",
            f"{min(self.trials):.1%}",
            self.trials_refused,
            f"{self.sustained:.1%}",
            self.client_429,
            self.sustained_refused,
        )


def run(site: Site) -> Outcome:
    """Measure Headroom, equal weights with the same failover, and a plain round robin."""
    headroom = measure(site, chain("Headroom", {}), "Headroom")
    equal = measure(site, chain("round robin", {"balancing": {"strategy": "Weighted"}}, weight=1), "round robin, ours")
    plain = measure(site, bare_envoy, "round robin, bare Envoy")
    results = (headroom, equal, plain)
    return Outcome(
        "harvest",
        tables=(Table("Capacity of 120k + 60k + 20k TPM", COLUMNS, tuple(result.row() for result in results)),),
        targets=(Target("harvested before a client sees 429", median(headroom.trials), 0.98),),
        notes=(
            f"a simulated minute is {MINUTE:g} s, rampUp 1s instead of 5s; {TRIALS} trials; {COST} tokens a request",
            "harvest: offered 140 % from the first answer of a minute until the first 429 reaches a client",
            f"sustained: offered 125 % for {SUSTAINED_MINUTES} minutes",
            "refused attempts: answered 429 by a region, for 1,000 served requests",
        ),
        raw={"harvest": [asdict(result) for result in results]},
    )


def chain(name: str, spec: dict[str, Any], *, weight: int | None = None) -> SubjectFactory:
    """Give our chain with some balancing; `weight` is the same for every endpoint."""
    return functools.partial(our_chain, name=name, spec={**_SCALED, **spec}, weight=weight)


def measure(site: Site, factory: SubjectFactory, name: str) -> Harvest:
    """Run the trials and then the sustained overload on fresh regions."""
    say(f"  {name}: {TRIALS} trials and {SUSTAINED_MINUTES} minutes of {MINUTE:g} s")
    with simulated(site, minute=MINUTE) as simulation, factory(site, simulation.regions) as subject:
        request = subject.request(_sized(simulation, subject))
        trial = functools.partial(_trial, site, simulation, subject, request)
        admitted, refused, _ = zip(*(_counted(simulation, trial) for _ in range(TRIALS)), strict=True)
        overload = functools.partial(_overload, site, simulation, subject, request)
        sustained, sustained_refused, client_429 = _counted(simulation, overload)
    return Harvest(
        name=name,
        trials=tuple(tokens / SUM for tokens in admitted),
        trials_refused=1000 * sum(refused) / (sum(admitted) / COST),
        sustained=sustained / SUM / SUSTAINED_MINUTES,
        sustained_refused=1000 * sustained_refused / (sustained / COST),
        client_429=client_429,
    )


def _counted(simulation: Simulation, work: Callable[[], int]) -> tuple[int, int, int]:
    """Run the work; give the tokens admitted, the attempts refused meanwhile, and what it returned."""
    simulation.await_minute()
    tokens, refused = simulation.admitted_tokens, simulation.throttled
    result = work()
    return simulation.admitted_tokens - tokens, simulation.throttled - refused, result


def _trial(site: Site, simulation: Simulation, subject: Subject, request: bytes) -> int:
    # The last minute's Retry-After ends with that minute, to within a few milliseconds.
    await_condition(lambda: status_of(subject.port, request) == 200, what=subject.name, seconds=simulation.minute / 2)
    load = Load(
        port=subject.port,
        request=request,
        connections=64,
        warmup=0,
        window=simulation.minute * 0.95,
        rate=1.4 * SUM / COST / simulation.minute,
        until=429,
    )
    ((window,),) = run_load(site, load)
    if window.failures > window.statuses.get(429, 0):
        raise BenchError(f"{subject.name} failed requests: {window.troubles}")
    if not window.statuses.get(429):
        raise BenchError(f"{subject.name} cannot carry {load.rate:.0f} requests/s: no 429 within a minute")
    return window.statuses[429]


def _overload(site: Site, simulation: Simulation, subject: Subject, request: bytes) -> int:
    load = Load(
        port=subject.port,
        request=request,
        connections=256,
        warmup=0,
        window=simulation.minute * SUSTAINED_MINUTES - 0.1,
        rate=1.25 * SUM / COST / simulation.minute,
    )
    ((window,),) = run_load(site, load)
    return window.statuses.get(429, 0)


def _sized(simulation: Simulation, subject: Subject) -> Request:
    """Give the request that costs `COST` tokens by the regions' own count."""
    before = simulation.admitted_tokens
    probe = Request()
    if status_of(subject.port, subject.request(probe)) != 200:
        raise BenchError(f"{subject.name} does not answer")
    cost = simulation.admitted_tokens - before
    return Request(max_tokens=probe.max_tokens + COST - cost)

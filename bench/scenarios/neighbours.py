"""What tenants feel of each other: one is refused 2,000 times a second."""

from __future__ import annotations

from contextlib import ExitStack
from statistics import median

from bench.chain import our_chain
from bench.load import Load
from bench.load import run as run_load
from bench.payloads import Request
from bench.processes import BenchError
from bench.report import Outcome, Table, Target, say
from bench.site import Site, upstream

FLOOD, QUIET = 2_000.0, 200.0
"""Requests a second of the one that is refused, and of the other."""
_P99 = 1.2


def run(site: Site) -> Outcome:
    """Measure another tenant's p99 in a flood of refusals."""
    ratios = flooded(site)
    return Outcome(
        "neighbours",
        tables=(
            Table(
                f"Another tenant's p99 while one is refused {FLOOD:g} times a second",
                ("round", "to its p99 in quiet"),
                tuple((number + 1, ratio) for number, ratio in enumerate(ratios)),
            ),
        ),
        targets=(Target("p99 in a flood of refusals, to quiet", median(ratios), _P99, at_least=False),),
        notes=(
            f"the other tenant asks {QUIET:g} times a second, far from its limits; latency counts from when it was due",
        ),
    )


def flooded(site: Site) -> list[float]:
    """Return another tenant's p99 in a flood, to its p99 just before, for each round."""
    tenants = {
        "greedy": {"limits": {"requestsPerMinute": 1}},
        "calm": {"limits": {"requestsPerMinute": 10_000_000, "tokensPerMinute": 2_000_000_000}},
    }
    with ExitStack() as stack:
        regions = stack.enter_context(upstream(site))
        gateway = stack.enter_context(our_chain(site, regions, tenants=tenants))

        def load(tenant: str, rate: float) -> Load:
            request = gateway.request(Request(key=f"{tenant}-key"))
            return Load(port=gateway.port, request=request, connections=32, warmup=1, window=site.seconds, rate=rate)

        say(f"neighbours: {site.rounds} rounds of quiet and flood")
        found = []
        for _ in range(site.rounds):
            ((quiet,),) = run_load(site, load("calm", QUIET))
            ((calm,), (greedy,)) = run_load(site, load("calm", QUIET), load("greedy", FLOOD))
            if calm.failures or quiet.failures:
                raise BenchError(f"the other tenant was refused: {calm.troubles}")
            if greedy.statuses.get(429, 0) < FLOOD * site.seconds * 0.9:
                raise BenchError(f"the flood was none: {greedy.troubles}")
            found.append(calm.latency.p99 / quiet.latency.p99)
    return found

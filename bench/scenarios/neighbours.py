"""What tenants feel of each other: one is refused 2,000 times a second, and a ledger has ten thousand of them."""

from __future__ import annotations

import time
from contextlib import ExitStack
from statistics import median

from aoai_operator.core.names import PoolKey
from aoai_operator.core.quota.deciding import Ask, Granted
from aoai_operator.core.quota.ledger import Ledger
from aoai_operator.core.quota.limits import Limits, Unit
from bench.chain import our_chain
from bench.load import Load
from bench.load import run as run_load
from bench.payloads import Request
from bench.processes import BenchError
from bench.report import Outcome, Table, Target, say
from bench.site import Site, upstream

FLOOD, QUIET = 2_000.0, 200.0
"""Requests a second of the one that is refused, and of the other."""
TENANTS = (10, 1_000, 10_000)
DECISIONS = 100_000
_P99, _MORE_TENANTS = 1.2, 1.5


def run(site: Site) -> Outcome:
    """Measure another tenant's p99 in a flood of refusals, and the ledger's decisions by the number of tenants."""
    ratios = flooded(site)
    decisions = {count: decided(count) for count in TENANTS}
    least = decisions[TENANTS[0]]
    rows = tuple((count, p50, p99, p99 / least[1]) for count, (p50, p99) in decisions.items())
    return Outcome(
        "neighbours",
        tables=(
            Table(
                f"Another tenant's p99 while one is refused {FLOOD:g} times a second",
                ("round", "to its p99 in quiet"),
                tuple((number + 1, ratio) for number, ratio in enumerate(ratios)),
            ),
            Table(
                "A decision of the ledger and its settlement",
                ("tenants", "p50 us", "p99 us", "p99 to that of 10"),
                rows,
            ),
        ),
        targets=(
            Target("p99 in a flood of refusals, to quiet", median(ratios), _P99, at_least=False),
            Target("p99 of a decision, 10,000 tenants to 10", rows[-1][3], _MORE_TENANTS, at_least=False),
        ),
        notes=(
            f"the other tenant asks {QUIET:g} times a second, far from its limits; latency counts from when it was due",
            "decisions: the ledger in memory, tokens and requests by the minute and requests at once, no lease",
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


def decided(tenants: int) -> tuple[float, float]:
    """Return p50 and p99, in microseconds, of a decision with its settlement, in a ledger with so many tenants."""
    limits = Limits(per_minute={Unit.TOKENS: 10**9, Unit.REQUESTS: 10**8}, concurrent=100_000)
    ledger, names = Ledger(), [PoolKey("ai", f"team-{number}") for number in range(tenants)]
    ledger.limit(dict.fromkeys(names, limits))
    need, used = {Unit.TOKENS: 700, Unit.REQUESTS: 1}, {Unit.TOKENS: 500, Unit.REQUESTS: 1}
    spent = []
    for number in range(DECISIONS):
        tenant, now = names[number % tenants], 1_795_000_000_000 + number
        begun = time.perf_counter_ns()
        found = ledger.ask(Ask(tenant, "gpt-4o", need), now)
        if isinstance(found, Granted):
            ledger.settle(found.grant, 0, {}, used)
        spent.append(time.perf_counter_ns() - begun)
    spent.sort()
    return spent[len(spent) // 2] / 1000, spent[len(spent) * 99 // 100] / 1000

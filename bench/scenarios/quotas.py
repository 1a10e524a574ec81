"""What quotas cost: far from the limits, where Envoy draws on leases, and where every request asks."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

from bench.chain import our_chain
from bench.paired import COLUMNS, Case, measure
from bench.payloads import Request
from bench.report import Outcome, Table, Target
from bench.scenarios import latency
from bench.site import Site

_FAR = {"limits": {"tokensPerMinute": 2_000_000_000, "requestsPerMinute": 100_000_000}}
_EACH_ASKS = {"limits": {"concurrentRequests": 100_000}}
_LATENCY = ("case", "rate/s", "without p50 us", "p50 us", "added p50 us", "without p99 us", "p99 us", "p99 ratio")
_ADDED_MS = 0.1, 1.5
_NO_QUOTA, _BARE = 0.97, 0.33
"""The least ratios asked for: to the same chain without quotas, and where every request asks, to bare Envoy."""


def run(site: Site) -> Outcome:
    """Measure both with 2 KB."""
    far = Case(
        name="far from the limits, to the same without",
        factory=partial(our_chain, quota=_FAR),
        request=Request(),
        baseline=our_chain,
    )
    asks = Case(
        name="every request asks, to bare Envoy", factory=partial(our_chain, quota=_EACH_ASKS), request=Request()
    )
    results = [measure(site, case) for case in (far, asks)]
    added = [
        latency.measure(site, case.factory, stream=False, baseline=our_chain, case=case.name.partition(",")[0])
        for case in (far, asks)
    ]
    return Outcome(
        "quotas",
        tables=(
            Table("Quotas, CPU a request", COLUMNS, tuple(result.row() for result in results)),
            Table("Latency at a tenth of saturation, to the same without", _LATENCY, tuple(one.row() for one in added)),
        ),
        targets=(
            Target("requests/s far from the limits, to the same without", results[0].ratio, _NO_QUOTA),
            Target("requests/s where every request asks, to bare Envoy", results[1].ratio, _BARE),
            *(
                Target(f"added p50 ms, {one.case}", (one.p50 - one.bare_p50) / 1000, most, at_least=False)
                for one, most in zip(added, _ADDED_MS, strict=True)
            ),
        ),
        notes=("helpers: the operator's own Python (access log, ledger), on the other core",),
        raw={"paired": [asdict(result) for result in results]},
    )

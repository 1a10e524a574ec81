"""What the chain adds to the latency of a request and to the first byte of a stream, far from saturation.

Each gateway runs alone on its core, at a tenth of the requests a second that saturate it; bare Envoy is measured at
the same rate with the same random arrivals, in turns with it, so that the slow changes of a machine reach both.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass
from statistics import median

from bench.chain import our_chain
from bench.envoys import bare_envoy
from bench.load import Load, Quantiles
from bench.load import run as run_load
from bench.payloads import Request
from bench.processes import BenchError
from bench.report import Cell, Outcome, Table, Target, say
from bench.site import Site, upstream
from bench.subject import Subject, SubjectFactory

COLUMNS = ("case", "rate/s", "bare p50 us", "p50 us", "added p50 us", "bare p99 us", "p99 us", "p99 ratio")


@dataclass(frozen=True, slots=True)
class Latency:
    """Medians over the rounds, in microseconds."""

    case: str
    rate: float
    bare_p50: float
    p50: float
    bare_p99: float
    p99: float

    def row(self) -> tuple[Cell, ...]:
        """Give the figures in the order of `COLUMNS`."""
        added, ratio = self.p50 - self.bare_p50, self.p99 / self.bare_p99
        return (self.case, round(self.rate), self.bare_p50, self.p50, added, self.bare_p99, self.p99, ratio)

    def targets(self) -> tuple[Target, Target]:
        """Hold the figures against the bounds that are asked of us."""
        return (
            Target(f"added p50 ms, {self.case}", (self.p50 - self.bare_p50) / 1000, 0.2, at_least=False),
            Target(f"p99 to bare's p99, {self.case}", self.p99 / self.bare_p99, 1.5, at_least=False),
        )


def run(site: Site) -> Outcome:
    """Measure whole answers, then the first byte of streams."""
    results = (measure(site, our_chain, stream=False), measure(site, our_chain, stream=True))
    return Outcome(
        "latency",
        tables=(Table("Latency at a tenth of saturation", COLUMNS, tuple(result.row() for result in results)),),
        targets=tuple(target for result in results for target in result.targets()),
        notes=("p99 is the median of the rounds' p99; latency counts from when a request was due",),
        raw={"latency": [asdict(result) for result in results]},
    )


def measure(
    site: Site, factory: SubjectFactory, *, stream: bool, baseline: SubjectFactory = bare_envoy, case: str = ""
) -> Latency:
    """Compare a gateway and bare Envoy, or another baseline, in turns, at a tenth of the gateway's saturation."""
    case = case or ("first byte of a stream" if stream else "whole answer, 2 KB")
    request = Request(stream=stream)
    with ExitStack() as stack:
        regions = stack.enter_context(upstream(site, stream=stream))
        bare = stack.enter_context(baseline(site, regions))
        gateway = stack.enter_context(factory(site, regions))
        rate = _saturation(site, gateway, request) / 10
        say(f"  {case}: {site.rounds} rounds at {rate:.0f} requests/s")
        rounds = [
            (_quantiles(site, bare, request, rate), _quantiles(site, gateway, request, rate))
            for _ in range(site.rounds)
        ]
    return Latency(
        case=case,
        rate=rate,
        bare_p50=median(bare.p50 for bare, _ in rounds),
        p50=median(gateway.p50 for _, gateway in rounds),
        bare_p99=median(bare.p99 for bare, _ in rounds),
        p99=median(gateway.p99 for _, gateway in rounds),
    )


def _saturation(site: Site, subject: Subject, request: Request) -> float:
    load = Load(port=subject.port, request=subject.request(request), connections=24, window=2, stream=request.stream)
    ((window,),) = run_load(site, load)
    return window.answers / window.seconds


def _quantiles(site: Site, subject: Subject, request: Request, rate: float) -> Quantiles:
    load = Load(
        port=subject.port,
        request=subject.request(request),
        connections=64,
        warmup=0.5,
        window=site.seconds,
        rate=rate,
        stream=request.stream,
    )
    ((window,),) = run_load(site, load)
    if window.failures:
        raise BenchError(f"{subject.name} failed requests: {window.troubles}")
    return window.first_byte if request.stream else window.latency

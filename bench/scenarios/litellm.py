"""LiteLLM beside it: the same requests, upstreams, regions and faults, at the rates that it can carry."""

from __future__ import annotations

import functools
from dataclasses import asdict, replace

from bench import paired
from bench.litellm import VERSION, install, lite_llm
from bench.payloads import Request
from bench.report import Outcome, Table
from bench.scenarios import failover, harvest, latency, streams
from bench.site import Site

REQUESTS = 1000
RATE = 25.0
WINDOW = 5.0
"""Seconds: at some 60 requests a second, a shorter window holds too few."""


def run(site: Site) -> Outcome:
    """Measure LiteLLM in every other scenario."""
    install()
    cases = [
        paired.Case(name=f"{kilobytes} KB", factory=lite_llm, request=Request(kilobytes=kilobytes))
        for kilobytes in (2, 29, 180)
    ]
    cases += [replace(case, name=f"events, {case.name}") for case in streams.cases(lite_llm)]
    results = [paired.measure(site, _slow(case)) for case in cases]
    memory = streams.weigh(site, lite_llm)
    delays = [latency.measure(site, lite_llm, stream=stream) for stream in (False, True)]
    harvested = harvest.measure(site, lite_llm, "simple-shuffle")
    bounded = functools.partial(lite_llm, attempt_timeout=failover.ATTEMPT_TIMEOUT)
    broken = [failover.measure(site, bounded, fault, requests=REQUESTS, rate=RATE) for fault in failover.FAULTS]
    return Outcome(
        "litellm",
        tables=(
            Table("Requests and events, CPU against bare Envoy", paired.COLUMNS, tuple(r.row() for r in results)),
            Table(f"Memory of {streams.OPEN_STREAMS:,} open streams", streams.MEMORY_COLUMNS, (memory,)),
            Table("Latency at a tenth of saturation", latency.COLUMNS, tuple(d.row() for d in delays)),
            Table("Capacity of 120k + 60k + 20k TPM", harvest.COLUMNS, (harvested.row(),)),
            Table("Errors that clients see", failover.COLUMNS, tuple(b.row() for b in broken)),
        ),
        notes=(
            f"LiteLLM {VERSION}, one worker, simple-shuffle by tpm, num_retries 3, no database",
            f"failover: {REQUESTS} requests at {RATE:g}/s, attempts limited to {failover.ATTEMPT_TIMEOUT:g} s",
        ),
        raw={
            "paired": [asdict(r) for r in results],
            "latency": [asdict(d) for d in delays],
            "harvest": asdict(harvested),
            "failover": [asdict(b) for b in broken],
        },
    )


def _slow(case: paired.Case) -> paired.Case:
    return replace(case, window=WINDOW, warmup=6.0, connections=8)

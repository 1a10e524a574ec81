"""Server-sent events: CPU an event against bare Envoy, and what an open stream weighs."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict, replace

from bench.chain import our_chain
from bench.envoys import bare_envoy
from bench.load import Load, running
from bench.machine import rss_kib
from bench.paired import COLUMNS, Case, measure
from bench.payloads import EVENTS, Request
from bench.processes import BenchError
from bench.report import Cell, Outcome, Table, Target, say
from bench.site import Site, upstream
from bench.subject import SubjectFactory

EVERY_US = 10_000
"""Between two writes of a stream: long enough that each is a read of its own."""

OPEN_STREAMS = 1000
_SLOW_EVERY_US = 5_000_000
"""Slow enough that even a gateway in Python can hold all of them open."""


def cases(factory: SubjectFactory) -> tuple[Case, ...]:
    """Give the forms of a stream: an event a read, a few a read, and the whole stream in one write."""
    base = Case(name="one event a read", factory=factory, request=Request(stream=True), unit="events")
    paced = replace(base, every_us=EVERY_US, connections=48)
    return (
        paced,
        replace(paced, name="coalesced: ten events a read", batch=10),
        replace(base, name="whole stream in one write"),
    )


def run(site: Site) -> Outcome:
    """Measure each form of a stream, then the memory of many open ones."""
    results = single, coalesced, _ = [measure(site, case) for case in cases(our_chain)]
    memory = (weigh(site, bare_envoy), weigh(site, our_chain))
    return Outcome(
        "streams",
        tables=(
            Table("Stream events, CPU against bare Envoy", COLUMNS, tuple(result.row() for result in results)),
            Table(f"Memory of {OPEN_STREAMS:,} open streams", MEMORY_COLUMNS, memory),
        ),
        targets=(
            Target("events/s to bare, one event a read", single.ratio, 0.8),
            Target("events/s to bare, coalesced", coalesced.ratio, 0.75),
        ),
        notes=(
            f"streams of {EVENTS} events; reads are {EVERY_US / 1000:g} ms apart, but for the last form",
            "a whole stream in one write is a short answer: what a request costs outweighs its events",
        ),
        raw={"paired": [asdict(result) for result in results]},
    )


MEMORY_COLUMNS = ("gateway", "idle MB", "open MB", "KB a stream", "helpers MB")


def weigh(site: Site, factory: SubjectFactory) -> tuple[Cell, ...]:
    """Open many slow streams through a gateway, and read its memory before and with them."""
    with ExitStack() as stack:
        regions = stack.enter_context(upstream(site, stream=True, every_us=_SLOW_EVERY_US))
        subject = stack.enter_context(factory(site, regions))
        say(f"  {subject.name}: {OPEN_STREAMS} open streams")
        idle = rss_kib(subject.pid)
        load = Load(
            port=subject.port,
            request=subject.request(Request(stream=True)),
            connections=OPEN_STREAMS,
            windows=1,
            window=60,
            timeout=120,
            stream=True,
            announce=True,
        )
        (output,) = stack.enter_context(running(site, load))
        if "open" not in json.loads(output.readline() or "{}"):
            raise BenchError(f"{subject.name} did not open {OPEN_STREAMS} streams within a minute")
        full = rss_kib(subject.pid)
        helpers = sum(rss_kib(pid) for pid in subject.helpers.values())
    return (subject.name, idle / 1024, full / 1024, (full - idle) / OPEN_STREAMS, helpers / 1024)

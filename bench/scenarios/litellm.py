"""LiteLLM beside it: the same requests, upstreams, regions and faults, at the rates that it can carry."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Protocol

from bench import paired
from bench.litellm import VERSION, install, lite_llm
from bench.payloads import Request
from bench.processes import BenchError
from bench.report import Cell, Outcome, Table
from bench.scenarios import failover, harvest, latency, streams
from bench.site import Site

Measure = Callable[[], tuple[Cell, ...]]
"""Makes one row of a table."""

REQUESTS = 1000
RATE = 25.0
WINDOW = 5.0
"""Seconds: at some 60 requests a second, a shorter window holds too few."""


def run(site: Site) -> Outcome:
    """Measure LiteLLM in every other scenario; a part that it does not get through becomes a note."""
    install()
    tables: list[Table] = []
    notes = [
        f"LiteLLM {VERSION}, one worker, simple-shuffle by tpm, num_retries 3, no database",
        f"failover: {REQUESTS} requests at {RATE:g}/s, attempts limited to {failover.ATTEMPT_TIMEOUT:g} s",
    ]
    for title, columns, measures in _parts(site):
        rows: list[tuple[Cell, ...]] = []
        for measure in measures:
            try:
                rows.append(measure())
            except BenchError as error:
                notes.append(f"{title}: not measured: {str(error).splitlines()[0]}")
        tables.append(Table(title, columns, tuple(rows)))
    return Outcome("litellm", tables=tuple(tables), notes=tuple(notes))


def _parts(site: Site) -> Iterator[tuple[str, tuple[str, ...], list[Measure]]]:
    """Give title, columns and the makers of the rows of each table."""
    cases = [
        paired.Case(name=f"{kilobytes} KB", factory=lite_llm, request=Request(kilobytes=kilobytes))
        for kilobytes in (2, 29, 180)
    ]
    cases += [replace(case, name=f"events, {case.name}") for case in streams.cases(lite_llm)]
    yield (
        "Requests and events, CPU against bare Envoy",
        paired.COLUMNS,
        [functools.partial(_row, paired.measure, site, _slow(case)) for case in cases],
    )
    yield (
        f"Memory of {streams.OPEN_STREAMS:,} open streams",
        streams.MEMORY_COLUMNS,
        [functools.partial(streams.weigh, site, lite_llm)],
    )
    yield (
        "Latency at a tenth of saturation",
        latency.COLUMNS,
        [functools.partial(_row, latency.measure, site, lite_llm, stream=stream) for stream in (False, True)],
    )
    yield (
        "Capacity of 120k + 60k + 20k TPM",
        harvest.COLUMNS,
        [functools.partial(_row, harvest.measure, site, lite_llm, "simple-shuffle")],
    )
    bounded = functools.partial(lite_llm, attempt_timeout=failover.ATTEMPT_TIMEOUT)
    yield (
        "Errors that clients see",
        failover.COLUMNS,
        [
            functools.partial(_row, failover.measure, site, bounded, fault, requests=REQUESTS, rate=RATE)
            for fault in failover.FAULTS
        ],
    )


class _Measured(Protocol):
    def row(self) -> tuple[Cell, ...]: ...


def _row(measure: Callable[..., _Measured], *arguments: Any, **options: Any) -> tuple[Cell, ...]:
    return measure(*arguments, **options).row()


def _slow(case: paired.Case) -> paired.Case:
    return replace(case, window=WINDOW, warmup=6.0, connections=8)

"""The load generator, from Python: what to send, and what came of it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

from bench.machine import pin
from bench.processes import BenchError
from bench.site import Site


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One run of the generator; times in seconds.

    With `rate` requests are due at that many a second, whatever the answers do; without it each connection sends
    the next request at the answer. `requests` ends the run after that many, `until` at the first such status.
    """

    port: int
    request: bytes
    connections: int = 32
    warmup: float = 1.0
    window: float = 2.0
    windows: int = 1
    rate: float = 0.0
    requests: int = 0
    until: int = 0
    timeout: float = 30.0
    stream: bool = False
    announce: bool = False
    cpu: Sequence[int] = field(default=())


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Of a latency, in microseconds."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    p999: float
    max: float


@dataclass(frozen=True, slots=True)
class Window:
    """What the generator counted in one window. `cpu` is in seconds, in the order of `Load.cpu`."""

    seconds: float
    answers: int
    events: int
    statuses: dict[int, int]
    errors: dict[str, int]
    latency: Quantiles
    first_byte: Quantiles
    cpu: tuple[float, ...]

    @property
    def failures(self) -> int:
        """Count the requests that a client would call failed: not answered, cut, or not 200."""
        return sum(self.errors.values()) + sum(n for status, n in self.statuses.items() if status != 200)

    @property
    def troubles(self) -> str:
        """Name the failures."""
        statuses = {str(status): n for status, n in self.statuses.items() if status != 200}
        return ", ".join(f"{n} x {name}" for name, n in {**self.errors, **statuses}.items() if n) or "none"


@contextmanager
def running(site: Site, *loads: Load) -> Iterator[list[IO[str]]]:
    """Run loads at the same time, their windows aligned; give the text streams of their lines."""
    start = time.monotonic_ns() + int(max(load.warmup for load in loads) * 1e9)
    processes = [_start(site, load, start, index) for index, load in enumerate(loads)]
    try:
        yield [process.stdout for process in processes if process.stdout]
    finally:
        for process in processes:
            process.terminate()
            process.communicate()


def run(site: Site, *loads: Load) -> list[list[Window]]:
    """Run loads at the same time to their end; give the windows of each."""
    with running(site, *loads) as outputs:
        lines = [output.read().splitlines() for output in outputs]
    for load, windows in zip(loads, lines, strict=True):
        if len(windows) < (1 if load.requests or load.until else load.windows):
            raise BenchError(f"the generator on port {load.port} ended early")
    return [[parse(line) for line in windows] for windows in lines]


def parse(line: str) -> Window:
    """Read one line of the generator."""
    raw: dict[str, Any] = json.loads(line)
    return Window(
        seconds=raw["seconds"],
        answers=raw["answers"],
        events=raw["events"],
        statuses={int(status): n for status, n in raw["statuses"].items()},
        errors=raw["errors"],
        latency=Quantiles(**raw["latency_us"]),
        first_byte=Quantiles(**raw["first_byte_us"]),
        cpu=tuple(ns / 1e9 for ns in raw["cpu_ns"]),
    )


def _start(site: Site, load: Load, start: int, index: int) -> subprocess.Popen[str]:
    request = site.scratch / f"request-{index}"
    request.write_bytes(load.request)
    options: dict[str, object] = {
        "port": load.port,
        "request": request,
        "connections": load.connections,
        "window": load.window,
        "windows": load.windows,
        "start-at": start,
        "rate": load.rate,
        "requests": load.requests,
        "until": load.until,
        "timeout": load.timeout,
    }
    command = [str(site.programs.generator), *(f"--{name}={value}" for name, value in options.items())]
    command += [flag for flag, wanted in (("--stream", load.stream), ("--announce", load.announce)) if wanted]
    command += [f"--cpu={pid}" for pid in load.cpu]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    pin(process.pid, site.cores.load)
    return process

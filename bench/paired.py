"""CPU per request of a gateway against bare Envoy, both at work at the same time on one core.

Noise of a shared machine (stolen time, clock changes, cold caches) then hits both alike, where two runs one after the
other would differ by more than what is looked for. Bare Envoy runs twice: the ratio of the two is the control, which
tells how far to trust the rest. On a saturated core, CPU per request is the inverse of requests a second.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Literal

from bench.envoys import bare_envoy
from bench.load import Load, Window, run
from bench.machine import core_time
from bench.payloads import Request
from bench.processes import BenchError
from bench.report import Cell, say
from bench.site import Site, upstream
from bench.subject import Subject, SubjectFactory

Unit = Literal["answers", "events"]

COLUMNS = (
    "case",
    "ratio",
    "range",
    "control",
    "bare us",
    "gateway us",
    "helpers us",
    "bare/s",
    "core busy",
    "load busy",
)
"""Of a table of `Paired.row`: ratio and control are dimensionless, us is CPU per request or event."""


@dataclass(frozen=True, slots=True)
class Paired:
    """Medians over the windows, and the widest of them. CPU in microseconds a request or event."""

    case: str
    ratio: float
    lowest: float
    highest: float
    control: float
    bare_us: float
    gateway_us: float
    helpers_us: float
    subject_core_busy: float
    load_core_busy: float

    def row(self) -> tuple[Cell, ...]:
        """Give the figures in the order of `COLUMNS`."""
        return (
            self.case,
            self.ratio,
            f"{self.lowest:.3f}-{self.highest:.3f}",
            self.control,
            self.bare_us,
            self.gateway_us,
            self.helpers_us,
            round(1e6 / self.bare_us),
            f"{self.subject_core_busy:.0%}",
            f"{self.load_core_busy:.0%}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One line of a table: which gateway, which requests, which upstream."""

    name: str
    factory: SubjectFactory
    request: Request
    baseline: SubjectFactory = bare_envoy
    unit: Unit = "answers"
    every_us: int = 0
    batch: int = 1
    renamed: bool = False
    connections: int = 24
    warmup: float = 1.5
    window: float | None = None
    tolerate: int = 0


def measure(site: Site, case: Case) -> Paired:
    """Run the baseline (bare Envoy), the gateway, and the baseline again, at the same time, and compare."""
    window = case.window or site.seconds
    say(f"  {case.name}: {site.rounds} windows of {window:g} s")
    with ExitStack() as stack:
        stream = case.request.stream
        regions = stack.enter_context(
            upstream(site, stream=stream, every_us=case.every_us, batch=case.batch, renamed=case.renamed)
        )
        factories = (case.baseline, case.factory, case.baseline)
        subjects = [stack.enter_context(factory(site, regions)) for factory in factories]
        loads = [_load(site, case, subject, window) for subject in subjects]
        before = core_time(site.cores.subject), core_time(site.cores.load)
        first, gateway, second = run(site, *loads)
        after = core_time(site.cores.subject), core_time(site.cores.load)
    for windows, subject in zip((first, gateway, second), subjects, strict=True):
        _insist_on_answers(case, subject, windows)
    elapsed = case.warmup + window * site.rounds
    busy = [(late.busy - early.busy) / elapsed for early, late in zip(before, after, strict=True)]
    return _compare(case, first, gateway, second, busy)


def _load(site: Site, case: Case, subject: Subject, window: float) -> Load:
    return Load(
        port=subject.port,
        request=subject.request(case.request),
        connections=case.connections,
        warmup=case.warmup,
        window=window,
        windows=site.rounds,
        stream=case.request.stream,
        cpu=subject.pids,
    )


def _insist_on_answers(case: Case, subject: Subject, windows: list[Window]) -> None:
    failures = sum(window.failures for window in windows)
    if failures > case.tolerate:
        raise BenchError(f"{case.name}: {subject.name} failed {failures} requests: {windows[-1].troubles}")
    if not all(getattr(window, case.unit) for window in windows):
        raise BenchError(f"{case.name}: {subject.name} gave no {case.unit} in a window: --seconds is too short")


def _compare(case: Case, first: list[Window], gateway: list[Window], second: list[Window], busy: list[float]) -> Paired:
    def each(windows: list[Window], *, helpers: bool = False) -> list[float]:
        return [
            1e6 * (sum(window.cpu[1:]) if helpers else window.cpu[0]) / getattr(window, case.unit) for window in windows
        ]

    ones, twos, ours = each(first), each(second), each(gateway)
    bare = [(one + two) / 2 for one, two in zip(ones, twos, strict=True)]
    ratios = [b / o for b, o in zip(bare, ours, strict=True)]
    return Paired(
        case=case.name,
        ratio=median(ratios),
        lowest=min(ratios),
        highest=max(ratios),
        control=median(one / two for one, two in zip(ones, twos, strict=True)),
        bare_us=median(bare),
        gateway_us=median(ours),
        helpers_us=median(each(gateway, helpers=True)),
        subject_core_busy=busy[0],
        load_core_busy=busy[1],
    )

"""Clocks that do not jump when somebody sets the machine's, and do not stand still while it sleeps."""

from __future__ import annotations

import time
from collections.abc import Callable

_NS = 1_000_000

_SLEEP_COUNTS: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Linux has a clock that goes on while the machine is suspended. Source: clock_gettime(2). Others have it not, or their
monotonic clock is such a one."""


def elapsed_ns() -> int:
    """Return the nanoseconds since some moment; never goes back."""
    return time.clock_gettime_ns(_SLEEP_COUNTS)


def elapsed() -> float:
    """Return the seconds since some moment; never goes back."""
    return elapsed_ns() / 1e9


class SteadyClock:
    """Gives milliseconds of the Unix epoch: the machine's clock as it was at the start, and what passed since.

    A clock that is set back by an hour would keep every throttled region out for an hour. What is asked of this one
    is only ever how long something lasts; a clock that was wrong at the start shows in the times that people read.
    """

    def __init__(self, *, wall: Callable[[], int] = time.time_ns, monotonic: Callable[[], int] = elapsed_ns) -> None:
        """Take two clocks, in nanoseconds: the machine's, and one that is never set."""
        self._monotonic = monotonic
        self._start = wall() - monotonic()

    def __call__(self) -> int:
        """Return the time."""
        return (self._start + self._monotonic()) // _NS

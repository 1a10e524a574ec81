"""The time by which hosts are left alone: Unix time that does not jump when somebody sets the machine's clock."""

from __future__ import annotations

import time
from collections.abc import Callable

_NS = 1_000_000


class SteadyClock:
    """Gives milliseconds of the Unix epoch: the machine's clock as it was at the start, and what passed since.

    A clock that is set back by an hour would keep every throttled region out for an hour. What is asked of this one
    is only ever how long something lasts; a clock that was wrong at the start shows in the times that people read.
    """

    def __init__(
        self, *, wall: Callable[[], int] = time.time_ns, monotonic: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """Take two clocks, in nanoseconds: the machine's, and one that is never set."""
        self._monotonic = monotonic
        self._start = wall() - monotonic()

    def __call__(self) -> int:
        """Return the time."""
        return (self._start + self._monotonic()) // _NS

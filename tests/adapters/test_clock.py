"""What a clock that is set does to regions that are left alone: nothing."""

from __future__ import annotations

import time

import pytest

from aoai_operator.adapters.clock import SteadyClock, elapsed
from aoai_operator.core.table import Throttling
from aoai_operator.core.throttle import Throttle, refused

HOUR = 3_600_000_000_000
SECOND = 1_000_000_000
POLICY = Throttling(honor_retry_after=True, max_retry_after_ms=60_000, ramp_up_ms=0)


class Machine:
    """A machine whose clock can be set."""

    def __init__(self) -> None:
        self.wall = 1_700_000_000 * SECOND
        self.passed = 77 * SECOND

    def run(self, seconds: int) -> None:
        """Let time pass."""
        self.wall += seconds * SECOND
        self.passed += seconds * SECOND


@pytest.mark.parametrize("step", [-HOUR, HOUR])
def test_a_throttle_lasts_as_long_as_it_should_when_the_clock_is_set(step: int) -> None:
    machine = Machine()
    now = SteadyClock(wall=lambda: machine.wall, monotonic=lambda: machine.passed)
    assert now() == machine.wall // 1_000_000
    throttle = refused(Throttle(), status=429, retry_after_ms=10_000, now=now(), policy=POLICY)
    machine.wall += step
    machine.run(9)
    assert throttle.active(now())
    machine.run(1)
    assert not throttle.active(now())


def test_the_time_for_which_the_machine_slept_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Linux; while it sleeps the others go on, and a Lease runs out."""
    passed = {time.CLOCK_MONOTONIC: 77 * SECOND, time.CLOCK_BOOTTIME: 77 * SECOND}
    monkeypatch.setattr(time, "clock_gettime_ns", passed.__getitem__)
    assert elapsed() == 77
    passed[time.CLOCK_BOOTTIME] += HOUR
    assert elapsed() == 77 + 3600

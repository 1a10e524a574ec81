"""The windows of budgets: each moment is in one, and they follow each other without a gap."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aoai_operator.core.quota.calendar import Period, window_of

ZONES = st.sampled_from(
    ["UTC", "Europe/Berlin", "Asia/Kolkata", "Asia/Beirut", "America/St_Johns", "Pacific/Apia", "Australia/Lord_Howe"]
).map(ZoneInfo)


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def shown(period: Period, zone: str, now: str) -> tuple[str, ...]:
    return tuple(
        datetime.fromtimestamp(edge / 1000, UTC).strftime("%Y-%m-%dT%H:%MZ")
        for edge in window_of(period, ZoneInfo(zone), at(now))
    )


@settings(max_examples=500)
@given(st.sampled_from(Period), ZONES, st.integers(at("1990-01-01T00:00Z"), at("2040-01-01T00:00Z")))
def test_windows_follow_each_other(period: Period, zone: ZoneInfo, now: int) -> None:
    began, ends = window_of(period, zone, now)
    assert began <= now < ends
    assert window_of(period, zone, began) == (began, ends)
    assert window_of(period, zone, ends - 1) == (began, ends)
    assert window_of(period, zone, ends)[0] == ends


@pytest.mark.parametrize(
    ("period", "zone", "now", "window"),
    [
        (Period.HOUR, "UTC", "2026-11-23T16:59:59.999Z", ("2026-11-23T16:00Z", "2026-11-23T17:00Z")),
        (Period.HOUR, "Asia/Kolkata", "2026-11-23T16:10Z", ("2026-11-23T16:00Z", "2026-11-23T17:00Z")),
        (Period.DAY, "Europe/Berlin", "2026-03-29T12:00Z", ("2026-03-28T23:00Z", "2026-03-29T22:00Z")),
        (Period.DAY, "Europe/Berlin", "2026-10-25T12:00Z", ("2026-10-24T22:00Z", "2026-10-25T23:00Z")),
        (Period.WEEK, "UTC", "2026-11-22T23:59Z", ("2026-11-16T00:00Z", "2026-11-23T00:00Z")),
        (Period.MONTH, "UTC", "2028-02-29T12:00Z", ("2028-02-01T00:00Z", "2028-03-01T00:00Z")),
        (Period.MONTH, "Europe/Berlin", "2026-12-31T23:30Z", ("2026-12-31T23:00Z", "2027-01-31T23:00Z")),
        # The clocks went back from 0:01 to 23:01, so that there were two midnights.
        (Period.DAY, "America/St_Johns", "2010-11-07T03:00Z", ("2010-11-07T02:30Z", "2010-11-08T03:30Z")),
        # The clocks went forward at midnight, so that there was none.
        (Period.DAY, "Asia/Beirut", "2024-03-31T12:00Z", ("2024-03-30T22:00Z", "2024-03-31T21:00Z")),
        # The 30th of December 2011 was left out.
        (Period.DAY, "Pacific/Apia", "2011-12-30T10:30Z", ("2011-12-30T10:00Z", "2011-12-31T10:00Z")),
    ],
)
def test_windows_are_those_of_the_wall(period: Period, zone: str, now: str, window: tuple[str, str]) -> None:
    assert shown(period, zone, now) == window

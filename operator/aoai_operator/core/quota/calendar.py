"""The windows of budgets, as a calendar on the wall has them: hours, days, weeks and months of a time zone."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, tzinfo
from enum import StrEnum

_HOUR_MS = 3_600_000


class Period(StrEnum):
    """How long a budget lasts."""

    HOUR = "Hour"
    DAY = "Day"
    WEEK = "Week"
    MONTH = "Month"


def window_of(period: Period, zone: tzinfo, now: int) -> tuple[int, int]:
    """Return when the period that `now` is in began and when it ends, in milliseconds of the Unix epoch.

    A week begins on Monday (ISO 8601). A day is one of the calendar: 23 or 25 hours long when clocks change. An hour is
    one of UTC wherever the zone is: clocks on Lord Howe Island go back by half of one.
    """
    if period is Period.HOUR:
        began = now // _HOUR_MS * _HOUR_MS
        return began, began + _HOUR_MS
    first = _first_day(period, datetime.fromtimestamp(now / 1000, zone).date())
    if _midnight(_next(period, first), zone) <= now:
        # Clocks that go back over midnight repeat the end of the day: it began anew at the first midnight, and once.
        first = _next(period, first)
    return _midnight(first, zone), _midnight(_next(period, first), zone)


def _first_day(period: Period, day: date) -> date:
    if period is Period.WEEK:
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if period is Period.MONTH else day


def _next(period: Period, first: date) -> date:
    if period is Period.MONTH:
        return (first + timedelta(days=31)).replace(day=1)
    return first + timedelta(days=7 if period is Period.WEEK else 1)


def _midnight(day: date, zone: tzinfo) -> int:
    # Arithmetic on a local time is the wall's; only its moment in UTC knows how long that was.
    return int(datetime.combine(day, time(), zone).astimezone(UTC).timestamp()) * 1000

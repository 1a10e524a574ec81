"""Lets a test set an operator's clock: python runs this at its start, where its folder is on PYTHONPATH.

The machine's own clock is everybody's. What `time` and `datetime` tell this process is moved by the seconds in the
file $AOAI_TEST_CLOCK. The kernel's other clocks are left as they are: setting a machine's clock does not move them.
"""

from __future__ import annotations

import datetime
import os
import time
from pathlib import Path
from typing import Self

_FILE = Path(os.environ["AOAI_TEST_CLOCK"])
_time_ns = time.time_ns


def _moved_ns() -> int:
    return _time_ns() + int(_FILE.read_text()) * 1_000_000_000


class _Datetime(datetime.datetime):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Self:
        return cls.fromtimestamp(_moved_ns() / 1e9, tz)


time.time_ns = _moved_ns
time.time = lambda: _moved_ns() / 1e9
datetime.datetime = _Datetime  # type: ignore[misc] # every module that is imported later takes this one

"""kopf's log lines among ours: errors only, and not one a second while the API server is away."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

_log = structlog.get_logger("kopf")

_EVERY = 60.0
"""Seconds in which one module says one thing only."""


@contextmanager
def kopf_log() -> Iterator[None]:
    """Take kopf's log lines over for the time of the block."""
    logger = logging.getLogger("kopf")
    before = logger.level, logger.propagate, logger.handlers[:]
    # Its warnings are of what is meant to be so: no signals in a thread, no look for other resources.
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    logger.handlers[:] = [_Forward()]
    try:
        yield
    finally:
        logger.setLevel(before[0])
        logger.propagate = before[1]
        logger.handlers[:] = before[2]


class _Forward(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}
        self._kept_back = 0

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if now - self._said.get(record.name, -_EVERY) < _EVERY:
            self._kept_back += 1
            return
        self._said[record.name] = now
        error = record.exc_info[1] if record.exc_info else None
        _log.warning(record.getMessage(), kept_back=self._kept_back, error=type(error).__name__ if error else None)
        self._kept_back = 0

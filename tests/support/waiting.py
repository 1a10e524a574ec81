"""Waiting on conditions: tests never sleep for a guessed time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, overload

T = TypeVar("T")

_POLL = 0.02


@overload
async def eventually(condition: Callable[[], Coroutine[Any, Any, T]], *, within: float = 20, what: str = "") -> T: ...


@overload
async def eventually(condition: Callable[[], T], *, within: float = 20, what: str = "") -> T: ...


async def eventually(condition: Callable[[], Any], *, within: float = 20, what: str = "") -> Any:
    """Return the first true value of `condition`; AssertionError when there is none `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {within} s: {what or inspect.getsource(condition).strip()}"
        await asyncio.sleep(_POLL)


def eventually_sync(condition: Callable[[], T], *, within: float = 20, what: str = "") -> T:
    """Do the same in a test without an event loop."""
    deadline = time.monotonic() + within
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {within} s: {what or inspect.getsource(condition).strip()}"
        time.sleep(_POLL)
    return value

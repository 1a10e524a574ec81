"""Bounds what is asked about tokens of which nothing good is known: whoever makes tokens up must keep nobody busy."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from aoai_operator.ports import ReviewError

_AT_ONCE = 4
_WAITING = 64
"""Questions that are under way or wait, of all addresses."""
_BAD = 10.0
"""Bad tokens in a row that an address may show at once; then one each second."""
_REGAINED = 1.0
_ADDRESSES = 4096


class Strangers:
    """Gives turns to callers by their addresses. A bad token costs its address a turn, any other outcome nothing."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Take a clock, in seconds."""
        self._clock = clock
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._waiting = 0
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    async def judge(self, caller: str, review: Callable[[], Awaitable[str | None]]) -> str | None:
        """Return what the review says of a token, when it is its caller's turn.

        Raises:
            ReviewError: it will not be: too many wait, or the caller has shown too many bad ones. Or the review's own.
        """
        if self._turns_of(caller) < 1:
            raise ReviewError("too many bad tokens came from there")
        if self._waiting >= _WAITING:
            raise ReviewError("too many tokens wait to be judged")
        self._change(caller, -1)
        self._waiting += 1
        bad = False
        try:
            async with self._turns:
                user = await review()
            bad = user is None
            return user
        finally:
            self._waiting -= 1
            if not bad:
                self._change(caller, 1)

    def _turns_of(self, caller: str) -> float:
        left, at = self._left.get(caller, (_BAD, 0.0))
        return min(_BAD, left + (self._clock() - at) * _REGAINED)

    def _change(self, caller: str, turns: int) -> None:
        self._left[caller] = self._turns_of(caller) + turns, self._clock()
        self._left.move_to_end(caller)
        while len(self._left) > _ADDRESSES:
            self._left.popitem(last=False)

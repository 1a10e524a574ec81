"""Remembering what a pure step made of its inputs, so that what did not change is not made again."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Memo(Generic[T]):
    """The last outcome of a step for each key. Equal inputs give the same object again, and so do equal outcomes.

    Inputs are compared by identity first: unchanged ones cost next to nothing.
    """

    def __init__(self) -> None:
        self._last: dict[Hashable, tuple[tuple[object, ...], T]] = {}
        self._used: dict[Hashable, tuple[tuple[object, ...], T]] = {}

    def of(self, key: Hashable, inputs: tuple[object, ...], make: Callable[[], T]) -> T:
        """Return what `make` makes of the inputs, or made of equal ones in the last pass."""
        known = self._last.get(key)
        if known is None or known[0] != inputs:
            made = make()
            known = (inputs, known[1] if known is not None and known[1] == made else made)
        elif known[0] is not inputs:
            # Equal ones may be other objects now, and will then be compared by identity again.
            known = (inputs, known[1])
        self._used[key] = known
        return known[1]

    def last(self, key: Hashable) -> T | None:
        """Return the outcome of the last pass."""
        known = self._last.get(key)
        return known[1] if known else None

    def sweep(self) -> None:
        """End a pass: forget the keys that it did not ask for."""
        self._last, self._used = self._used, {}

"""A sliding minute of one-second slots."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

SLOT_MS = 1_000
SLOTS = 60
"""Seconds of which no more than the limit may be admitted, wherever they begin."""


class Window:
    """What was admitted of one thing, second by second.

    A slot counts for as long as any moment in it can be within 60 s of now: until 61 s after it began. So in no 60 s,
    from whatever moment on, more is admitted than was left at its last admission.
    """

    __slots__ = ("_slots", "_used")

    def __init__(self) -> None:
        self._slots: dict[int, int] = {}
        self._used = 0

    def used(self, now: int) -> int:
        """Return what counts now, and forget what never will again; `now` goes only forward."""
        self._drop([slot for slot in self._slots if _end(slot) <= now])
        return self._used

    def charge(self, at: int, amount: int) -> None:
        """Count an amount as admitted at a time in milliseconds; it may be later than now, as for a lease."""
        slot = at // SLOT_MS
        if slot not in self._slots:
            # Of what nobody asks for no more is kept either. No lease lives for nearly as long as this spares.
            self._drop([old for old in self._slots if old < slot - 2 * SLOTS])
        self._slots[slot] = self._slots.get(slot, 0) + amount
        self._used += amount

    def amend(self, at: int, by: int) -> None:
        """Change what was admitted at a time; nothing of what does not count any more."""
        slot = at // SLOT_MS
        if slot in self._slots:
            self._slots[slot] += by
            self._used += by

    def fits_at(self, now: int, room: int) -> int:
        """Return when no more than `room` will count, if nothing else is charged."""
        when, left = now, self.used(now)
        for lapses, less in self.lapses(now):
            if left <= room:
                break
            when, left = lapses, less
        return when

    def lapses(self, now: int) -> Iterator[tuple[int, int]]:
        """Yield when what counts will be less, and how much it will be then, if nothing else is charged."""
        left = self.used(now)
        for slot in sorted(self._slots):
            left -= self._slots[slot]
            yield _end(slot), left

    def _drop(self, slots: Iterable[int]) -> None:
        for slot in slots:
            self._used -= self._slots.pop(slot)


def _end(slot: int) -> int:
    return (slot + SLOTS + 1) * SLOT_MS

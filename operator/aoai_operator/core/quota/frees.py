"""When how much of a tenant's rates will be free again: by it a refusal is told exactly, and remembered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from aoai_operator.core.quota.account import Bound
from aoai_operator.core.quota.limits import Unit


def frees(bounds: Sequence[Bound], now: int) -> Iterator[tuple[int, int]]:
    """Yield (from when on, how many tokens a single request may have), now and whenever that becomes more.

    That is if nobody else asks, and nothing is settled. Without any limit on tokens nothing is yielded.
    """
    bounds = [bound for bound in bounds if bound.unit is not Unit.COST]
    if all(bound.unit is not Unit.TOKENS for bound in bounds):
        return
    left = [bound.most - bound.meter.used(now) for bound in bounds]
    yield now, (most := _free(bounds, left))
    changes = sorted(
        (when, index, bound.most - used) for index, bound in enumerate(bounds) for when, used in bound.meter.lapses(now)
    )
    for place, (when, index, room) in enumerate(changes):
        left[index] = room
        if place + 1 < len(changes) and changes[place + 1][0] == when:
            continue
        if (free := _free(bounds, left)) > most:
            most = free
            yield when, free


def _free(bounds: Sequence[Bound], left: Sequence[int]) -> int:
    rooms = list(zip(bounds, left, strict=True))
    if any(bound.unit is Unit.REQUESTS and room < 1 for bound, room in rooms):
        return 0
    return max(0, min(room for bound, room in rooms if bound.unit is Unit.TOKENS))

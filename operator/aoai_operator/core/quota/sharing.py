"""How the tenants of a pool share what it can give.

A guarantee is kept free for its tenant, whatever others do. What is left goes to those that may burst: first to all
that are Critical, then Standard, then Sheddable, and among equals by max-min fairness (Bertsekas and Gallager, Data
Networks, 6.5.2): nobody gets more as long as somebody with less wants more. What nobody wants is shared in the same
order, evenly, so that whoever comes next finds some.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from aoai_operator.core.names import PoolKey


class Priority(IntEnum):
    """Who is the first to get what is free; the last is the first to lose it."""

    CRITICAL = 0
    STANDARD = 1
    SHEDDABLE = 2


@dataclass(frozen=True, slots=True)
class Claim:
    """What one tenant has a right to, and what it wants, in tokens a minute.

    Attributes:
        guaranteed: what is kept for it.
        wanted: what it asked for in the last minute, refused or not.
        priority: its place where the pool is short.
        burst: whether it may use what is free above its guarantee.
        idle: it has asked for nothing for so long that its guarantee is lent; it gets that back at its first request.
    """

    tenant: PoolKey
    guaranteed: int = 0
    wanted: int = 0
    priority: Priority = Priority.STANDARD
    burst: bool = True
    idle: bool = False


def shares(capacity: int, claims: Iterable[Claim]) -> Mapping[PoolKey, int]:
    """Return what each tenant may use in a minute: never less than its guarantee.

    Together that is at most the capacity, unless more is guaranteed than that, or lent.
    """
    claims = tuple(claims)
    given = {claim.tenant: claim.guaranteed for claim in claims}
    free = max(0, capacity - sum(0 if claim.idle else claim.guaranteed for claim in claims))
    classes = [[c for c in claims if c.burst and c.priority is priority] for priority in Priority]
    for equals in classes:
        wants = [max(0, claim.wanted - claim.guaranteed) for claim in equals]
        for claim, more in zip(equals, _fair(free, wants), strict=True):
            given[claim.tenant] += more
            free -= more
    for equals in classes:
        active = [claim for claim in equals if not claim.idle]
        for claim in active:
            given[claim.tenant] += free // len(active)
        if active:
            break
    return given


def _fair(free: int, wants: Sequence[int]) -> list[int]:
    """Share by max-min fairness, in whole tokens; what cannot be divided stays free."""
    given = [0] * len(wants)
    left = sorted(range(len(wants)), key=wants.__getitem__)
    for place, index in enumerate(left):
        given[index] = min(wants[index], free // (len(left) - place))
        free -= given[index]
    return given

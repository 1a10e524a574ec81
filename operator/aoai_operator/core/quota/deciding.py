"""Whether a request is let in, and what may be spent beside it without asking: by its limits, and what counts of each.

Every store decides so; what Redis runs by itself is held to this by its tests (adapters/redis/ledger.lua).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from aoai_operator.core.names import PoolKey
from aoai_operator.core.quota.account import Bound
from aoai_operator.core.quota.calendar import Period
from aoai_operator.core.quota.limits import Amount, Limits

FAR_MS, NEAR_MS = 10_000, 2_000
"""How long a lease lives while more, or less, than half of every rate is left."""
LOOK_AGAIN_MS = 1_000
"""After how long a share that is too small now may be large enough."""
WORTH_MS = 500
"""Life under which a lease is not worth it."""
OF_LIMIT, OF_LEFT = 100, 8
"""A lease is at most a hundredth of each limit, and an eighth of what is left of it."""


Shared = tuple[PoolKey, str]
"""What tenants share: a pool's deployments of a model."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request that wants in.

    Attributes:
        tenant, model: whose it is, and for what.
        pool: of which pool it is to be.
        need: what it is estimated to use; nothing where it was let in by a lease, and wants the next one.
        want: what the asker would like to spend without asking; nothing for no lease.
        timeout_ms: after how long it must be over.
        usual: what requests like it use, so that no lease is given that lets none in; None: what it needs itself.
    """

    tenant: PoolKey
    model: str
    need: Amount
    pool: PoolKey | None = None
    want: Amount = field(default_factory=dict)
    timeout_ms: int = 600_000
    usual: Amount | None = None


@dataclass(frozen=True, slots=True)
class Granted:
    """It is let in, and its need is charged.

    Attributes:
        grant: the number by which it is settled.
        lease: what may be spent without asking, for `life_ms` from the moment on at which it was asked for.
        shadow: why it would have been refused, if its tenant's limits were enforced.
    """

    grant: int
    lease: Amount
    life_ms: int
    shadow: Refused | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """It is not let in, and costs nothing.

    Attributes:
        limit: the field that names the limit that is the last to let it in.
        model: the model that the limit is for; empty for all.
        retry_ms: after how long it would be let in, if nobody else asked and nothing were settled; None: never, as it
            is larger than the limit. Of a limit on requests at once nobody knows when: 0.
        period: of an exhausted budget, how long it lasts.
    """

    limit: str
    model: str
    retry_ms: int | None
    period: Period | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What a store decided.

    Attributes:
        found: that.
        bounds: the limits that the request had to keep, with what counts of each after it was let in, or before it
            was refused.
        now: when.
    """

    found: Granted | Refused
    bounds: tuple[Bound, ...]
    now: int


Rest = tuple[int, Amount]
"""A grant, and what is left of its lease."""


def refusal(ask: Ask, limits: Limits, running: int, bounds: Sequence[Bound], now: int) -> Refused | None:
    """Return why a request is not let in; None where it is. `running` are those of its tenant that may be under way."""
    if ask.need and (most := limits.concurrent) is not None and running >= most:
        return Refused("concurrentRequests", "", 0)
    waits = [
        (_wait(bound, need, now), bound)
        for bound in bounds
        if (need := ask.need.get(bound.unit, 0)) and bound.meter.used(now) + need > bound.most
    ]
    if not waits:
        return None
    wait, bound = max(waits, key=lambda found: (found[0] is None, found[0] or 0))
    return Refused(bound.name, bound.model, wait, bound.period)


def _wait(bound: Bound, need: int, now: int) -> int | None:
    if need <= bound.most:
        return bound.meter.fits_at(now, bound.most - need) - now
    return LOOK_AGAIN_MS if bound.ever is not None and need <= bound.ever else None


def lease_of(ask: Ask, bounds: Sequence[Bound], now: int) -> tuple[Amount, int]:
    """Return what may be spent without asking, as much of every unit as its limits let, and for how long."""
    if not ask.want:
        return {}, 0
    lefts = [(b, b.most - b.meter.used(now) - ask.need.get(b.unit, 0)) for b in bounds]
    given = dict(ask.want)
    for bound, left in lefts:
        share = min(bound.most // OF_LIMIT, left // OF_LEFT)
        given[bound.unit] = max(0, min(given.get(bound.unit, 0), share))
    far = all(2 * left > bound.most for bound, left in lefts if bound.ends is None)
    # What is spent in a calendar window counts in that one: no lease is for two of them.
    ends = (bound.ends - 1 - now for bound, _ in lefts if bound.ends is not None)
    life = min(FAR_MS if far else NEAR_MS, *ends, FAR_MS)
    # One that lets in no other request like this one, or near the limit not two of them, saves no call.
    least, usual = 1 if far else 2, ask.need if ask.usual is None else ask.usual
    # What a request needs and is limited it cannot do without, whether it was wanted or not.
    units = ask.want.keys() | {bound.unit for bound in bounds if usual.get(bound.unit)}
    worth = life >= WORTH_MS and all(given[unit] >= max(1, least * usual.get(unit, 0)) for unit in units)
    return (given, life) if worth else ({}, 0)

"""What a pool can give of a model in a minute, and what each of its tenants took of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass

from aoai_operator.core.names import PoolKey
from aoai_operator.core.quota.account import ALL_MODELS, Bound, Meters
from aoai_operator.core.quota.limits import Unit
from aoai_operator.core.quota.sharing import Claim, Priority, shares
from aoai_operator.core.quota.window import Window

GRAIN_MS = 100
"""How long shares stay as they were worked out: the wishes of others change them no sooner."""


@dataclass(frozen=True, slots=True)
class Right:
    """What a tenant was promised of a pool; see `Claim`."""

    guaranteed: int = 0
    priority: Priority = Priority.STANDARD
    burst: bool = True


@dataclass(frozen=True, slots=True)
class Pool:
    """How a pool's deployments of a model are shared.

    Attributes:
        capacity: tokens that they can give in a minute.
        rights: what its tenants were promised; all of them.
        lend_idle_after_ms: after how long without a request a guarantee is lent; None: never.
    """

    capacity: int
    rights: Mapping[PoolKey, Right]
    lend_idle_after_ms: int | None = None

    def claim(self, tenant: PoolKey, wanted: int, asked: int, now: int) -> Claim:
        """Return a tenant's claim, who asked for so much in the last minute, and the last time at `asked`."""
        right = self.right(tenant)
        return Claim(tenant, right.guaranteed, wanted, right.priority, right.burst, self.idle(asked, now))

    def idle(self, asked: int, now: int) -> bool:
        """Tell whether the guarantee of a tenant that asked last at `asked` is lent."""
        return self.lend_idle_after_ms is not None and now - asked >= self.lend_idle_after_ms

    def ever(self, tenant: PoolKey) -> int:
        """Return the most that a tenant's share can be."""
        right = self.right(tenant)
        return max(self.capacity if right.burst else 0, right.guaranteed)

    def right(self, tenant: PoolKey) -> Right:
        """Return what a tenant was promised."""
        return self.rights.get(tenant, Right())


class Taken:
    """What one tenant took of a pool."""

    def __init__(self, total: Window) -> None:
        self.window, self.wanted = Window(), Window()
        self.asked = 0
        self.meters: Meters = ((Unit.TOKENS, self.window), (Unit.TOKENS, total))


class SharedPool:
    """Says how much of a pool a tenant may take now. Worked out ten times a second at most."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._total = Window()
        self._taken: dict[PoolKey, Taken] = {}
        self._shares: Mapping[PoolKey, int] = {}
        self._shared_at = -1

    def change(self, pool: Pool) -> None:
        """Share it in another way from now on; what was taken stays counted."""
        self._pool = pool
        self._taken = {tenant: taken for tenant, taken in self._taken.items() if tenant in pool.rights}
        self._shared_at = -1

    @property
    def tenants(self) -> Set[PoolKey]:
        """Those that share it."""
        return self._pool.rights.keys()

    def taken(self, tenant: PoolKey) -> Taken:
        """Return what a tenant took."""
        return self._taken.setdefault(tenant, Taken(self._total))

    def want(self, tenant: PoolKey, tokens: int, now: int) -> None:
        """Note that a tenant asks for tokens, whether it gets them or not."""
        known = self.taken(tenant)
        if self._pool.idle(known.asked, now):
            self._shared_at = -1
        known.asked = now
        known.wanted.charge(now, tokens)

    def bounds(self, tenant: PoolKey, tokens: int, now: int) -> Iterator[Bound]:
        """Yield what a tenant that wants so many tokens must keep: its share, and beyond its guarantee what is free."""
        if now // GRAIN_MS != self._shared_at:
            self._shares, self._shared_at = shares(self._pool.capacity, self._claims(now)), now // GRAIN_MS
        mine = self.taken(tenant).window
        most = self._shares.get(tenant, self._pool.capacity)
        yield Bound("capacity", ALL_MODELS, Unit.TOKENS, most, mine, ever=self._pool.ever(tenant))
        # What others borrowed lapses within a minute; who takes what is its own need not wait for that.
        if mine.used(now) + tokens > self._pool.right(tenant).guaranteed:
            yield Bound("capacity", ALL_MODELS, Unit.TOKENS, self._pool.capacity, self._total)

    def _claims(self, now: int) -> Iterator[Claim]:
        for tenant in self._pool.rights.keys() | self._taken.keys():
            known = self._taken.get(tenant)
            wanted, asked = (known.wanted.used(now), known.asked) if known else (0, 0)
            yield self._pool.claim(tenant, wanted, asked, now)

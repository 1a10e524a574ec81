"""Admits requests within their tenants' limits, settles what they really used, and hands out leases.

Everything that is admitted is a grant: what one request needs, and a lease beside it, which the asker may spend on
requests that it does not ask for. All of it is charged at once, so that nobody who asks at the same time can have it as
well. A lease is charged at the end of its life: whenever in it it is spent, it counts for at least 60 s from then on.

A grant is known until its last request must be over. So what was spent is settled once, however often, late and in
whatever order that is told; what nobody settles stays charged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush

from aoai_operator.core.names import PoolKey
from aoai_operator.core.quota.account import Account, Bound, Meters, amend, charge
from aoai_operator.core.quota.deciding import Ask, Granted, Refused, Shared, lease_of, refusal
from aoai_operator.core.quota.limits import Amount, Limits, Unit
from aoai_operator.core.quota.pool import Pool, SharedPool, Taken
from aoai_operator.core.quota.usage import Usage

RESTS_MS = 86_400_000
"""For how long what is left of a lease may be given back to a budget, whose tenant may not have asked since."""


@dataclass(slots=True)
class _Grant:
    """What was admitted.

    Attributes:
        tenant, account: whose it is.
        meters: where it counts: those that there were when it was let in.
        at, need: when the request that asked was charged, and with how much.
        spent_at, charged: when the lease is taken to be spent, and how much of it is charged there.
        leased: whether there is one: without, nothing of it is to come once the request that asked is settled.
        budgeted: whether it counts in a budget.
        running: whether the request that asked may be under way.
        open: whether the lease may be.
        settled: the draws that were settled.
    """

    tenant: PoolKey
    account: Account
    meters: Meters
    at: int
    need: Amount
    spent_at: int
    charged: dict[Unit, int]
    leased: bool
    budgeted: bool
    running: bool
    open: bool = True
    settled: set[int] = field(default_factory=set)

    def stop(self) -> None:
        """Take it that the request that asked is over."""
        if self.running:
            self.running = False
            self.account.running -= 1


class Ledger:
    """The tenants' accounts. Times are milliseconds, and go only forward."""

    def __init__(self, first: int = 1) -> None:
        """Begin with nothing used; `first` is the number of the first grant.

        Those of a ledger that was before must not be given again: what was let in by them may still be settled.
        """
        self._accounts: dict[PoolKey, Account] = {}
        self._pools: dict[Shared, SharedPool] = {}
        self._grants: dict[int, _Grant] = {}
        self._ends: list[tuple[int, int]] = []
        self._touched: set[PoolKey] = set()
        self._last = first - 1

    def limit(self, limits: Mapping[PoolKey, Limits]) -> None:
        """Take the limits of all tenants. What was used stays counted."""
        for tenant in self._accounts.keys() - limits.keys():
            del self._accounts[tenant]
        for tenant, granted in limits.items():
            account = self._accounts.get(tenant)
            if account is None:
                self._accounts[tenant] = Account(granted)
            else:
                account.limits = granted

    def share(self, pools: Mapping[Shared, Pool]) -> None:
        """Take how pools' models are shared; the others are not. What was taken of them stays counted."""
        for key in self._pools.keys() - pools.keys():
            del self._pools[key]
        for key, pool in pools.items():
            self._pools.setdefault(key, SharedPool(pool)).change(pool)

    def ask(self, ask: Ask, now: int) -> Granted | Refused:
        """Let a request in if it keeps every limit of its tenant, and takes nothing that is kept for others."""
        account = self._accounts.setdefault(ask.tenant, Account(Limits()))
        if pool := self._shared(ask):
            pool.want(ask.tenant, ask.need.get(Unit.TOKENS, 0), now)
        bounds = self.bounds(ask, now)
        refused = refusal(ask, account.limits, account.running, bounds, now)
        if refused and not account.limits.shadow:
            return refused
        asks_each_time = refused or account.limits.concurrent is not None
        lease, life = ({}, 0) if asks_each_time else lease_of(ask, bounds, now)
        if not ask.need and not lease:
            return Granted(0, {}, 0)
        return Granted(self._admit(ask, account, lease, now, life), lease, life, refused)

    def settle(self, grant: int, draw: int, estimate: Amount, used: Amount | None) -> bool:
        """Replace what was estimated of one request by what it used; tell whether that is news.

        Args:
            grant: what it was let in by.
            draw: 0 for the request that asked; others count those that were let in by the lease.
            estimate: what was taken of the lease for it; of the request that asked it is known.
            used: what it used; nothing at all where Azure refused it, or it was never sent; None: nobody knows, and
                what was estimated stands.
        """
        known = self._grants.get(grant)
        if known is None or draw in known.settled:
            return False
        known.settled.add(draw)
        self._touched.add(known.tenant)
        before = known.need if draw == 0 else estimate
        used = before if used is None else used
        by = {unit: used.get(unit, 0) - before.get(unit, 0) for unit in Unit}
        if draw == 0:
            known.stop()
            amend(known.meters, known.at, by)
        else:
            by = {unit: max(more, -known.charged.get(unit, 0)) for unit, more in by.items()}
            known.charged = {unit: known.charged.get(unit, 0) + more for unit, more in by.items()}
            amend(known.meters, known.spent_at, by)
        if not known.leased:
            del self._grants[grant]
        return True

    def give_back(self, grant: int, unused: Amount, now: int) -> bool:
        """Take back what nobody spent of a lease; tell whether that is news. What was spent was so by now."""
        known = self._grants.get(grant)
        if known is None or not known.open:
            return False
        known.open = False
        amend(known.meters, known.spent_at, {unit: -amount for unit, amount in known.charged.items()})
        known.spent_at = min(known.spent_at, now)
        known.charged = {u: amount - max(0, min(unused.get(u, 0), amount)) for u, amount in known.charged.items()}
        charge(known.meters, known.spent_at, known.charged)
        return True

    def owe(self, shared: Shared, tenant: PoolKey, amount: Amount, now: int) -> None:
        """Count what was let in while nobody could be asked; if that is more than was left, nothing is for a time."""
        _, model = shared
        account = self._accounts.setdefault(tenant, Account(Limits()))
        pool = self._pools.get(shared)
        charge(_meters(account, model, pool.taken(tenant) if pool else None), now, amount)
        self._touched.add(tenant)

    def touched(self) -> set[PoolKey]:
        """Return the tenants of whom something was counted since the last call."""
        touched, self._touched = self._touched, set()
        return touched

    def usage(self, tenant: PoolKey, now: int) -> Usage | None:
        """Return what counts of a tenant; None for one without limits."""
        self._expire(now)
        account = self._accounts.get(tenant)
        return account.usage(now) if account else None

    def restore(self, usages: Mapping[PoolKey, Usage]) -> None:
        """Count what a ledger before this one had counted of tenants.

        Of which pool it was is not told: a tenant that shares a model in several is taken to have left them alone.
        """
        shares: dict[tuple[PoolKey, str], list[SharedPool]] = {}
        for (_, model), pool in self._pools.items():
            for tenant in pool.tenants & usages.keys():
                shares.setdefault((tenant, model), []).append(pool)
        for tenant, usage in usages.items():
            if account := self._accounts.get(tenant):
                account.restore(usage)
            for model, (tokens, _) in usage.models.items():
                if len(pools := shares.get((tenant, model), [])) == 1:
                    charge(pools[0].taken(tenant).meters, usage.at, {Unit.TOKENS: tokens})

    def reserved(self, grant: int) -> int:
        """Return the tokens that were charged for the request that asked; 0 where the grant is not known."""
        known = self._grants.get(grant)
        return known.need.get(Unit.TOKENS, 0) if known else 0

    def bounds(self, ask: Ask, now: int) -> tuple[Bound, ...]:
        """Return the limits that a request must keep, its tenant's and its pool's, with what was used of each."""
        self._expire(now)
        account, pool = self._accounts.get(ask.tenant), self._shared(ask)
        own = tuple(account.bounds(ask.model, now)) if account else ()
        return (*own, *pool.bounds(ask.tenant, ask.need.get(Unit.TOKENS, 0), now)) if pool else own

    def _shared(self, ask: Ask) -> SharedPool | None:
        return self._pools.get((ask.pool, ask.model)) if ask.pool else None

    def _admit(self, ask: Ask, account: Account, lease: Amount, now: int, life: int) -> int:
        self._last += 1
        running = bool(ask.need)
        account.running += running
        pool = self._shared(ask)
        taken = pool.taken(ask.tenant) if pool else None
        self._touched.add(ask.tenant)
        meters = _meters(account, ask.model, taken)
        leased, budgeted = bool(lease), bool(lease and account.limits.budgets)
        grant = _Grant(ask.tenant, account, meters, now, ask.need, now + life, dict(lease), leased, budgeted, running)
        charge(meters, grant.at, grant.need)
        charge(meters, grant.spent_at, grant.charged)
        self._grants[self._last] = grant
        heappush(self._ends, (now + life + ask.timeout_ms, self._last))
        return self._last

    def _expire(self, now: int) -> None:
        """Forget grants whose requests are over; what was not settled stays charged."""
        while self._ends and self._ends[0][0] <= now:
            ended, number = heappop(self._ends)
            over = self._grants.get(number)
            if over is None:
                continue
            over.stop()
            if over.open and over.budgeted and ended < over.at + RESTS_MS:
                heappush(self._ends, (over.at + RESTS_MS, number))
            else:
                del self._grants[number]


def _meters(account: Account, model: str, taken: Taken | None) -> Meters:
    return (*account.meters(model), *taken.meters) if taken else account.meters(model)

"""Workers of proxies, at random, and an oracle that remembers everything: what holds of every ledger."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aoai_operator.core.names import PoolKey
from aoai_operator.core.quota.calendar import Period
from aoai_operator.core.quota.deciding import Ask, Granted, Refused
from aoai_operator.core.quota.ledger import Ledger
from aoai_operator.core.quota.limits import Amount, Budget, Limits, Unit

TEAM, MODEL = PoolKey("ai", "team"), "gpt-4o"
START = 1_795_000_000_000
MINUTE = 60_000
TOKENS, REQUESTS = Unit.TOKENS, Unit.REQUESTS


def tokens(count: int) -> Amount:
    return {TOKENS: count, REQUESTS: 1}


def ask(ledger: Ledger, count: int, now: int, want: Amount | None = None) -> Granted | Refused:
    return ledger.ask(Ask(TEAM, MODEL, tokens(count), want=want or {}), now)


def used(ledger: Ledger, now: int) -> dict[str, int]:
    bounds = ledger.bounds(Ask(TEAM, MODEL, {}), now)
    return {f"{bound.name} {bound.model}".strip(): bound.meter.used(now) for bound in bounds}


@dataclass
class Drawn:
    """A lease as a worker holds it, and what happened to its grant."""

    granted: Granted
    asked: int
    need: int
    left: int
    spent_at: int
    charged: dict[int, int] = field(default_factory=dict)
    draws: int = 0
    estimates: dict[int, int] = field(default_factory=dict)
    settled: set[int] = field(default_factory=set)
    returned: bool = False

    def charges(self) -> list[tuple[int, int]]:
        return [(self.asked, self.charged[0]), (self.spent_at, self.charged[-1])]


class Workers(RuleBasedStateMachine):
    """Workers that ask, draw on leases, settle and give back in any order, late, twice or never."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.spent: dict[tuple[int, int], tuple[int, int]] = {}
        self.grants: list[Drawn] = []
        self.owed: list[tuple[int, int]] = []

    def new_ledger(self) -> Ledger:
        """Return the ledger that is tried."""
        return Ledger()

    @initialize(limit=st.sampled_from([50, 1_000, 30_000]))
    def begin(self, limit: int) -> None:
        self.limit = self.highest = limit
        self.ledger = self.new_ledger()
        self.change(limit)

    @rule(limit=st.sampled_from([20, 50, 1_000, 30_000]))
    def change(self, limit: int) -> None:
        self.limit, self.highest = limit, max(self.highest, limit)
        self.ledger.limit({TEAM: Limits({TOKENS: limit}, budgets=(Budget(Period.HOUR, TOKENS, 5 * limit),))})

    @rule(count=st.integers(1, 500))
    def owe(self, count: int) -> None:
        """Let something in without asking, as a worker does that cannot."""
        self.ledger.owe((PoolKey("ai", "chat"), MODEL), TEAM, tokens(count), self.now)
        self.owed.append((self.now, count))

    @rule(ms=st.integers(0, 70_000) | st.integers(0, 2_000))
    def wait(self, ms: int) -> None:
        self.now += ms

    @rule(part=st.integers(1, 120), want=st.integers(0, 2_000))
    def request(self, part: int, want: int) -> None:
        need = max(1, self.limit * part // 400)
        found = ask(self.ledger, need, self.now, {TOKENS: want} if want else None)
        if isinstance(found, Refused):
            return
        self.spent[found.grant, 0] = self.now, need
        lease = found.lease.get(TOKENS, 0)
        made = Drawn(found, self.now, need, lease, self.now + found.life_ms)
        made.charged = {0: need, -1: lease}
        self.grants.append(made)

    @precondition(lambda self: any(g.left for g in self.grants))
    @rule(data=st.data(), count=st.integers(1, 400))
    def draw(self, data: st.DataObject, count: int) -> None:
        held = data.draw(st.sampled_from([g for g in self.grants if g.left]))
        if held.returned or self.now > held.asked + held.granted.life_ms:
            return
        count = min(count, held.left)
        held.left -= count
        held.draws += 1
        held.estimates[held.draws] = count
        self.spent[held.granted.grant, held.draws] = self.now, count

    @precondition(lambda self: self.grants)
    @rule(data=st.data(), less=st.integers(0, 100))
    def settle(self, data: st.DataObject, less: int) -> None:
        held = data.draw(st.sampled_from(self.grants))
        draw = data.draw(st.integers(0, held.draws))
        estimate = held.need if draw == 0 else held.estimates[draw]
        real = estimate * (100 - less) // 100
        news = self.ledger.settle(held.granted.grant, draw, {TOKENS: estimate}, {TOKENS: real})
        assert not (news and draw in held.settled), "counted twice"
        if news:
            held.settled.add(draw)
            self.spent[held.granted.grant, draw] = self.spent[held.granted.grant, draw][0], real
            held.charged[0 if draw == 0 else -1] -= estimate - real

    @precondition(lambda self: self.grants)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        held = data.draw(st.sampled_from(self.grants))
        news = self.ledger.give_back(held.granted.grant, {TOKENS: held.left}, self.now)
        assert not (news and held.returned), "given back twice"
        if news:
            held.charged[-1] -= held.left
            held.spent_at = min(held.spent_at, self.now)
        held.returned = True

    @invariant()
    def in_no_window_more_than_the_limit(self) -> None:
        for at, _ in self.spent.values():
            assert sum(n for when, n in self.spent.values() if at <= when < at + MINUTE) <= self.highest

    @invariant()
    def nothing_is_lost_and_nothing_counts_twice(self) -> None:
        if not hasattr(self, "ledger"):
            return
        counted = used(self.ledger, self.now)
        assert counted["tokensPerMinute"] == self.charged(lambda at: (at // 1000 + 61) * 1000 > self.now)
        assert counted["budgets"] == self.charged(lambda at: at // 3_600_000 == self.now // 3_600_000)

    def charged(self, counts: object) -> int:
        assert callable(counts)
        return sum(
            amount
            for at, amount in [*self.owed, *(charge for held in self.grants for charge in held.charges())]
            if counts(at)
        )

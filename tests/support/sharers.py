"""Tenants with limits of every kind, who share a pool, at random: for two ledgers that must say the same."""

from __future__ import annotations

from datetime import UTC
from zoneinfo import ZoneInfo

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from aoai_operator.core.names import PoolKey
from aoai_operator.core.quota.calendar import Period
from aoai_operator.core.quota.deciding import Ask, Granted
from aoai_operator.core.quota.ledger import Ledger
from aoai_operator.core.quota.limits import Amount, Budget, Limits, Unit
from aoai_operator.core.quota.pool import Pool, Right
from aoai_operator.core.quota.sharing import Priority

TENANTS = tuple(PoolKey("ai", name) for name in ("a", "b", "c"))
MODELS = ("gpt", "mini")
POOL = PoolKey("ai", "chat")
START = 1_795_000_000_000
TOKENS, REQUESTS, COST = Unit.TOKENS, Unit.REQUESTS, Unit.COST

some = st.integers(0, 300)
rates = st.fixed_dictionaries(
    {}, optional={TOKENS: st.sampled_from([0, 100, 1_000, 40_000]), REQUESTS: st.integers(0, 200)}
)
budgets = st.builds(
    Budget,
    st.sampled_from(Period),
    st.sampled_from([TOKENS, COST]),
    st.sampled_from([100, 5_000, 500_000]),
    st.sampled_from([UTC, ZoneInfo("Europe/Berlin")]),
)
limits = st.builds(
    Limits,
    per_minute=rates,
    per_model=st.dictionaries(st.sampled_from(MODELS), rates, max_size=2),
    concurrent=st.none() | st.none() | st.integers(0, 3),
    budgets=st.lists(budgets, max_size=3).map(tuple),
    shadow=st.booleans(),
)
rights = st.builds(Right, st.sampled_from([0, 500, 10_000]), st.sampled_from(Priority), st.booleans())
pools = st.builds(
    Pool,
    st.sampled_from([300, 2_000, 50_000]),
    st.fixed_dictionaries(dict.fromkeys(TENANTS, rights)),
    st.none() | st.sampled_from([0, 1_000, 60_000]),
)
amounts = st.fixed_dictionaries({TOKENS: some, REQUESTS: st.just(1)}, optional={COST: some})


class Sharers(RuleBasedStateMachine):
    """Does to a ledger whatever may be done to it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.grants: list[Granted] = []

    def new_ledger(self) -> Ledger:
        """Return the ledger that is tried."""
        return Ledger()

    @initialize(found=st.fixed_dictionaries(dict.fromkeys(TENANTS, limits)))
    def begin(self, found: dict[PoolKey, Limits]) -> None:
        self.ledger = self.new_ledger()
        self.ledger.limit(found)

    @rule(found=st.fixed_dictionaries(dict.fromkeys(TENANTS, limits)))
    def change(self, found: dict[PoolKey, Limits]) -> None:
        self.ledger.limit(found)

    @rule(found=st.fixed_dictionaries(dict.fromkeys(MODELS, pools)))
    def share(self, found: dict[str, Pool]) -> None:
        self.ledger.share({(POOL, model): pool for model, pool in found.items()})

    @rule(ms=st.integers(0, 1_500) | st.integers(0, 70_000) | st.integers(0, 30 * 86_400_000))
    def wait(self, ms: int) -> None:
        self.now += ms

    @rule(
        tenant=st.sampled_from(TENANTS),
        model=st.sampled_from(MODELS),
        need=amounts | st.just({}),
        want=st.just({}) | st.fixed_dictionaries({}, optional={TOKENS: some, REQUESTS: st.integers(1, 20), COST: some}),
        pooled=st.booleans(),
        usual=st.none() | amounts,
        timeout=st.sampled_from([1_000, 600_000]),
    )
    def ask(
        self,
        *,
        tenant: PoolKey,
        model: str,
        need: Amount,
        want: Amount,
        pooled: bool,
        usual: Amount | None,
        timeout: int,
    ) -> None:
        asked = Ask(tenant, model, need, POOL if pooled else None, want, timeout, usual)
        found = self.ledger.ask(asked, self.now)
        if isinstance(found, Granted) and found.grant:
            self.grants.append(found)

    @rule(tenant=st.sampled_from(TENANTS), model=st.sampled_from(MODELS), amount=amounts)
    def owe(self, tenant: PoolKey, model: str, amount: Amount) -> None:
        self.ledger.owe((POOL, model), tenant, amount, self.now)

    @precondition(lambda self: self.grants)
    @rule(data=st.data(), draw=st.integers(0, 3), estimate=amounts, used=st.none() | amounts | st.just({}))
    def settle(self, data: st.DataObject, draw: int, estimate: Amount, used: Amount | None) -> None:
        grant = data.draw(st.sampled_from(self.grants))
        self.ledger.settle(grant.grant, draw if grant.lease else 0, estimate, used)

    @precondition(lambda self: self.grants)
    @rule(data=st.data(), unused=amounts)
    def give_back(self, data: st.DataObject, unused: Amount) -> None:
        grant = data.draw(st.sampled_from(self.grants))
        self.ledger.give_back(grant.grant, unused, self.now)

    @rule(tenant=st.sampled_from(TENANTS))
    def look(self, tenant: PoolKey) -> None:
        self.ledger.usage(tenant, self.now)

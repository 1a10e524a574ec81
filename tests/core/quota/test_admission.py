"""What proxies are told, and what is learned from what requests used."""

from __future__ import annotations

from dataclasses import replace

from aoai_operator.core.names import HostKey, PoolKey, SecretRef
from aoai_operator.core.observed import HostState, Overrides, State
from aoai_operator.core.quota.admission import Admission
from aoai_operator.core.quota.asking import Answer, No, Question, Rate, Yes
from aoai_operator.core.quota.deciding import Refused
from aoai_operator.core.quota.estimate import Request
from aoai_operator.core.quota.limits import Amount, Unit
from aoai_operator.core.quota.terms import Used
from aoai_operator.core.table import Budget, Model, PerMinute, Quota, RoutingTable, Share, Tenant, TokenRates
from support.answers import SETTLEMENT
from support.tables import endpoint, routing_table

NOW = 1_795_000_000_000
TEAM, POOL, MODEL = PoolKey("ai", "team"), PoolKey("ai", "chat"), "gpt"
TOKENS, REQUESTS, COST = Unit.TOKENS, Unit.REQUESTS, Unit.COST


def table(quota: Quota | None, *, prices: TokenRates | None = None) -> RoutingTable:
    made = routing_table(endpoint("east"))
    tenant = Tenant(
        namespace="ai", name="team", models=(), api_keys=(SecretRef("ai", "team-key", "api-key"),), quota=quota
    )
    models = tuple(m.model_copy(update={"prices": prices, "currency": "USD"}) for m in made.models)
    return made.model_copy(update={"tenants": (tenant,), "models": models})


def admission(quota: Quota | None, *, prices: TokenRates | None = None) -> Admission:
    made = Admission(NOW)
    made.follow([table(quota, prices=prices)])
    return made


def asked(
    admission: Admission, request: Request, *, request_id: str = "r", now: int = NOW, want: Amount | None = None
) -> Answer:
    return admission.ask(Question(TEAM, POOL, MODEL, request_id, request, want or {}, {}, ()), now)


def tokens_per_minute(count: int) -> Quota:
    return Quota(limits=(PerMinute(tokens=count),))


def left(admission: Admission, now: int = NOW) -> int | None:
    answer = admission.ask(Question(TEAM, POOL, MODEL, "", Request(0, 0), {}, {}, ()), now)
    assert isinstance(answer, Yes)
    return answer.known.tokens.remaining if answer.known.tokens else None


def test_who_has_no_limits_need_not_ask() -> None:
    assert asked(admission(None), Request(100)) is None


def test_what_is_left_is_told_with_every_answer() -> None:
    made = admission(tokens_per_minute(1_000))
    answer = asked(made, Request(400, cap=50))
    assert isinstance(answer, Yes)
    assert answer.known.tokens == Rate(1_000, 850, 61)
    assert answer.known.requests is None


def test_a_settlement_finds_the_ask_by_its_request_id_once() -> None:
    made = admission(tokens_per_minute(1_000))
    asked(made, Request(400, cap=500))
    assert left(made) == 400
    assert made.settle(SETTLEMENT)
    assert left(made) == 850
    assert not made.settle(SETTLEMENT)
    assert left(made) == 850


def test_an_ask_that_comes_after_its_request_is_over_costs_nothing() -> None:
    """It waited for a ledger that stood still, and nobody waits for the answer any more."""
    made = admission(tokens_per_minute(1_000))
    assert not made.settle(replace(SETTLEMENT, used=None, sent=False))
    assert asked(made, Request(400, cap=500)) is None
    assert left(made) == 1_000


def test_a_log_line_without_a_request_id_stops_nobody_who_asks_for_a_lease() -> None:
    """Such an ask has none either: its request was let in already."""
    made = admission(tokens_per_minute(1_000))
    made.settle(replace(SETTLEMENT, request_id=""))
    assert left(made) == 1_000


def test_what_was_never_sent_or_refused_costs_nothing() -> None:
    made = admission(tokens_per_minute(1_000))
    asked(made, Request(400, cap=500))
    made.settle(replace(SETTLEMENT, used=None, sent=False))
    assert left(made) == 1_000


def test_what_nobody_told_the_usage_of_keeps_its_charge() -> None:
    made = admission(tokens_per_minute(1_000))
    asked(made, Request(400, cap=500))
    made.settle(replace(SETTLEMENT, used=None))
    assert left(made) == 400


def test_a_stream_that_its_client_left_costs_its_prompt_and_what_was_streamed() -> None:
    made = admission(tokens_per_minute(10_000))
    asked(made, Request(400, cap=5_000))
    made.settle(replace(SETTLEMENT, used=None, streamed_bytes=2_500))
    assert left(made) == 10_000 - 100 - 10


def test_a_lease_is_drawn_on_and_settled_by_its_number() -> None:
    made = admission(tokens_per_minute(100_000))
    answer = asked(made, Request(40, cap=5), want={TOKENS: 400, REQUESTS: 5, COST: 0})
    assert isinstance(answer, Yes)
    assert answer.lease == {TOKENS: 400, REQUESTS: 5}
    before = left(made)
    draw = replace(SETTLEMENT, grant=answer.grant, draw=1, estimate={TOKENS: 15}, used=Used(10, 25))
    assert made.settle(draw)
    assert before is not None
    assert left(made) == before - 20


def test_a_refusal_tells_when_it_fits() -> None:
    made = admission(tokens_per_minute(1_000))
    asked(made, Request(400, cap=700))
    answer = asked(made, Request(400, cap=700))
    assert isinstance(answer, No)
    assert answer.refused == Refused("tokensPerMinute", "", 61_000)
    assert answer.remember_ms == 1_000
    assert answer.frees == ((0, 200), (61_000, 1_000))


def test_what_never_fits_is_no_reason_to_refuse_another() -> None:
    answer = asked(admission(tokens_per_minute(1_000)), Request(400, cap=5_000))
    assert isinstance(answer, No)
    assert (answer.refused.retry_ms, answer.remember_ms) == (None, 0)


def test_shadow_lets_in_and_tells_what_it_would_have_refused() -> None:
    made = admission(Quota(limits=(PerMinute(tokens=1_000),), enforced=False))
    for _ in range(3):
        assert isinstance(asked(made, Request(400, cap=700)), Yes)
    assert left(made) == 0


def test_money_is_reserved_and_settled_by_the_prices() -> None:
    budget = Budget(period="Day", time_zone="Europe/Berlin", cost=1_000, currency="USD")
    made = admission(Quota(budgets=(budget,)), prices=TokenRates(input=2.5, cached=1.25, output=10))
    assert isinstance(asked(made, Request(400, cap=50)), Yes), "100 x 2.5 + 50 x 10 = 750"
    assert isinstance(asked(made, Request(400, cap=50), request_id="s"), No)
    made.settle(replace(SETTLEMENT, used=Used(100, 10, cached=80)))
    assert isinstance(asked(made, Request(400, cap=50), request_id="s"), Yes), "20 x 2.5 + 80 x 1.25 + 10 x 10 = 250"


def test_tokens_count_by_their_weights() -> None:
    quota = Quota(limits=(PerMinute(tokens=1_000),), weights=TokenRates(input=1, cached=0, output=4))
    made = admission(quota)
    asked(made, Request(400, cap=50))
    assert left(made) == 1_000 - 100 - 200
    made.settle(replace(SETTLEMENT, used=Used(100, 10, cached=80)))
    assert left(made) == 1_000 - 20 - 40


def test_answers_are_learned_and_a_limit_that_is_changed_forgets_nothing() -> None:
    made = admission(tokens_per_minute(100_000))
    for number in range(40):
        asked(made, Request(400), request_id=str(number))
        made.settle(replace(SETTLEMENT, request_id=str(number), used=Used(120, 30)))
    used = 100_000 - (left(made) or 0)
    assert used == 40 * 150
    made.follow([table(tokens_per_minute(50_000))])
    assert left(made) == 50_000 - used
    answer = asked(made, Request(400))
    assert isinstance(answer, Yes)
    assert 30 <= answer.known.guess.uncapped <= 36
    assert 0.25 < answer.known.guess.per_byte < 0.3


def test_who_lost_its_limits_is_free_and_who_is_new_begins_with_nothing_used() -> None:
    made = admission(tokens_per_minute(1_000))
    asked(made, Request(400, cap=500))
    made.follow([table(None)])
    assert asked(made, Request(400, cap=500)) is None
    made.follow([table(tokens_per_minute(1_000))])
    assert left(made) == 1_000


def test_the_next_ledger_goes_on_from_what_was_told_whenever_it_learns_of_the_tenant() -> None:
    budget = Budget(period="Day", time_zone="Europe/Berlin", tokens=10_000)
    quota = Quota(limits=(PerMinute(tokens=1_000), PerMinute(model=MODEL, tokens=900)), budgets=(budget,))
    made = admission(quota)
    asked(made, Request(400, cap=500))
    usage = made.usage(TEAM, NOW)
    assert usage is not None
    assert (usage.tokens, usage.budget) == ("600/1000", "6%")
    for tables_first in (True, False):
        after = Admission(NOW + 5_000)
        steps = [lambda after=after: after.follow([table(quota)]), lambda after=after: after.restore({TEAM: usage})]
        for step in steps if tables_first else reversed(steps):
            step()
        again = after.usage(TEAM, NOW + 5_000)
        assert again is not None
        assert (again.tokens, again.models, again.budgets) == (usage.tokens, usage.models, usage.budgets)
        assert left(after, NOW + 5_000) == 300, "of the model's own"
        assert left(after, NOW + 61_000) == 900, "as if all of it had been just then"


def test_a_status_is_written_where_a_hundredth_of_a_limit_changed() -> None:
    made = admission(tokens_per_minute(10_000))
    before = made.usage(TEAM, NOW)
    assert before is not None
    assert not made.policy.differs(TEAM, None, before), "nothing was used"
    asked(made, Request(400, cap=0))
    first = made.usage(TEAM, NOW)
    assert first is not None
    assert made.policy.differs(TEAM, None, first)
    asked(made, Request(200, cap=0), request_id="s")
    second = made.usage(TEAM, NOW)
    assert second is not None
    assert not made.policy.differs(TEAM, first, second), "50 more"
    asked(made, Request(400, cap=0), request_id="t")
    third = made.usage(TEAM, NOW)
    assert third is not None
    assert made.policy.differs(TEAM, first, third)
    over = made.usage(TEAM, NOW + 70_000)
    assert over is not None
    assert made.policy.differs(TEAM, first, over)


OTHER = PoolKey("ai", "other")


def shared(*, known: bool = True) -> RoutingTable:
    """Return a pool of two regions with 1,000 tokens a minute each, of which 600 are kept for another tenant."""
    made = routing_table(endpoint("east"), endpoint("west"))

    def told(model: Model) -> Model:
        capacities = (1_000, 1_000 if known else None)
        hosts = zip(model.hosts, capacities, strict=True)
        return model.model_copy(update={"hosts": tuple(h.model_copy(update={"capacity": c}) for h, c in hosts)})

    tenants = tuple(
        Tenant(namespace="ai", name=name, models=(), api_keys=(), share=share)
        for name, share in (("team", None), ("other", Share(guaranteed=600, burst=False)))
    )
    return made.model_copy(update={"tenants": tenants, "models": tuple(map(told, made.models))})


def sick(*regions: str) -> Overrides:
    """Return what is observed while these regions are out."""
    return Overrides({HostKey(POOL, region, "gpt"): HostState(State.UNHEALTHY) for region in regions})


def test_a_pool_is_shared_by_what_its_deployments_give() -> None:
    made = Admission(NOW)
    made.follow([shared()])
    assert left(made) == 1_400
    answer = asked(made, Request(400, cap=1_500))
    assert isinstance(answer, No)
    assert answer.refused.limit == "capacity"


def test_what_a_host_gave_that_is_out_is_not_there_to_be_shared() -> None:
    made = Admission(NOW)
    made.follow([shared()])
    made.observed(sick("east"))
    assert left(made, NOW + 100) == 400
    # Another table changes nothing of that, and a host that is back does.
    made.follow([shared().model_copy(update={"max_request_bytes": 7})])
    assert left(made, NOW + 200) == 400
    made.observed(sick())
    assert left(made, NOW + 300) == 1_400


def test_with_all_hosts_out_a_guarantee_is_let_in_still_and_nobody_else() -> None:
    """A request may find that one is well again; Envoy answers it otherwise."""
    made = Admission(NOW)
    made.follow([shared()])
    made.observed(sick("east", "west"))
    assert isinstance(asked(made, Request(40, cap=10)), No)
    question = Question(OTHER, POOL, MODEL, "q", Request(400, 100), {}, {}, ())
    assert isinstance(made.ask(question, NOW), Yes)


def test_what_nobody_configured_is_learned_and_nothing_is_shared_before() -> None:
    made = Admission(NOW)
    made.follow([shared(known=False)])
    assert isinstance(asked(made, Request(400, cap=10**6)), Yes)
    made.settle(replace(SETTLEMENT, endpoint="nowhere", deployment="gpt", capacity=7))
    made.settle(replace(SETTLEMENT, endpoint="east", deployment="gpt", capacity=1_000))
    assert isinstance(asked(made, Request(400, cap=10**6), request_id="s"), Yes), "west has not told yet"
    made.settle(replace(SETTLEMENT, endpoint="west", deployment="gpt", capacity=800))
    assert left(made, NOW + 100) == 1_200
    made.settle(replace(SETTLEMENT, endpoint="west", deployment="gpt", capacity=300))
    made.settle(replace(SETTLEMENT, endpoint="east", deployment="gpt", capacity=10**6))
    assert left(made, NOW + 200) == 700, "the last word counts, and none against what is configured"
    made.observed(sick("west"))
    assert left(made, NOW + 300) == 400


def test_what_was_learned_is_forgotten_with_its_deployment() -> None:
    made = Admission(NOW)
    made.follow([shared(known=False)])
    made.settle(replace(SETTLEMENT, endpoint="west", deployment="gpt", capacity=800))
    assert left(made) == 1_200
    made.follow([])
    made.follow([shared(known=False)])
    assert isinstance(asked(made, Request(400, cap=10**6), request_id="s"), Yes)


def test_a_shadow_without_limits_of_its_own_is_let_in_above_its_share() -> None:
    table = shared()
    shadow = table.tenants[0].model_copy(update={"quota": Quota(enforced=False)})
    made = Admission(NOW)
    made.follow([table.model_copy(update={"tenants": (shadow, table.tenants[1])})])
    assert isinstance(asked(made, Request(400, cap=5_000)), Yes)


def test_who_has_no_limits_does_not_ask_however_they_would_be_held() -> None:
    assert asked(admission(Quota(enforced=False, strict=True, deny=True)), Request(100)) is None


def test_what_was_taken_of_a_pool_before_is_not_there_to_be_shared() -> None:
    first = Admission(NOW)
    first.follow([shared()])
    asked(first, Request(400, cap=900))
    told = first.usage(TEAM, NOW)
    assert told is not None
    second = Admission(NOW + 1_000)
    second.follow([shared()])
    second.restore({TEAM: told})
    assert left(second, NOW + 1_000) == left(first, NOW + 1_000) == 400


def test_what_a_tenant_took_of_a_pool_is_told_by_a_hundredth_of_it() -> None:
    made = Admission(NOW)
    made.follow([shared()])
    asked(made, Request(400, cap=900))
    first = made.usage(TEAM, NOW)
    assert first is not None
    assert not made.policy.differs(TEAM, first, first)
    asked(made, Request(0, cap=9), request_id="s")
    little = made.usage(TEAM, NOW)
    assert little is not None
    assert not made.policy.differs(TEAM, first, little)
    asked(made, Request(0, cap=3), request_id="t")
    more = made.usage(TEAM, NOW)
    assert more is not None
    assert made.policy.differs(TEAM, first, more)

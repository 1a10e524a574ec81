"""The ledger against an oracle that remembers everything: never above a limit, nothing lost, nothing counted twice."""

from __future__ import annotations

from hypothesis import settings

from aoai_operator.core.quota.calendar import Period
from aoai_operator.core.quota.deciding import Ask, Granted, Refused
from aoai_operator.core.quota.ledger import Ledger
from aoai_operator.core.quota.limits import Budget, Limits
from aoai_operator.core.quota.window import SLOTS, Window
from support.workers import MINUTE, MODEL, REQUESTS, START, TEAM, TOKENS, Workers, ask, tokens, used


def limited(limits: Limits) -> Ledger:
    made = Ledger()
    made.limit({TEAM: limits})
    return made


def test_what_is_left_is_let_in_and_no_more() -> None:
    ledger = limited(Limits({TOKENS: 100}))
    assert isinstance(ask(ledger, 60, START), Granted)
    assert ask(ledger, 41, START + 500) == Refused("tokensPerMinute", "", 61_000 - 500)
    assert isinstance(ask(ledger, 40, START + 500), Granted)
    assert used(ledger, START + 500) == {"tokensPerMinute": 100}
    assert isinstance(ask(ledger, 60, START + 61_000), Granted)


def test_what_is_larger_than_the_limit_never_fits() -> None:
    assert ask(limited(Limits({TOKENS: 100})), 101, START) == Refused("tokensPerMinute", "", None)


def test_all_limits_hold_and_the_last_to_let_in_is_named() -> None:
    limits = Limits({TOKENS: 100, REQUESTS: 2}, {MODEL: {TOKENS: 50}}, budgets=(Budget(Period.HOUR, TOKENS, 90),))
    ledger = limited(limits)
    assert ask(ledger, 51, START) == Refused("tokensPerMinute", MODEL, None)
    ask(ledger, 40, START)
    refused = ask(ledger, 20, START)
    assert refused == Refused("tokensPerMinute", MODEL, 61_000)
    assert isinstance(ledger.ask(Ask(TEAM, "other", tokens(20)), START), Granted)
    assert ask(ledger, 10, START) == Refused("requestsPerMinute", "", 61_000)
    later = START + 2 * MINUTE
    assert isinstance(ask(ledger, 30, later), Granted)
    ends = (START // 3_600_000 + 1) * 3_600_000
    assert ask(ledger, 1, later) == Refused("budgets", "", ends - later, Period.HOUR)
    assert isinstance(ask(ledger, 1, ends), Granted)


def test_a_settlement_counts_once_and_gives_back_or_takes() -> None:
    ledger = limited(Limits({TOKENS: 100, REQUESTS: 10}))
    granted = ask(ledger, 60, START)
    assert isinstance(granted, Granted)
    assert ledger.settle(granted.grant, 0, {}, tokens(75))
    assert not ledger.settle(granted.grant, 0, {}, tokens(75))
    assert used(ledger, START) == {"tokensPerMinute": 75, "requestsPerMinute": 1}


def test_what_is_left_of_a_lease_is_given_back_to_a_budget_hours_later() -> None:
    """Its tenant asked for nothing in between."""
    ledger = limited(Limits({TOKENS: 100_000}, budgets=(Budget(Period.MONTH, TOKENS, 1_000_000),)))
    granted = ask(ledger, 10, START, want={TOKENS: 500})
    assert isinstance(granted, Granted)
    assert granted.lease == {TOKENS: 500}
    later = START + 5 * 3_600_000
    ask(ledger, 10, later)
    assert ledger.give_back(granted.grant, {TOKENS: 400}, later)
    assert used(ledger, later) == {"tokensPerMinute": 10, "budgets": 10 + 100 + 10}


def test_grants_of_a_ledger_that_was_before_are_none_of_this_one() -> None:
    before, ledger = limited(Limits({TOKENS: 100})), Ledger(first=1_000)
    ledger.limit({TEAM: Limits({TOKENS: 100})})
    old, new = ask(before, 60, START), ask(ledger, 60, START)
    assert isinstance(old, Granted)
    assert isinstance(new, Granted)
    assert not ledger.settle(old.grant, 0, {}, {})
    assert used(ledger, START) == {"tokensPerMinute": 60}


def test_what_azure_refused_costs_nothing() -> None:
    ledger = limited(Limits({TOKENS: 100, REQUESTS: 10}, budgets=(Budget(Period.DAY, TOKENS, 100),)))
    granted = ask(ledger, 60, START)
    assert isinstance(granted, Granted)
    ledger.settle(granted.grant, 0, {}, {})
    assert set(used(ledger, START).values()) == {0}


def test_requests_at_once_are_let_go_by_their_settlement_or_their_time() -> None:
    ledger = limited(Limits(concurrent=1))
    first = ask(ledger, 1, START, want={TOKENS: 100})
    assert isinstance(first, Granted)
    assert not first.lease, "each request asks"
    assert ask(ledger, 1, START) == Refused("concurrentRequests", "", 0)
    ledger.settle(first.grant, 0, {}, tokens(1))
    assert isinstance(ask(ledger, 1, START + 1), Granted)
    assert ask(ledger, 1, START + 600_000) == Refused("concurrentRequests", "", 0)
    assert isinstance(ask(ledger, 1, START + 600_001), Granted)


def test_what_is_given_back_early_is_dated_anew() -> None:
    """Spent by now and not at the end of its life: it lapses that much earlier."""
    ledger = limited(Limits({TOKENS: 10_000}))
    granted = ask(ledger, 1, START, want={TOKENS: 100})
    assert isinstance(granted, Granted)
    assert (granted.lease, granted.life_ms) == ({TOKENS: 100}, 10_000)
    assert ledger.give_back(granted.grant, {TOKENS: 30}, START + 1_000)
    assert not ledger.give_back(granted.grant, {TOKENS: 30}, START + 1_000)
    assert used(ledger, START + 61_000) == {"tokensPerMinute": 70}
    assert used(ledger, START + 62_000) == {"tokensPerMinute": 0}


def test_settlements_that_say_too_much_take_no_more_than_was_charged() -> None:
    ledger = limited(Limits({TOKENS: 10_000}))
    granted = ask(ledger, 1, START, want={TOKENS: 100})
    other = ask(ledger, 50, START + 10_000)
    assert isinstance(granted, Granted)
    assert isinstance(other, Granted)
    ledger.settle(granted.grant, 1, {TOKENS: 5_000}, {})
    ledger.give_back(granted.grant, {TOKENS: 5_000}, START + 10_000)
    assert used(ledger, START + 10_000) == {"tokensPerMinute": 51}


def test_a_lease_is_a_hundredth_of_the_limit_and_an_eighth_of_what_is_left() -> None:
    ledger = limited(Limits({TOKENS: 10_000}))
    far, near, nearer = ask(ledger, 1_000, START), ask(ledger, 5_000, START), ask(ledger, 3_600, START)
    assert not any(isinstance(found, Refused) for found in (far, near, nearer))
    assert ask(ledger, 40, START, want={TOKENS: 1_000}) == Granted(4, {}, 0), "near the limit not worth it"
    assert ask(ledger, 22, START, want={TOKENS: 1_000}) == Granted(5, {}, 0)
    assert ask(ledger, 10, START, want={TOKENS: 1_000}) == Granted(6, {TOKENS: 41}, 2_000)
    full = limited(Limits({TOKENS: 10_000}))
    assert ask(full, 40, START, want={TOKENS: 1_000}) == Granted(1, {TOKENS: 100}, 10_000)


def test_a_lease_has_some_of_everything_that_is_limited() -> None:
    ledger = limited(Limits({TOKENS: 10_000, REQUESTS: 600}))
    assert ask(ledger, 10, START, want={TOKENS: 1_000}) == Granted(1, {}, 0)
    assert ask(ledger, 10, START, want={TOKENS: 1_000, REQUESTS: 20}) == Granted(2, {TOKENS: 100, REQUESTS: 6}, 10_000)
    assert used(ledger, START) == {"tokensPerMinute": 120, "requestsPerMinute": 8}


def test_two_budgets_of_one_thing_count_it_once() -> None:
    budgets = (Budget(Period.DAY, TOKENS, 100), Budget(Period.DAY, TOKENS, 50))
    ledger = limited(Limits(budgets=budgets))
    assert isinstance(ask(ledger, 50, START), Granted)
    assert [bound.meter.used(START) for bound in ledger.bounds(Ask(TEAM, MODEL, {}), START)] == [50, 50]
    assert isinstance(ask(ledger, 1, START), Refused), "both hold"


def test_what_nobody_limits_is_not_kept_for_ever() -> None:
    window = Window()
    for second in range(10_000):
        window.charge(START + second * 1_000, 1)
    assert len(window._slots) <= 2 * SLOTS + 1
    assert window.used(START + 9_999_000) == 61


def test_of_a_tenant_that_is_made_anew_nothing_is_settled_for_the_one_before() -> None:
    ledger = limited(Limits({TOKENS: 100}))
    before = ask(ledger, 60, START)
    assert isinstance(before, Granted)
    ledger.limit({})
    ledger.limit({TEAM: Limits({TOKENS: 100})})
    ask(ledger, 40, START)
    ledger.settle(before.grant, 0, {}, {})
    assert used(ledger, START) == {"tokensPerMinute": 40}


def test_a_lease_is_for_one_calendar_window() -> None:
    ledger = limited(Limits(budgets=(Budget(Period.HOUR, TOKENS, 100_000),)))
    ends = (START // 3_600_000 + 1) * 3_600_000
    granted = ask(ledger, 1, ends - 3_000, want={TOKENS: 500})
    assert isinstance(granted, Granted)
    assert granted.life_ms == 2_999
    near = ask(ledger, 1, ends - 400, want={TOKENS: 500})
    assert isinstance(near, Granted)
    assert not near.lease


def test_what_is_settled_after_its_calendar_window_changes_no_other() -> None:
    ledger = limited(Limits(budgets=(Budget(Period.HOUR, TOKENS, 100),)))
    ends = (START // 3_600_000 + 1) * 3_600_000
    before = ask(ledger, 50, ends - 1)
    assert isinstance(before, Granted)
    ask(ledger, 60, ends)
    ledger.settle(before.grant, 0, {}, {})
    assert used(ledger, ends) == {"budgets": 60}


def test_a_budget_that_comes_while_a_request_is_under_way_counts_nothing_of_it() -> None:
    ledger = limited(Limits())
    granted = ask(ledger, 60, START)
    assert isinstance(granted, Granted)
    ledger.limit({TEAM: Limits(budgets=(Budget(Period.DAY, TOKENS, 100),))})
    ledger.settle(granted.grant, 0, {}, tokens(10))
    assert used(ledger, START) == {"budgets": 0}


def test_a_changed_limit_counts_at_once_and_loses_no_usage() -> None:
    ledger = limited(Limits({TOKENS: 100}))
    ask(ledger, 60, START)
    ledger.limit({TEAM: Limits({TOKENS: 50, REQUESTS: 1})})
    assert isinstance(ask(ledger, 1, START), Refused)
    assert used(ledger, START) == {"tokensPerMinute": 60, "requestsPerMinute": 1}
    ledger.limit({TEAM: Limits({TOKENS: 200})})
    assert isinstance(ask(ledger, 140, START), Granted)


TestWorkers = Workers.TestCase
TestWorkers.settings = settings(max_examples=300, stateful_step_count=60, deadline=None)

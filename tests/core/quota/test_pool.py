"""Tenants that share a pool, second by second, in the ledger."""

from __future__ import annotations

from collections import Counter

import pytest

from aoai_operator.core.names import PoolKey
from aoai_operator.core.quota.deciding import Ask, Granted, Refused
from aoai_operator.core.quota.ledger import Ledger
from aoai_operator.core.quota.limits import Limits, Unit
from aoai_operator.core.quota.pool import Pool, Right
from aoai_operator.core.quota.sharing import Priority

CHAT = PoolKey("ai", "chat")
A, B, C = (PoolKey("ai", name) for name in "abc")
START = 1_795_000_000_000
MINUTE = 60_000


def sharing(capacity: int, rights: dict[PoolKey, Right], *, lend: int | None = None) -> Ledger:
    made = Ledger()
    made.limit({tenant: Limits() for tenant in rights})
    made.share({(CHAT, "m"): Pool(capacity, rights, lend)})
    return made


def take(ledger: Ledger, tenant: PoolKey, tokens: int, now: int) -> Granted | Refused:
    return ledger.ask(Ask(tenant, "m", {Unit.TOKENS: tokens}, CHAT), now)


def flooded(
    ledger: Ledger, asked: dict[PoolKey, int], *, seconds: int, begin: int = START, each: int = 10
) -> Counter[PoolKey]:
    """Have tenants ask for so many tokens a second, in turns; return what they got in the last minute."""
    got: Counter[PoolKey] = Counter()
    for second in range(seconds):
        now = begin + second * 1_000
        for step in range(max(asked.values()) // each):
            for tenant, tokens in asked.items():
                if step < tokens // each and isinstance(take(ledger, tenant, each, now), Granted):
                    got[tenant] += each * (second >= seconds - 61)
    return got


def test_a_flood_takes_nothing_of_what_is_guaranteed() -> None:
    ledger = sharing(6_000, {A: Right(3_000), B: Right(1_800), C: Right(1_200)})
    got = flooded(ledger, {C: 2_000, A: 50, B: 30}, seconds=200)
    assert got[A] == pytest.approx(3_000, rel=0.02)
    assert got[B] == pytest.approx(1_800, rel=0.02)
    assert got[C] == pytest.approx(1_200, rel=0.02)


def test_what_is_free_is_used_and_shared_evenly_by_equals() -> None:
    ledger = sharing(6_000, {A: Right(), B: Right(), C: Right()})
    got = flooded(ledger, {A: 300, B: 1_000, C: 10}, seconds=200)
    assert got[C] == pytest.approx(610, rel=0.05)
    assert got[A] == pytest.approx(got[B], rel=0.05)
    assert sum(got.values()) == pytest.approx(6_000, rel=0.02)


def test_one_that_bursts_alone_uses_the_whole_pool_but_for_guarantees() -> None:
    ledger = sharing(6_000, {A: Right(1_000), B: Right()})
    assert flooded(ledger, {B: 500}, seconds=130)[B] == pytest.approx(5_000, rel=0.02)


def test_the_sheddable_give_way_to_the_critical_within_a_minute() -> None:
    ledger = sharing(6_000, {A: Right(priority=Priority.CRITICAL), B: Right(priority=Priority.SHEDDABLE)})
    flooded(ledger, {B: 500}, seconds=70)
    got = flooded(ledger, {B: 500, A: 500}, seconds=130, begin=START + 70_000)
    assert got[A] == pytest.approx(6_000, rel=0.02)
    assert got[B] <= 120


def test_an_idle_guarantee_is_lent_and_its_owner_is_let_in_at_once() -> None:
    ledger = sharing(6_000, {A: Right(3_000), B: Right()}, lend=30_000)
    assert flooded(ledger, {B: 500}, seconds=130)[B] == pytest.approx(6_000, rel=0.02)
    now = START + 131_000
    assert isinstance(take(ledger, A, 3_000, now), Granted)
    take(ledger, A, 1, now + MINUTE)
    assert isinstance(take(ledger, B, 3_001, now + 2 * MINUTE - 40_000), Refused), "it is not idle"
    assert isinstance(take(ledger, B, 3_001, now + 2 * MINUTE), Granted), "it is again"


def test_who_comes_back_takes_its_guarantee_from_that_moment_on() -> None:
    ledger = sharing(6_000, {A: Right(3_000), B: Right()}, lend=30_000)
    assert isinstance(take(ledger, B, 100, START), Granted)
    assert isinstance(take(ledger, A, 1, START), Granted)
    assert isinstance(take(ledger, B, 2_901, START), Refused)
    assert isinstance(take(ledger, B, 2_900, START + 100), Granted)


def test_a_tenant_that_is_gone_is_forgotten_but_not_what_it_took() -> None:
    ledger = sharing(1_000, {A: Right(), B: Right()})
    take(ledger, A, 600, START)
    ledger.share({(CHAT, "m"): Pool(1_000, {B: Right()})})
    assert isinstance(take(ledger, B, 401, START), Refused)
    assert isinstance(take(ledger, B, 400, START), Granted)


def test_without_lending_a_guarantee_stays_free_for_who_never_asks() -> None:
    ledger = sharing(6_000, {A: Right(3_000), B: Right()})
    assert take(ledger, B, 3_001, START) == Refused("capacity", "", 1_000)
    assert take(ledger, B, 6_001, START) == Refused("capacity", "", None)
    assert isinstance(take(ledger, B, 3_000, START), Granted)
    assert take(ledger, B, 3_000, START) == Refused("capacity", "", 61_000)


def test_a_settlement_gives_back_to_the_pool() -> None:
    ledger = sharing(1_000, {A: Right(), B: Right()})
    granted = take(ledger, A, 1_000, START)
    assert isinstance(granted, Granted)
    assert isinstance(take(ledger, B, 400, START + 1_000), Refused)
    ledger.settle(granted.grant, 0, {}, {Unit.TOKENS: 100})
    assert isinstance(take(ledger, B, 400, START + 1_000), Granted)


def test_another_capacity_counts_at_once_and_loses_nothing() -> None:
    ledger = sharing(1_000, {A: Right()})
    take(ledger, A, 800, START)
    ledger.share({(CHAT, "m"): Pool(500, {A: Right()})})
    assert isinstance(take(ledger, A, 1, START), Refused)
    ledger.share({(CHAT, "m"): Pool(2_000, {A: Right()})})
    assert isinstance(take(ledger, A, 1_200, START), Granted)
    assert isinstance(take(ledger, A, 1, START), Refused)
    ledger.share({})
    assert isinstance(take(ledger, A, 10**6, START), Granted)

"""How tenants share a pool."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from aoai_operator.core.names import PoolKey
from aoai_operator.core.quota.sharing import Claim, Priority, shares


def claim(
    name: str,
    guaranteed: int = 0,
    wanted: int = 0,
    priority: Priority = Priority.STANDARD,
    *,
    burst: bool = True,
    idle: bool = False,
) -> Claim:
    return Claim(PoolKey("ai", name), guaranteed, wanted, priority, burst, idle)


def shared(capacity: int, *claims: Claim) -> dict[str, int]:
    return {key.name: share for key, share in shares(capacity, claims).items()}


def test_guarantees_hold_against_a_flood() -> None:
    found = shared(100, claim("a", 50, 50), claim("b", 30, 30), claim("c", 20, 10_000))
    assert found == {"a": 50, "b": 30, "c": 20}


def test_what_others_leave_of_what_is_not_guaranteed_is_used() -> None:
    assert shared(100, claim("a", 30, 0), claim("b", 10, 1_000)) == {"a": 30, "b": 70}
    assert shared(100, claim("a", 30, 0), claim("b", 10, 1_000, burst=False)) == {"a": 90, "b": 10}


def test_an_idle_guarantee_is_lent_and_given_back_at_once() -> None:
    assert shared(100, claim("a", 80, 0, idle=True), claim("b", 0, 1_000)) == {"a": 80, "b": 100}
    assert shared(100, claim("a", 80, 1), claim("b", 0, 1_000)) == {"a": 80, "b": 20}


def test_the_sheddable_lose_first_and_then_the_standard() -> None:
    critical, standard, sheddable = Priority.CRITICAL, Priority.STANDARD, Priority.SHEDDABLE
    claims = [claim("c", 0, 60, critical), claim("s", 0, 60, standard), claim("x", 0, 60, sheddable)]
    assert shared(200, *claims) == {"c": 80, "s": 60, "x": 60}
    assert shared(150, *claims) == {"c": 60, "s": 60, "x": 30}
    assert shared(90, *claims) == {"c": 60, "s": 30, "x": 0}
    assert shared(40, *claims) == {"c": 40, "s": 0, "x": 0}


def test_equals_share_evenly_what_they_want() -> None:
    assert shared(90, claim("a", 0, 10), claim("b", 0, 1_000), claim("c", 0, 1_000)) == {"a": 10, "b": 40, "c": 40}


def test_more_guaranteed_than_there_is_is_given_all_the_same() -> None:
    assert shared(10, claim("a", 50, 50), claim("b", 30, 100)) == {"a": 50, "b": 30}


CLAIMS = st.lists(
    st.builds(
        Claim,
        st.builds(PoolKey, st.just("ai"), st.sampled_from("abcdefgh")),
        st.integers(0, 100),
        st.integers(0, 500),
        st.sampled_from(Priority),
        st.booleans(),
    ),
    max_size=8,
    unique_by=lambda c: c.tenant,
)


@settings(max_examples=300)
@given(st.integers(0, 1_000), CLAIMS)
def test_nobody_gets_too_little_nor_all_together_too_much(capacity: int, claims: list[Claim]) -> None:
    found = shares(capacity, claims)
    assert sum(found.values()) <= max(capacity, sum(c.guaranteed for c in claims))
    for one in claims:
        assert found[one.tenant] >= one.guaranteed
        assert one.burst or found[one.tenant] == one.guaranteed


@settings(max_examples=300)
@given(st.integers(0, 1_000), CLAIMS)
def test_whoever_wants_more_sees_nobody_below_with_more(capacity: int, claims: list[Claim]) -> None:
    found = shares(capacity, claims)
    short = [c for c in claims if c.burst and found[c.tenant] < c.wanted]
    for one in short:
        more = found[one.tenant] - one.guaranteed
        for other in claims:
            extra = found[other.tenant] - other.guaranteed
            if other.priority > one.priority:
                assert extra <= len(claims), "what is below gets only what cannot be divided above"
            elif other.priority is one.priority:
                assert extra <= more + len(claims)

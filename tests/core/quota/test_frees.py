"""When how much is free again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aoai_operator.core.quota.account import Bound
from aoai_operator.core.quota.frees import frees
from aoai_operator.core.quota.limits import Unit
from aoai_operator.core.quota.window import Window

NOW = 1_795_000_000_000


def bound(unit: Unit, most: int, *charges: tuple[int, int]) -> Bound:
    window = Window()
    for ago, amount in charges:
        window.charge(NOW - ago, amount)
    return Bound("some", "", unit, most, window)


def test_tokens_come_back_second_by_second() -> None:
    tokens = bound(Unit.TOKENS, 100, (30_000, 60), (10_000, 40))
    assert list(frees([tokens], NOW)) == [(NOW, 0), (NOW + 31_000, 60), (NOW + 51_000, 100)]


def test_the_tighter_of_two_limits_tells() -> None:
    one, other = bound(Unit.TOKENS, 100, (30_000, 60)), bound(Unit.TOKENS, 50, (10_000, 40))
    assert list(frees([one, other], NOW)) == [(NOW, 10), (NOW + 51_000, 50)]


def test_while_no_request_is_left_no_token_is_free() -> None:
    tokens, requests = bound(Unit.TOKENS, 100, (30_000, 10)), bound(Unit.REQUESTS, 1, (10_000, 1))
    assert list(frees([tokens, requests], NOW)) == [(NOW, 0), (NOW + 51_000, 100)]


def test_where_no_tokens_are_limited_there_is_nothing_to_tell() -> None:
    assert list(frees([bound(Unit.REQUESTS, 1, (10_000, 1)), bound(Unit.COST, 1)], NOW)) == []


CHARGES = st.lists(st.tuples(st.integers(0, 70_000), st.integers(0, 50)), max_size=8)
BOUNDS = st.lists(st.tuples(st.sampled_from([Unit.TOKENS, Unit.REQUESTS]), st.integers(0, 120), CHARGES), max_size=4)


@given(BOUNDS, st.integers(1, 120), st.integers(0, 70_000))
def test_it_is_what_the_windows_say_at_each_moment(
    made: list[tuple[Unit, int, list[tuple[int, int]]]], need: int, later: int
) -> None:
    bounds = [bound(unit, most, *charges) for unit, most, charges in made]
    steps = list(frees(bounds, NOW))
    if not steps:
        return
    told = next(free for when, free in reversed(steps) if when <= NOW + later)
    fits = all(one.meter.used(NOW + later) + (need if one.unit is Unit.TOKENS else 1) <= one.most for one in bounds)
    assert fits == (need <= told)

"""Throttling of one host: how long a refusal keeps it out."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoai_operator.core.envoy.extensions import pool_data
from aoai_operator.core.table import Throttling
from aoai_operator.core.throttle import Throttle, cap_ms, capped, refused
from support.tables import endpoint, routing_table

POLICY = Throttling(honor_retry_after=True, max_retry_after_ms=60_000, ramp_up_ms=5_000)
DEAF = POLICY.model_copy(update={"honor_retry_after": False})
NOW = 1_700_000_000_000


def refuse(
    throttle: Throttle, *, at: int = NOW, wait: int | None = None, status: int = 429, policy: Throttling = POLICY
) -> Throttle:
    return refused(throttle, status=status, retry_after_ms=wait, now=at, policy=policy)


def test_retry_after_is_honoured_to_the_millisecond() -> None:
    throttle = refuse(Throttle(), wait=1_234)
    assert throttle.until == NOW + 1_234
    assert throttle.active(NOW + 1_233)
    assert not throttle.active(NOW + 1_234)


def test_a_days_wait_is_capped() -> None:
    assert refuse(Throttle(), wait=86_400_000).until == NOW + 60_000


def test_a_pool_that_does_not_honour_it_waits_a_second_at_most() -> None:
    assert refuse(Throttle(), wait=30_000, policy=DEAF).until == NOW + 1_000


@pytest.mark.parametrize("status", [408, 424, 500, 502, 503, 504])
def test_other_failures_throttle_only_with_a_wait(status: int) -> None:
    assert refuse(Throttle(), status=status) == Throttle()
    assert refuse(Throttle(), status=status, wait=0) == Throttle()
    assert refuse(Throttle(), status=status, wait=700).until == NOW + 700


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422])
def test_a_wait_on_other_statuses_means_nothing(status: int) -> None:
    assert refuse(Throttle(), status=status, wait=700) == Throttle()


def test_an_earlier_end_does_not_shorten_a_promise() -> None:
    throttle = refuse(refuse(Throttle(), wait=10_000), at=NOW + 100, wait=50)
    assert throttle.until == NOW + 10_000


def test_refusals_without_a_wait_double_up_to_ten_seconds() -> None:
    waits, throttle, now = [], Throttle(), NOW
    for _ in range(7):
        throttle = refuse(throttle, at=now)
        waits.append(throttle.until - now)
        now = throttle.until
    assert waits == [1_000, 2_000, 4_000, 8_000, 10_000, 10_000, 10_000]


def test_a_burst_in_flight_is_one_strike() -> None:
    throttle = Throttle()
    for _ in range(50):
        throttle = refuse(throttle)
    assert throttle == refuse(Throttle())


def test_a_host_that_served_for_its_whole_ramp_starts_anew() -> None:
    first = refuse(Throttle())
    assert refuse(first, at=first.until + POLICY.ramp_up_ms).strikes == 1
    assert refuse(first, at=first.until + POLICY.ramp_up_ms - 1).strikes == 2


def test_a_tightened_cap_shortens_what_runs() -> None:
    assert capped(refuse(Throttle(), wait=60_000), now=NOW, policy=DEAF).until == NOW + 1_000


refusals = st.tuples(st.sampled_from([429, 503, 500, 400, 401, 0]), st.none() | st.integers(-(10**12), 10**12))
policies = st.builds(
    Throttling,
    honor_retry_after=st.booleans(),
    max_retry_after_ms=st.integers(0, 10**9),
    ramp_up_ms=st.integers(0, 10**6),
)


@given(policy=policies, steps=st.lists(st.tuples(st.integers(0, 10**6), refusals), max_size=20))
def test_an_end_is_never_beyond_the_cap_nor_taken_back(
    policy: Throttling, steps: list[tuple[int, tuple[int, int | None]]]
) -> None:
    throttle, now = Throttle(), NOW
    for passed, (status, wait) in steps:
        now += passed
        after = refused(throttle, status=status, retry_after_ms=wait, now=now, policy=policy)
        assert after.until >= throttle.until
        assert after.until <= max(throttle.until, now + cap_ms(policy))
        throttle = after


@given(policy=policies, before=st.lists(refusals, max_size=3), batch=st.lists(refusals, max_size=4))
def test_the_order_within_a_batch_does_not_matter(
    policy: Throttling, before: list[tuple[int, int | None]], batch: list[tuple[int, int | None]]
) -> None:
    start, now = Throttle(), NOW
    for status, wait in before:
        start = refused(start, status=status, retry_after_ms=wait, now=now, policy=policy)
        now += 1_000
    ends = set()
    for order in itertools.permutations(batch):
        throttle = start
        for status, wait in order:
            throttle = refused(throttle, status=status, retry_after_ms=wait, now=now, policy=policy)
        ends.add(throttle)
    assert len(ends) == 1


def test_clients_are_told_no_longer_wait_than_a_host_is_left_alone() -> None:
    def told(policy: Throttling) -> str:
        return str(pool_data(routing_table(endpoint("east"), throttling=policy)))

    capped_to_a_second = POLICY.model_copy(update={"max_retry_after_ms": 1_000})
    assert told(DEAF) == told(capped_to_a_second)
    assert told(DEAF) != told(POLICY)

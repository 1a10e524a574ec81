"""One pool whose resources an Envoy refuses must not hold back the others."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from aoai_operator.core.names import PoolKey
from aoai_operator.core.quarantine import Quarantine

A, B, C, D = (PoolKey("ns", name) for name in "abcd")


@dataclass(frozen=True)
class Entry:
    """A version of a pool; a number below zero is one that Envoy refuses."""

    number: int

    @property
    def revision(self) -> str:
        return str(self.number)

    @property
    def bad(self) -> bool:
        return self.number < 0


def entries(**numbers: int) -> dict[PoolKey, Entry]:
    return {PoolKey("ns", name): Entry(number) for name, number in numbers.items()}


def settle(state: Quarantine[Entry], *, shared: bool = True, limit: int = 50) -> tuple[Quarantine[Entry], int]:
    """Play an Envoy that refuses whatever holds a bad entry, until it has acknowledged all that is published."""
    for rounds in range(limit):
        before = state
        bad = [key for key, entry in sorted(state.published.items()) if entry.bad]
        state = state.rejected("bad", owner=None if shared else bad[0]) if bad else state.acknowledged()
        if state == before:
            return state, rounds
    raise AssertionError("it never settles")


def test_without_a_refusal_everything_wanted_is_published() -> None:
    state = Quarantine[Entry]().want(entries(a=1, b=1)).acknowledged().want(entries(a=2, b=1))
    assert state.published == entries(a=2, b=1)


def test_the_only_pool_that_changed_is_to_blame() -> None:
    state = (
        Quarantine[Entry]().want(entries(a=1, b=1)).acknowledged().want(entries(a=-2, b=1)).rejected("no such field")
    )
    assert state.published == entries(a=1, b=1)
    assert state.refused[A].message == "no such field"


def test_the_owner_of_the_refused_resource_is_to_blame_and_others_go_on_at_once() -> None:
    state = Quarantine[Entry]().want(entries(a=1, b=1)).acknowledged().want(entries(a=-2, b=2)).rejected("x", owner=A)
    assert state.published == entries(a=1, b=2)


def test_suspects_are_let_in_one_at_a_time() -> None:
    state = Quarantine[Entry]().want(entries(a=1, b=1, c=1)).acknowledged()
    state = state.want(entries(a=2, b=-2, c=2)).rejected("x")
    assert state.published == entries(a=2, b=1, c=1)
    state = state.acknowledged()
    assert state.published == entries(a=2, b=-2, c=1)
    state = state.rejected("x")
    assert state.published == entries(a=2, b=1, c=2)
    assert set(state.acknowledged().refused) == {B}


def test_a_new_pool_that_is_refused_is_left_out() -> None:
    state, _ = settle(Quarantine[Entry]().want(entries(a=1, b=-1)))
    assert state.published == entries(a=1)


def test_a_mended_pool_is_tried_again() -> None:
    state, _ = settle(Quarantine[Entry]().want(entries(a=1, b=-1)))
    state, _ = settle(state.want(entries(a=1, b=2)))
    assert state.published == entries(a=1, b=2)
    assert not state.refused


def test_a_pool_that_changes_during_the_trials_waits_for_its_turn() -> None:
    state = Quarantine[Entry]().want(entries(a=1, b=1, c=1)).acknowledged()
    state = state.want(entries(a=2, b=-2, c=1)).rejected("x").want(entries(a=2, b=-2, c=-3))
    assert state.published == entries(a=2, b=1, c=1)
    state, _ = settle(state)
    assert state.published == entries(a=2, b=1, c=1)
    assert set(state.refused) == {B, C}


def test_a_refusal_when_no_pool_changed_blames_no_pool() -> None:
    state = Quarantine[Entry]().want(entries(a=1)).acknowledged().rejected("cannot bind")
    assert state.published == entries(a=1)
    assert state.blameless == "cannot bind"
    assert not state.acknowledged().blameless


def test_a_refusal_of_an_unchanged_pools_resource_does_not_blame_the_one_that_changed() -> None:
    state = Quarantine[Entry]().want(entries(a=1, b=1)).acknowledged().want(entries(a=2, b=1)).rejected("x", owner=B)
    assert state.published == entries(a=2, b=1)
    assert not state.refused


def test_a_deleted_pool_leaves_nothing_behind() -> None:
    state = Quarantine[Entry]().want(entries(a=1, b=-1)).rejected("x").want({})
    assert state.published == {}
    assert (state.refused, state.waiting, state.trial) == ({}, (), None)


_STEPS = st.lists(
    st.dictionaries(st.sampled_from([A, B, C, D]), st.integers(-3, 3).filter(bool).map(Entry)), min_size=1, max_size=6
)


@given(steps=_STEPS, shared=st.booleans())
def test_good_pools_always_arrive_and_bad_ones_keep_their_last_good_version(
    steps: list[dict[PoolKey, Entry]], shared: bool
) -> None:
    state = Quarantine[Entry]()
    last_good: dict[PoolKey, Entry] = {}
    for wanted in steps:
        last_good = {k: e for k, e in last_good.items() if k in wanted}
        state, rounds = settle(state.want(wanted), shared=shared)
        last_good |= {k: e for k, e in wanted.items() if not e.bad}
        assert state.published == last_good
        assert set(state.refused) == {k for k, e in wanted.items() if e.bad}
        assert rounds <= 2 * len(wanted) + 2


@given(steps=_STEPS, replies=st.lists(st.booleans(), max_size=30))
def test_whatever_the_order_of_edits_and_replies_no_refused_revision_is_published(
    steps: list[dict[PoolKey, Entry]], replies: list[bool]
) -> None:
    state = Quarantine[Entry]()
    answers = iter(replies)
    for wanted in steps:
        state = state.want(wanted)
        for reply in answers:
            state = state.acknowledged() if reply else state.rejected("x")
            assert all(
                state.refused[k].revision != e.revision for k, e in state.published.items() if k in state.refused
            )
            assert set(state.published) <= set(wanted)
            if len(state.waiting) % 2:
                break

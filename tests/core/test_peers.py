"""What replicas tell each other: messages and merging."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoai_operator.core.names import EndpointKey, HostKey, PoolKey
from aoai_operator.core.observations import Observations
from aoai_operator.core.observed import Fault, Probed, Reason, State, Wait
from aoai_operator.core.peers import LARGEST, Message, PeerError, Told, merged, together
from aoai_operator.core.table import Throttling
from aoai_operator.core.world import Programming
from support.tables import endpoint, endpoint_key, host_key, routing_table

NOW = 1_700_000_000_000
EAST, WEST = host_key("east"), host_key("west")

_times = st.integers(0, 100)
_reasons = st.sampled_from(Reason)
_texts = st.text(max_size=5)
_waits = st.builds(Wait, _times, _times, _reasons, _texts)
_faults = st.builds(Fault, _reasons, _texts)
_hosts = st.sampled_from([EAST, WEST, host_key("north")])
_endpoints = st.sampled_from([endpoint_key("east"), endpoint_key("west")])
_parts = st.builds(Programming, st.integers(0, 3), st.integers(0, 3), st.none() | _texts, st.none() | _texts)
_proxies = st.dictionaries(
    st.sampled_from([PoolKey("ai", "chat"), PoolKey("ai", "mini")]), st.lists(_parts, min_size=1, max_size=2).map(tuple)
)
_tolds = st.builds(
    Told,
    proxies=_proxies,
    waits=st.dictionaries(_hosts, _waits),
    faults=st.dictionaries(_hosts | _endpoints, _faults),
)


@given(before=_tolds, after=_tolds)
def test_changes_make_the_one_into_the_other(before: Told, after: Told) -> None:
    message = Message.decode(before.changes(after).encode(now=0), now=0)
    found = before.after(message)
    assert (found.proxies, found.faults) == (after.proxies, after.faults)
    assert all(
        (wait.throttled, wait.struck) <= (found.waits[key].throttled, found.waits[key].struck)
        for key, wait in after.waits.items()
        if wait.throttled or wait.struck
    )
    assert after.changes(after) == Message()


@given(_tolds, _tolds)
def test_the_first_message_of_a_stream_replaces_what_was_told(before: Told, after: Told) -> None:
    changes = Told().changes(after)
    whole = Message(True, changes.proxies, changes.waits, changes.faults)
    found = before.after(whole)
    assert (found.proxies, found.faults) == (after.proxies, after.faults)


@given(a=st.dictionaries(_hosts, _waits), b=st.dictionaries(_hosts, _waits), c=st.dictionaries(_hosts, _waits))
def test_the_order_and_the_number_of_tellings_do_not_matter(
    a: dict[HostKey, Wait], b: dict[HostKey, Wait], c: dict[HostKey, Wait]
) -> None:
    assert merged(a, b) == merged(b, a)
    assert merged(merged(a, b), c) == merged(a, merged(b, c))
    assert merged(merged(a, b), b) == merged(a, b)


def observing(*, max_retry_after_ms: int = 60_000) -> Observations:
    policy = Throttling(honor_retry_after=True, max_retry_after_ms=max_retry_after_ms, ramp_up_ms=5_000)
    observations = Observations()
    observations.follow([routing_table(endpoint("east"), endpoint("west"), throttling=policy)], now=NOW)
    return observations


@given(
    waits=st.lists(st.builds(lambda t: Wait(throttled=NOW + t), st.integers(-50, 100_000)), max_size=5),
    after=st.integers(0, 120_000),
)
def test_a_host_is_out_while_anybody_knows_that_it_is_throttled(waits: list[Wait], after: int) -> None:
    observations = observing()
    for wait in waits:
        observations.told({EAST: wait}, now=NOW)
    end = min(max((w.throttled for w in waits), default=0), NOW + 60_000)
    observations.tick(NOW + after)
    state = observations.overrides().host(EAST)
    assert state.usable == (end <= NOW + after)
    assert state.incarnation == (NOW < end <= NOW + after)


@given(st.lists(st.tuples(_hosts, _waits), max_size=6), st.integers(0, 200))
def test_a_strike_of_others_never_takes_the_last_host(told: list[tuple[HostKey, Wait]], now: int) -> None:
    observations = observing()
    for host, wait in told:
        observations.told({host: Wait(0, NOW + wait.struck, wait.reason, wait.message)}, now=NOW)
    observations.tick(NOW + now)
    hosts = observations.overrides()
    assert hosts.host(EAST).usable or hosts.host(WEST).usable


def test_what_one_replica_learned_is_what_another_shows() -> None:
    one, other = observing(), observing()
    one.told({EAST: Wait(throttled=NOW + 2_000)}, now=NOW)
    assert other.told(one.waits(NOW), now=NOW)
    state = other.overrides().host(EAST)
    assert (state.state, state.until) == (State.THROTTLED, NOW + 2_000)
    assert not other.told(one.waits(NOW), now=NOW)
    assert other.next_change(NOW) == NOW + 2_000
    assert one.waits(NOW + 2_000) == {}


def test_a_wait_of_others_is_capped_as_one_of_our_own() -> None:
    observations = observing(max_retry_after_ms=1_000)
    observations.told({EAST: Wait(throttled=NOW + 86_400_000)}, now=NOW)
    assert observations.overrides().host(EAST).until == NOW + 1_000


def test_verdicts_stand_until_others_are_taken() -> None:
    observations = observing()
    faults: dict[Probed, Fault] = {endpoint_key("east"): Fault(Reason.AUTH, "401")}
    assert observations.judged(faults, now=NOW)
    assert not observations.judged(faults, now=NOW + 1)
    state = observations.overrides().host(EAST)
    assert (state.state, state.reason, state.message) == (State.UNHEALTHY, Reason.AUTH, "401")
    observations.tick(NOW + 3_600_000)
    assert observations.faults() == faults
    assert observations.judged({}, now=NOW + 2)
    state = observations.overrides().host(EAST)
    assert (state.state, state.incarnation) == (State.HEALTHY, 1)


def test_hosts_and_endpoints_that_no_table_names_are_passed_over() -> None:
    observations = observing()
    other = PoolKey("ai", "other")
    assert not observations.told({HostKey(other, "east", "gpt"): Wait(NOW + 1_000, NOW + 1_000)}, now=NOW)
    assert not observations.judged({EndpointKey(other, "east"): Fault(Reason.DNS)}, now=NOW)


def test_proxies_of_several_replicas_are_put_together() -> None:
    chat, mini, part = PoolKey("ai", "chat"), PoolKey("ai", "mini"), Programming(1, 1)
    assert together([{chat: (part,)}, {chat: (part,), mini: (part,)}]) == {chat: (part, part), mini: (part,)}


def test_a_newer_replica_may_say_more() -> None:
    data = {"moods": 3, "waits": {"ai/chat/east/gpt": {"struck": 9, "reason": "Bored", "mood": 1}}}
    assert Message.decode(json.dumps(data).encode(), now=0).waits == {EAST: Wait(struck=9)}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"[" * 100_000,
        b'{"waits": {"ai/chat": {}}}',
        b'{"waits": {"ai/chat//gpt": {}}}',
        b'{"waits": {"ai/chat/east/gpt": {"throttled": -1}}}',
        b'{"waits": {"ai/chat/east/gpt": {"throttled": 1e300}}}',
        b'{"faults": {"x": {"reason": "Auth"}}}',
        b'{"proxies": {"ai/chat": [{"connected": "many", "programmed": 0}]}}',
        b'{"suspects": ["east"]}',
        b" " * (LARGEST + 1),
    ],
)
def test_garbage_is_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(PeerError) as refused:
        Message.decode(data, now=0)
    assert len(str(refused.value)) < 300
    assert "\n" not in str(refused.value)


@given(st.binary(max_size=60))
def test_nothing_but_a_peer_error_comes_of_any_bytes(data: bytes) -> None:
    try:
        Message.decode(data, now=0)
    except PeerError:
        return


def test_a_wait_is_told_as_what_is_left_of_it() -> None:
    """Replicas whose clocks disagree by an hour leave the host alone for equally long."""
    sent = Message(waits={EAST: Wait(throttled=5_000_000, struck=4_999_000)}).encode(now=4_999_500)
    assert Message.decode(sent, now=8_600_000).waits == {EAST: Wait(throttled=8_600_500)}

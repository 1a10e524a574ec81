"""What is observed of the hosts: folded from probes, failed attempts, names and time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoai_operator.core.failures import Failure
from aoai_operator.core.health import Sample
from aoai_operator.core.names import HostKey
from aoai_operator.core.observations import Observations, is_address
from aoai_operator.core.observed import Grant, HostState, Reason, State
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.table import Identity, RoutingTable
from support.tables import endpoint, endpoint_key, host_key, routing_table

NOW = 1_700_000_000_000
EAST, WEST = host_key("east"), host_key("west")
TABLE = routing_table(endpoint("east"), endpoint("west"))
GOOD = Sample(Reason.OK)


def observing(table: RoutingTable = TABLE) -> Observations:
    observations = Observations()
    observations.follow([table], now=NOW)
    return observations


def refusal(host: HostKey = EAST, *, wait: int | None = 2_000, status: int = 429) -> Failure:
    return Failure(host, status=status, retry_after_ms=wait)


def shown(observations: Observations, key: HostKey = EAST) -> HostState:
    return observations.overrides().host(key)


def test_a_new_host_is_unknown_and_serves() -> None:
    state = shown(observing())
    assert (state.state, state.reason, state.since) == (State.UNKNOWN, Reason.NOT_PROBED, NOW)
    assert state.usable


def test_a_refusal_throttles_one_host_and_asks_for_no_probe() -> None:
    observations = observing()
    folded = observations.attempts([refusal()], now=NOW)
    assert folded.changed
    assert folded.suspects == frozenset()
    state = shown(observations)
    assert (state.state, state.reason, state.until) == (State.THROTTLED, Reason.RETRY_AFTER, NOW + 2_000)
    assert not state.usable
    assert shown(observations, WEST).state is State.UNKNOWN


def test_a_throttled_host_returns_as_a_new_incarnation() -> None:
    observations = observing()
    observations.attempts([refusal()], now=NOW)
    assert observations.next_change(NOW) == NOW + 2_000
    assert not observations.tick(NOW + 1_999)
    assert observations.tick(NOW + 2_000)
    state = shown(observations)
    assert (state.state, state.reason, state.incarnation) == (State.HEALTHY, Reason.OK, 1)


DENIED = Sample(Reason.AUTH, "401")


def test_a_refused_credential_is_a_short_strike_of_one_host_and_its_probe_decides() -> None:
    table = routing_table(endpoint("east"), endpoint("west"), deployments=("gpt", "mini"))
    observations, mini = observing(table), host_key("east", "mini")
    folded = observations.attempts([refusal(status=401, wait=None)], now=NOW)
    assert folded.suspects == {endpoint_key("east")}
    assert (shown(observations).state, shown(observations).reason) == (State.UNHEALTHY, Reason.AUTH)
    assert shown(observations, mini).usable
    assert observations.next_change(NOW) == NOW + 1_000
    assert observations.probed(endpoint_key("east"), DENIED, now=NOW + 1)
    assert not shown(observations, mini).usable
    observations.tick(NOW + 60_000)
    assert not shown(observations).usable
    observations.probed(endpoint_key("east"), GOOD, now=NOW + 61_000)
    assert observations.probed(endpoint_key("east"), GOOD, now=NOW + 62_000)
    assert (shown(observations).state, shown(observations).incarnation) == (State.HEALTHY, 1)


def test_a_request_that_is_denied_everywhere_leaves_a_host() -> None:
    observations = observing()
    for n in range(50):
        observations.attempts([refusal(h, status=403, wait=None) for h in (EAST, WEST)], now=NOW + n * 100)
        assert shown(observations).usable or shown(observations, WEST).usable


def test_one_of_an_accounts_two_keys_that_is_refused_leaves_a_host() -> None:
    """Where nothing is probed: the next attempt carries the other key."""
    keys = Identity(kind="workload", scope="", account="/subscriptions/s/resourceGroups/g/accounts/east")
    east = endpoint("east").model_copy(update={"credential": None, "identity": keys})
    observations = observing(routing_table(east, probe=None))
    observations.granted(endpoint_key("east"), Grant(SecretValue("one"), 0, good=True), now=NOW)
    for later in range(5):
        observations.attempts([refusal(status=401, wait=None)] * 2, now=NOW + later)
    assert shown(observations).usable


def test_a_denied_request_of_a_host_that_serves_takes_nothing_away() -> None:
    observations = observing()
    observations.served(EAST, now=NOW)
    folded = observations.attempts([refusal(status=403, wait=None)], now=NOW + 1_000)
    assert folded.suspects
    assert shown(observations).usable


def test_without_probes_two_refusals_in_a_row_take_one_host_out_for_half_a_minute() -> None:
    observations = observing(routing_table(endpoint("east"), deployments=("gpt", "mini"), probe=None))
    observations.attempts([refusal(status=403, wait=None)], now=NOW)
    observations.attempts([refusal(status=403, wait=None)], now=NOW + 2_000)
    assert shown(observations).reason is Reason.AUTH
    assert shown(observations, host_key("east", "mini")).usable
    assert observations.tick(NOW + 32_000)
    assert shown(observations).usable


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (Failure(EAST, status=500), Reason.STATUS),
        (Failure(EAST, status=404), Reason.DEPLOYMENT_MISSING),
        (Failure(EAST, status=0, flags=frozenset({"UF"})), Reason.CONNECT),
        (Failure(EAST, status=0, flags=frozenset({"UT"})), Reason.TIMEOUT),
    ],
)
def test_three_failures_in_a_row_are_a_strike_that_doubles(failure: Failure, reason: Reason) -> None:
    observations = observing()
    for n in range(2):
        assert not observations.attempts([failure], now=NOW + n * 100).changed
    assert observations.attempts([failure], now=NOW + 200).changed
    assert (shown(observations).state, shown(observations).reason) == (State.UNHEALTHY, reason)
    assert observations.tick(NOW + 1_200)
    assert (shown(observations).usable, shown(observations).incarnation) == (True, 1)
    observations.attempts([failure], now=NOW + 1_300)
    assert observations.next_change(NOW + 1_300) == NOW + 3_300


def test_a_burst_of_one_moment_is_no_row() -> None:
    observations = observing()
    assert not observations.attempts([Failure(EAST, status=500)] * 50, now=NOW).changed


def test_what_ended_on_our_side_is_no_fault_of_the_host() -> None:
    observations = observing()
    for n in range(9):
        for flag in ("DC", "LR", "UO"):
            observations.attempts([Failure(EAST, status=503, flags=frozenset({flag}))], now=NOW + n * 100)
    assert shown(observations).usable


@given(batches=st.lists(st.tuples(st.integers(1, 199), st.integers(0, 5)), max_size=30))
def test_failures_between_served_answers_take_no_host_out(batches: list[tuple[int, int]]) -> None:
    observations, now = observing(), NOW
    for passed, count in batches:
        now += passed
        observations.attempts([Failure(EAST, status=500)] * count, now=now)
        observations.served(EAST, now=now)
        assert shown(observations).usable


@given(batches=st.lists(st.tuples(st.integers(0, 3_000), st.sampled_from([404, 500, 401, 0]), st.booleans())))
def test_failures_in_a_row_never_take_the_last_host(batches: list[tuple[int, int, bool]]) -> None:
    observations, now = observing(), NOW
    for passed, status, both in batches:
        now += passed
        observations.tick(now)
        flags = frozenset({"UF"} if status == 0 else ())
        hosts = (EAST, WEST) if both else (EAST,)
        observations.attempts([Failure(h, status=status, flags=flags) for h in hosts], now=now)
        assert shown(observations).usable or shown(observations, WEST).usable


@pytest.mark.parametrize(
    ("failure", "early"),
    [
        (Failure(EAST, status=500), True),
        (Failure(EAST, status=404), True),
        (Failure(EAST, status=0), True),
        (Failure(EAST, status=503, flags=frozenset({"UF"})), True),
        (Failure(EAST, status=400), False),
        (Failure(EAST, status=408), False),
    ],
)
def test_other_failures_change_nothing_but_may_ask_for_a_probe(failure: Failure, early: bool) -> None:
    folded = observing().attempts([failure], now=NOW)
    assert not folded.changed
    assert folded.suspects == ({endpoint_key("east")} if early else frozenset())


def test_three_bad_probes_take_an_endpoint_out_with_their_reason() -> None:
    observations = observing()
    bad = Sample(Reason.CONNECT, "no connection to east.example:443: refused")
    assert not any(observations.probed(endpoint_key("east"), bad, now=NOW + n) for n in range(2))
    assert observations.probed(endpoint_key("east"), bad, now=NOW + 2)
    state = shown(observations)
    assert (state.state, state.reason, state.message, state.since) == (
        State.UNHEALTHY,
        Reason.CONNECT,
        bad.message,
        NOW + 2,
    )


def test_a_missing_deployment_concerns_one_host() -> None:
    observations = observing(routing_table(endpoint("east"), deployments=("gpt", "mini"), probe="Deployment"))
    for n in range(3):
        observations.probed(endpoint_key("east"), GOOD, now=NOW + n)
        observations.probed_host(EAST, Sample(Reason.DEPLOYMENT_MISSING, "no such deployment"), now=NOW + n)
    assert shown(observations).reason is Reason.DEPLOYMENT_MISSING
    assert shown(observations, host_key("east", "mini")).state is State.HEALTHY
    observations.follow([routing_table(endpoint("east"), deployments=("gpt", "mini"))], now=NOW + 40_000)
    assert shown(observations).usable, "nothing probes deployments any more: the traffic may try"


def test_a_busy_deployment_is_throttled_by_its_probe() -> None:
    observations = observing(routing_table(endpoint("east"), probe="Deployment"))
    assert observations.probed_host(EAST, Sample(Reason.RETRY_AFTER, retry_after_ms=3_000), now=NOW)
    assert shown(observations).until == NOW + 3_000


def test_a_served_request_makes_an_unknown_host_healthy_and_mends_no_fault() -> None:
    observations = observing(routing_table(endpoint("east"), probe=None))
    assert observations.served(EAST, now=NOW)
    assert not observations.served(EAST, now=NOW)
    assert shown(observations).state is State.HEALTHY
    for later in (20_000, 20_001):
        observations.attempts([refusal(status=401)], now=NOW + later)
    assert not observations.served(EAST, now=NOW + 20_002)
    assert shown(observations).reason is Reason.AUTH


def test_drain_and_a_missing_secret_come_from_the_table() -> None:
    observations = observing(routing_table(endpoint("east", drain=True), endpoint("west", usable=False)))
    assert shown(observations).state is State.DRAINING
    state = shown(observations, WEST)
    assert (state.state, state.reason) == (State.UNHEALTHY, Reason.SECRET_MISSING)
    assert state.message == "Secret ai/keys has no entry 'west'"
    assert observations.follow([TABLE], now=NOW + 1)
    assert shown(observations).usable
    assert shown(observations, WEST).incarnation == 1


def test_a_name_that_never_resolved_is_a_fault_and_one_that_did_keeps_its_addresses() -> None:
    observations, east = observing(), endpoint_key("east")
    assert observations.unresolved(east, "east.example does not resolve", now=NOW)
    assert (shown(observations).state, shown(observations).reason) == (State.UNHEALTHY, Reason.DNS)
    assert observations.resolved(east, ("10.0.0.1", "10.0.0.2"), now=NOW)
    assert shown(observations).usable
    assert not observations.resolved(east, ("10.0.0.1", "10.0.0.2"), now=NOW)
    observations.unresolved(east, "east.example does not resolve", now=NOW)
    assert shown(observations).usable
    assert "last known addresses" in shown(observations).message
    assert observations.overrides().addresses == {east: ("10.0.0.1", "10.0.0.2")}


def test_state_survives_a_new_table_and_goes_with_its_host() -> None:
    observations = observing()
    observations.resolved(endpoint_key("east"), ("10.0.0.1",), now=NOW)
    observations.attempts([refusal()], now=NOW)
    assert observations.follow([routing_table(endpoint("east"))], now=NOW)
    assert shown(observations).state is State.THROTTLED
    assert observations.overrides().hosts.keys() == {EAST}
    assert not observations.attempts([refusal(WEST)], now=NOW).changed
    assert observations.follow([routing_table(endpoint("east", host="other.example"))], now=NOW)
    assert shown(observations).state is State.UNKNOWN
    assert observations.overrides().addresses == {}


def test_the_view_is_the_same_object_until_something_changes() -> None:
    observations = observing()
    before = observations.overrides()
    observations.tick(NOW + 1)
    assert observations.overrides() is before
    observations.attempts([refusal()], now=NOW)
    assert observations.overrides() is not before
    assert before.host(EAST).state is State.UNKNOWN


@pytest.mark.parametrize(("host", "literal"), [("10.0.0.1", True), ("[::1]", True), ("::1", True), ("a.b", False)])
def test_ip_literals_need_no_resolution(host: str, literal: bool) -> None:
    assert is_address(host) is literal


hosts = st.sampled_from([EAST, WEST, host_key("gone"), host_key("east", "gone")])
failures = st.builds(
    Failure,
    host=hosts,
    status=st.integers(-1, 600),
    retry_after_ms=st.none() | st.integers(-(10**15), 10**15),
    flags=st.frozensets(st.sampled_from(["UF", "UH", "DC", "URX"])),
)
samples = st.builds(
    Sample, reason=st.sampled_from(Reason), message=st.text(max_size=3), retry_after_ms=st.none() | st.integers()
)
tables = st.sampled_from(
    [
        TABLE,
        routing_table(endpoint("east"), probe=None),
        routing_table(endpoint("east", drain=True), endpoint("west", usable=False), probe="Deployment"),
        routing_table(endpoint("east"), endpoint("west"), deployments=("gpt", "mini")),
    ]
)
steps = st.one_of(
    st.tuples(st.just("attempts"), st.lists(failures, max_size=4)),
    st.tuples(st.just("probed"), st.tuples(st.sampled_from(["east", "west", "gone"]), samples)),
    st.tuples(st.just("probed_host"), st.tuples(hosts, samples)),
    st.tuples(st.just("follow"), tables),
    st.tuples(st.just("tick"), st.none()),
)


@given(script=st.lists(st.tuples(st.integers(-1_000, 40_000), steps), max_size=25))
def test_whatever_happens_the_view_is_consistent(script: list[tuple[int, tuple[str, object]]]) -> None:
    observations, now = observing(), NOW
    for passed, (what, argument) in script:
        now += passed
        before = observations.overrides()
        _step(observations, what, argument, now)
        observations.tick(now)
        after = observations.overrides()
        assert not observations.tick(now), "a tick is idempotent"
        assert observations.overrides() is after
        change = observations.next_change(now)
        assert change is None or change > now
        for key, state in after.hosts.items():
            assert state.incarnation >= before.host(key).incarnation or what == "follow"
            if state.state is State.THROTTLED:
                assert state.until is not None
                assert now < state.until <= now + 60_000
                assert not state.usable
            else:
                assert state.until is None
    end = now + 60_000
    observations.tick(end)
    assert all(s.state is not State.THROTTLED for s in observations.overrides().hosts.values())


def _step(observations: Observations, what: str, argument: object, now: int) -> None:
    match what, argument:
        case "attempts", list(batch):
            observations.attempts(batch, now=now)
        case "probed", (str(name), Sample() as sample):
            observations.probed(endpoint_key(name), sample, now=now)
        case "probed_host", (HostKey() as key, Sample() as sample):
            observations.probed_host(key, sample, now=now)
        case "follow", RoutingTable() as table:
            observations.follow([table], now=now)
        case _:
            observations.tick(now)


@given(
    batch=st.permutations(
        [refusal(h, wait=w, status=s) for h in (EAST, WEST) for w in (None, 100) for s in (429, 503, 401)]
    )
)
def test_the_order_of_a_batch_does_not_matter(batch: list[Failure]) -> None:
    one, other = observing(), observing()
    for now in (NOW, NOW + 200):
        one.attempts(batch, now=now)
        other.attempts(list(reversed(batch)), now=now)
        assert one.overrides() == other.overrides()


@given(wait=st.integers(1, 10**9), looks=st.lists(st.integers(0, 59_999), max_size=10))
def test_a_throttled_host_is_never_usable_before_its_end(wait: int, looks: list[int]) -> None:
    observations = observing()
    observations.attempts([refusal(wait=wait)], now=NOW)
    end = NOW + min(wait, 60_000)
    for look in sorted(looks):
        observations.tick(NOW + look)
        assert shown(observations).usable is (NOW + look >= end)


def test_a_renewed_credential_serves_at_once() -> None:
    observations = observing()
    observations.attempts([refusal(status=401, wait=None)], now=NOW)
    observations.probed(endpoint_key("east"), DENIED, now=NOW)
    assert not shown(observations).usable
    assert observations.renewed(endpoint_key("east"), now=NOW + 1)
    assert shown(observations).usable


def test_a_renewed_credential_mends_no_other_fault() -> None:
    observations = observing()
    for _ in range(3):
        observations.probed(endpoint_key("east"), Sample(Reason.TLS), now=NOW)
    assert not observations.renewed(endpoint_key("east"), now=NOW + 1)
    assert shown(observations).reason is Reason.TLS

"""Views and transitions are kept up pool by pool: the same as made anew from everything."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aoai_operator.core.failures import Failure
from aoai_operator.core.health import Sample
from aoai_operator.core.names import EndpointKey, HostKey, PoolKey
from aoai_operator.core.observations import Observations
from aoai_operator.core.observed import Fault, HostState, Overrides, Reason, State, Wait
from aoai_operator.core.table import RoutingTable
from support.tables import CHAT, endpoint, endpoint_key, host_key, routing_table

NOW = 1_700_000_000_000
OTHER = PoolKey("ai", "other")

VERSIONS: dict[PoolKey, list[RoutingTable]] = {
    pool: [
        routing_table(endpoint("east"), endpoint("west"), pool=pool),
        routing_table(endpoint("east"), endpoint("west"), pool=pool, deployments=("gpt", "mini"), probe="Deployment"),
        routing_table(endpoint("east", host="10.0.0.1"), endpoint("west", drain=True), pool=pool, probe=None),
        routing_table(endpoint("west", usable=False), pool=pool),
    ]
    for pool in (CHAT, OTHER)
}

pools = st.sampled_from([CHAT, OTHER])
endpoints = st.builds(EndpointKey, pools, st.sampled_from(["east", "west", "gone"]))
hosts = st.builds(HostKey, pools, st.sampled_from(["east", "west"]), st.sampled_from(["gpt", "mini"]))
reasons = st.sampled_from([Reason.AUTH, Reason.CONNECT, Reason.TLS])
times = st.integers(0, 40_000).map(lambda later: NOW + later)
tables = st.fixed_dictionaries({}, optional={pool: st.sampled_from(some) for pool, some in VERSIONS.items()})
failures = st.lists(st.builds(Failure, hosts, st.sampled_from([401, 429, 500]), st.none() | st.just(2_000)), max_size=4)
samples = st.builds(Sample, reasons | st.just(Reason.OK))
waits = st.dictionaries(hosts, st.builds(Wait, times, times), max_size=3)
faults = st.dictionaries(endpoints | hosts, st.builds(Fault, reasons), max_size=3)


class Step:
    """One thing that an `Observations` is told."""

    def __init__(self, method: str, *arguments: object) -> None:
        self.method, self.arguments = method, arguments

    def __repr__(self) -> str:
        return f"{self.method}{self.arguments}"

    def __call__(self, observations: Observations, now: int) -> object:
        return getattr(observations, self.method)(*self.arguments, now=now)


steps = st.one_of(
    st.builds(Step, st.just("follow"), tables.map(lambda found: tuple(found.values()))),
    st.builds(Step, st.just("attempts"), failures),
    st.builds(Step, st.just("probed"), endpoints, samples),
    st.builds(Step, st.just("probed_host"), hosts, samples),
    st.builds(Step, st.just("resolved"), endpoints, st.sampled_from([("10.0.0.2",), ("10.0.0.3", "10.0.0.4")])),
    st.builds(Step, st.just("unresolved"), endpoints, st.just("it does not resolve")),
    st.builds(Step, st.just("renewed"), endpoints),
    st.builds(Step, st.just("told"), waits),
    st.builds(Step, st.just("judged"), faults),
    st.builds(Step, st.just("served"), hosts),
)
scripts = st.lists(st.tuples(st.integers(0, 10_000), steps), max_size=20)


def begun() -> Observations:
    observations = Observations()
    observations.follow([some[1] for some in VERSIONS.values()], now=NOW)
    observations.transitions()
    return observations


def flat(view: Overrides) -> Overrides:
    return Overrides(dict(view.hosts), dict(view.addresses))


@given(script=scripts)
def test_a_view_that_was_kept_up_is_one_made_at_the_end(script: list[tuple[int, Step]]) -> None:
    looked_at, left_alone, now = begun(), begun(), NOW
    for passed, step in script:
        now += passed
        for observations in (looked_at, left_alone):
            step(observations, now)
        looked_at.overrides()
    assert looked_at.overrides() == left_alone.overrides()


@given(script=scripts)
def test_pools_that_differ_and_transitions_are_those_of_the_views_compared(script: list[tuple[int, Step]]) -> None:
    observations, now = begun(), NOW
    for passed, step in script:
        now += passed
        before = observations.overrides()
        then = flat(before)
        step(observations, now)
        after = observations.overrides()
        assert flat(before) == then, "a view never changes"
        assert after.pools_that_differ(before) == flat(after).pools_that_differ(then)
        assert before.pools_that_differ(after) == after.pools_that_differ(before)
        pairs = ((key, then.host(key), state) for key, state in after.hosts.items())
        differing = {(k, a, b) for k, a, b in pairs if (a.state, a.reason) != (b.state, b.reason)}
        assert set(observations.transitions()) == differing
        assert observations.transitions() == ()


@given(script=scripts)
def test_what_is_told_to_others_names_every_host_that_is_out_and_no_other(script: list[tuple[int, Step]]) -> None:
    observations, now = begun(), NOW
    for passed, step in script:
        now += passed
        step(observations, now)
        observations.tick(now)
        waits, faults = observations.waits(now), observations.faults()
        shown = observations.overrides().hosts
        throttled = {key: state.until for key, state in shown.items() if state.state is State.THROTTLED}
        assert {key: waits[key].throttled for key in throttled} == throttled
        own = {
            key
            for key, s in shown.items()
            if s.state is State.UNHEALTHY and s.reason not in (Reason.DNS, Reason.SECRET_MISSING)
        }
        assert own <= {
            key for key in shown if key in waits or key in faults or EndpointKey(key.pool, key.endpoint) in faults
        }
        assert waits.keys() | {key for key in faults if isinstance(key, HostKey)} <= shown.keys()
        assert all(not shown[key].usable for key in waits)


def test_another_literal_address_is_another_host_of_which_the_view_tells() -> None:
    observations = Observations()
    observations.follow([routing_table(endpoint("east", host="10.0.0.1"))], now=NOW)
    observations.attempts([Failure(host_key("east"), status=429, retry_after_ms=2_000)], now=NOW)
    assert observations.overrides().host(host_key("east")).state is State.THROTTLED
    assert observations.follow([routing_table(endpoint("east", host="10.0.0.2"))], now=NOW)
    assert observations.overrides().host(host_key("east")) == HostState(since=NOW)


def test_a_verdict_on_one_endpoint_ends_that_on_another() -> None:
    observations = begun()
    observations.judged({endpoint_key("east"): Fault(Reason.TLS)}, now=NOW)
    assert observations.faults().keys() == {endpoint_key("east")}
    observations.judged({host_key("west", "mini"): Fault(Reason.DEPLOYMENT_MISSING)}, now=NOW)
    assert observations.faults().keys() == {host_key("west", "mini")}
    assert observations.overrides().host(host_key("east")).usable

"""What is known of the connected Envoys."""

from __future__ import annotations

from aoai_operator.core.envoy.delta import REMOVED
from aoai_operator.core.envoy.snapshot import Resource, Snapshot, TypeUrl
from aoai_operator.core.proxies import Proxy, ProxyStates
from aoai_operator.core.world import Programming

ONE, TWO, STRANGER = Proxy("1", "g"), Proxy("2", "g"), Proxy("1", "other")


def resource(name: str, owner: str | None, value: int = 1) -> Resource:
    return Resource(name, {"name": name, "value": value}, owner=owner)


def snapshot(**values: int) -> Snapshot:
    """One cluster for each pool, and one route that all share."""
    mine = [(TypeUrl.CLUSTER, resource(owner, owner, value)) for owner, value in values.items() if owner != "shared"]
    return Snapshot.of([*mine, (TypeUrl.ROUTE, resource("routes", None, values.get("shared", 1)))])


def accept(states: ProxyStates, proxy: Proxy, accepted: Snapshot) -> None:
    for url, named in accepted.resources.items():
        states.acked(proxy, url, {name: r.version for name, r in named.items()})
    states.settled(proxy, accepted.version)


def test_without_proxies_nothing_is_programmed() -> None:
    assert ProxyStates().programming("g", snapshot(a=1), "a") == Programming(0, 0)
    assert not ProxyStates().all_settled("g", snapshot().version)


def test_each_proxy_of_the_gateway_counts_for_itself() -> None:
    states, now = ProxyStates(), snapshot(a=1)
    for proxy in (ONE, TWO, STRANGER):
        states.connected(proxy)
    accept(states, ONE, now)
    accept(states, STRANGER, now)
    assert states.programming("g", now, "a") == Programming(2, 1)
    assert not states.all_settled("g", now.version)
    accept(states, TWO, now)
    assert states.programming("g", now, "a") == Programming(2, 2)
    assert states.all_settled("g", now.version)


def test_a_pool_stays_programmed_while_another_is_on_its_way() -> None:
    states, before, now = ProxyStates(), snapshot(a=1, b=1), snapshot(a=1, b=2)
    states.connected(ONE)
    accept(states, ONE, before)
    assert states.programming("g", now, "a") == Programming(1, 1)
    assert states.programming("g", now, "b") == Programming(1, 0)


def test_what_no_proxy_asks_for_does_not_count_against_it() -> None:
    states, now = ProxyStates(), snapshot(a=1)
    states.connected(ONE)
    states.settled(ONE, now.version)
    assert states.programming("g", now, "a") == Programming(1, 1)


def test_a_refusal_concerns_its_owner_until_the_version_is_another() -> None:
    states, now = ProxyStates(), snapshot(a=2, b=1)
    states.connected(ONE)
    accept(states, ONE, snapshot(a=1, b=1))
    states.nacked(ONE, TypeUrl.CLUSTER, {"a": now.resources[TypeUrl.CLUSTER]["a"].version}, "bad a")
    assert states.programming("g", now, "a") == Programming(1, 0, "bad a")
    assert states.programming("g", now, "b") == Programming(1, 1)
    assert states.programming("g", snapshot(a=1, b=1), "a") == Programming(1, 1)


def test_a_refusal_of_what_is_shared_concerns_all() -> None:
    states, now = ProxyStates(), snapshot(a=1, shared=2)
    states.connected(ONE)
    accept(states, ONE, snapshot(a=1))
    states.nacked(ONE, TypeUrl.ROUTE, {"routes": now.resources[TypeUrl.ROUTE]["routes"].version}, "bad routes")
    assert states.programming("g", now, "a") == Programming(1, 0, "bad routes")


def test_an_accepted_version_ends_a_refusal() -> None:
    states, now = ProxyStates(), snapshot(a=2)
    states.connected(ONE)
    version = now.resources[TypeUrl.CLUSTER]["a"].version
    states.nacked(ONE, TypeUrl.CLUSTER, {"a": version}, "bad")
    accept(states, ONE, now)
    assert states.programming("g", now, "a") == Programming(1, 1)


def test_what_was_removed_is_not_held() -> None:
    states, now = ProxyStates(), snapshot(a=1)
    states.connected(ONE)
    accept(states, ONE, now)
    states.acked(ONE, TypeUrl.CLUSTER, {"a": REMOVED})
    states.settled(ONE, "another")
    assert states.programming("g", now, "a") == Programming(1, 0)


def test_a_new_stream_may_begin_before_the_old_ones_end_is_noticed() -> None:
    states, now = ProxyStates(), snapshot(a=1)
    states.connected(ONE)
    states.connected(ONE)
    accept(states, ONE, now)
    states.disconnected(ONE)
    assert states.programming("g", now, "a") == Programming(1, 1)
    states.disconnected(ONE)
    assert states.programming("g", now, "a") == Programming(0, 0)


def test_messages_stay_out_of_reprs() -> None:
    states = ProxyStates()
    states.connected(ONE)
    states.nacked(ONE, TypeUrl.SECRET, {"key": "1"}, "it quotes s3cret")
    assert "s3cret" not in repr(states._states)

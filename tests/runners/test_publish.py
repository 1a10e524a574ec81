"""The publisher: what reaches the Envoys when tables, observations and Envoys' answers come in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from aoai_operator.core.api import AOAIBackendPool
from aoai_operator.core.compiler import compile_world
from aoai_operator.core.envoy.settings import GatewaySettings
from aoai_operator.core.envoy.snapshot import Snapshot, TypeUrl
from aoai_operator.core.names import HostKey, PoolKey
from aoai_operator.core.observed import HostState, Overrides, Reason, State
from aoai_operator.core.world import Programming
from aoai_operator.runners.publish import Publisher
from support.resources import pool, world
from support.waiting import eventually

A, B = PoolKey("ns", "a"), PoolKey("ns", "b")


@dataclass
class Observations:
    hosts: dict[HostKey, HostState] = field(default_factory=dict)
    change: int | None = None

    def overrides(self, now: int) -> Overrides:
        if self.change is not None and now >= self.change:
            self.hosts, self.change = {}, None
        return Overrides(hosts=dict(self.hosts))

    def next_change(self, now: int) -> int | None:
        return self.change if self.change is None else max(self.change, now)


@dataclass
class Gateway:
    """A publisher, and an Envoy that is played by the test."""

    observations: Observations = field(default_factory=Observations)
    snapshots: list[Snapshot] = field(default_factory=list)
    now: int = 1_000
    told: dict[PoolKey, tuple[int, str | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        settings = GatewaySettings(gateway="default", listen_host="127.0.0.1", listen_port=1)
        self.publisher = Publisher(
            settings=settings,
            observing=self.observations,
            publish=self.snapshots.append,
            now=lambda: self.now,
            interval=0.001,
            moved=self.seen,
        )

    def seen(self) -> None:
        """Look at it as the leader does, which looks again only when it is told to."""
        of_all = self.publisher.programming(lambda _: Programming(connected=1, programmed=1))
        self.told = {key: (one.programmed, one.revision or "") for key, one in of_all.items()}

    def want(self, *pools: AOAIBackendPool, **secrets: str) -> None:
        resources = world(*pools, **secrets)
        self.publisher.want(compile_world(resources).tables, resources.secrets)

    async def published(self, count: int) -> Snapshot:
        await eventually(lambda: len(self.snapshots) >= count)
        return self.snapshots[-1]

    def refuse(self, url: TypeUrl, name: str) -> None:
        version = self.snapshots[-1].resources[url][name].version
        self.publisher.refused(url, name, version, "no, thanks")

    def accept(self) -> None:
        self.publisher.settled(self.snapshots[-1].version)


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    made = Gateway()
    task = asyncio.create_task(made.publisher.run())
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def clusters(snapshot: Snapshot) -> set[str]:
    return set(snapshot.resources[TypeUrl.CLUSTER])


def versions(snapshot: Snapshot, url: TypeUrl) -> dict[str, str]:
    return {name: resource.version for name, resource in snapshot.resources[url].items()}


async def test_an_observation_changes_endpoints_and_nothing_that_is_warmed_or_drained(gateway: Gateway) -> None:
    gateway.want(pool("a"))
    before = await gateway.published(1)
    gateway.observations.hosts[HostKey(A, "one", "dep")] = HostState(State.UNHEALTHY, Reason.CONNECT, 1)
    gateway.publisher.observed()
    after = await gateway.published(2)
    assert versions(before, TypeUrl.ENDPOINT) != versions(after, TypeUrl.ENDPOINT)
    for url in (TypeUrl.CLUSTER, TypeUrl.LISTENER, TypeUrl.SECRET, TypeUrl.EXTENSION):
        assert versions(before, url) == versions(after, url)


async def test_what_changes_by_the_passing_of_time_is_published_then(gateway: Gateway) -> None:
    gateway.observations.hosts[HostKey(A, "one", "dep")] = HostState(State.UNHEALTHY, Reason.CONNECT, 1)
    gateway.observations.change = gateway.now + 50
    gateway.want(pool("a"))
    before = await gateway.published(1)
    gateway.now += 50
    after = await gateway.published(2)
    assert versions(before, TypeUrl.ENDPOINT) != versions(after, TypeUrl.ENDPOINT)


async def test_equal_content_is_not_published_again(gateway: Gateway) -> None:
    gateway.want(pool("a"))
    await gateway.published(1)
    gateway.want(pool("a"))
    gateway.want(pool("a"), azure="another-key")
    await gateway.published(2)
    assert len(gateway.snapshots) == 2


async def test_what_is_not_known_is_published_when_it_is_another(gateway: Gateway) -> None:
    gateway.want(pool("a"))
    first = await gateway.published(1)
    assert first.unknown == frozenset()
    resources = world(pool("a"))
    tables = compile_world(resources).tables
    for count, unknown in enumerate((frozenset({"ai/b", None}), frozenset({"ai/b"}), frozenset[str | None]()), 2):
        gateway.publisher.want(tables, resources.secrets, unknown)
        snapshot = await gateway.published(count)
        assert (snapshot.unknown, snapshot.resources) == (unknown, first.resources)
    assert snapshot == first


async def test_pools_of_other_gateways_are_left_out(gateway: Gateway) -> None:
    other = pool("b").model_dump(by_alias=True)
    other["spec"]["gateway"]["name"] = "other"
    gateway.want(pool("a"), AOAIBackendPool.model_validate(other))
    assert clusters(await gateway.published(1)) == {"ns/a/gpt-4o"}


async def test_a_refused_cluster_brings_its_pools_last_good_state_back_and_no_others(gateway: Gateway) -> None:
    gateway.want(pool("a"), pool("b"))
    good = await gateway.published(1)
    gateway.accept()
    gateway.want(pool("a", url="http://127.0.0.1:10"), pool("b", url="http://127.0.0.1:10"))
    await gateway.published(2)
    gateway.refuse(TypeUrl.CLUSTER, "ns/a/gpt-4o")
    after = await gateway.published(3)
    was, now = versions(good, TypeUrl.ENDPOINT), versions(after, TypeUrl.ENDPOINT)
    assert was["ns/a/gpt-4o"] == now["ns/a/gpt-4o"]
    assert was["ns/b/gpt-4o"] != now["ns/b/gpt-4o"]
    assert gateway.publisher.refusals() == {A: "no, thanks"}


async def test_after_a_refused_shared_resource_pools_come_one_at_a_time(gateway: Gateway) -> None:
    gateway.want(pool("a"), pool("b"))
    await gateway.published(1)
    gateway.refuse(TypeUrl.ROUTE, "default")
    assert clusters(await gateway.published(2)) == {"ns/a/gpt-4o"}
    assert gateway.publisher.programming(lambda _: Programming(1, 1))[B].programmed == 0
    gateway.accept()
    assert clusters(await gateway.published(3)) == {"ns/a/gpt-4o", "ns/b/gpt-4o"}
    gateway.refuse(TypeUrl.ROUTE, "default")
    assert clusters(await gateway.published(4)) == {"ns/a/gpt-4o"}
    assert gateway.publisher.refusals() == {B: "no, thanks"}


async def test_a_refusal_that_arrives_after_the_mend_blames_nobody(gateway: Gateway) -> None:
    gateway.want(pool("a"))
    bad = await gateway.published(1)
    gateway.want(pool("a", url="http://127.0.0.1:10"))
    version = bad.resources[TypeUrl.ENDPOINT]["ns/a/gpt-4o"].version
    gateway.publisher.refused(TypeUrl.ENDPOINT, "ns/a/gpt-4o", version, "too late")
    await gateway.published(2)
    gateway.accept()
    assert gateway.publisher.refusals() == {}


async def test_a_refusal_that_arrives_before_an_unrelated_change_is_published_still_counts(gateway: Gateway) -> None:
    gateway.want(pool("a"))
    bad = await gateway.published(1)
    gateway.want(pool("a"), pool("b"))
    version = bad.resources[TypeUrl.CLUSTER]["ns/a/gpt-4o"].version
    gateway.publisher.refused(TypeUrl.CLUSTER, "ns/a/gpt-4o", version, "bad")
    await eventually(lambda: clusters(gateway.snapshots[-1]) == {"ns/b/gpt-4o"})
    assert gateway.publisher.refusals() == {A: "bad"}


async def test_what_settled_is_good_even_if_something_was_observed_since(gateway: Gateway) -> None:
    gateway.want(pool("a"))
    first = await gateway.published(1)
    gateway.observations.hosts[HostKey(A, "one", "dep")] = HostState(State.UNHEALTHY, Reason.CONNECT, 1)
    gateway.publisher.observed()
    await gateway.published(2)
    gateway.publisher.settled(first.version)
    gateway.want(pool("a"), pool("b"))
    await gateway.published(3)
    gateway.refuse(TypeUrl.ROUTE, "default")
    assert set(gateway.publisher.refusals()) == {B}


async def test_a_pool_that_is_again_what_it_was_before_a_refusal_is_told_of_though_nothing_is_sent(
    gateway: Gateway,
) -> None:
    gateway.want(pool("a"))
    await gateway.published(1)
    gateway.accept()
    await eventually(lambda: gateway.told)
    good = gateway.told
    assert good[A][0] == 1
    gateway.want(pool("a", url="http://127.0.0.1:10"))
    await gateway.published(2)
    gateway.refuse(TypeUrl.CLUSTER, "ns/a/gpt-4o")
    await gateway.published(3)
    gateway.accept()
    await eventually(lambda: gateway.told != good and gateway.told[A][0] == 0)
    gateway.want(pool("a"))
    await eventually(lambda: gateway.told == good)
    assert len(gateway.snapshots) == 3

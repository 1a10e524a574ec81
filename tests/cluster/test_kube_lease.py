"""Leader election on the real API server: never two leaders, whatever happens to one of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from aoai_operator.adapters.clock import elapsed
from aoai_operator.adapters.kube.client import Kube
from aoai_operator.adapters.kube.fence import Fenced
from aoai_operator.adapters.kube.lease import Election, LeaseTiming, NotLeadingError
from aoai_operator.adapters.kube.resources import CONFIG_MAPS, LEASES
from aoai_operator.core.names import PoolKey
from support.cluster.control_plane import ControlPlane
from support.kube import Line, config_map, running
from support.waiting import eventually

TIMING = LeaseTiming(duration=4, deadline=2.5, retry=0.5)


class Candidate:
    """A replica, with a line and clocks of its own."""

    def __init__(self, api: Kube, namespace: str, name: str, *, timing: LeaseTiming = TIMING) -> None:
        self.line = Line(api)
        self.monotonic = 0.0
        self.wall = timedelta()
        self.election = Election(
            self.line,
            PoolKey(namespace, "aoai-operator"),
            identity=name,
            address=f"{name}:18000",
            timing=timing,
            clock=lambda: elapsed() + self.monotonic,
            wall=lambda: datetime.now(UTC) + self.wall,
        )

    @property
    def leads(self) -> bool:
        return self.election.valid()


async def refused(write: Awaitable[object]) -> bool:
    """Return whether a write was given up, since another replica may lead."""
    try:
        await write
    except NotLeadingError:
        return True
    return False


class Record:
    """Looks all the time at who may write, and for how long."""

    def __init__(self, *candidates: Candidate) -> None:
        self.candidates = candidates
        self.spans: list[tuple[str, float, float]] = []

    async def run(self) -> None:
        while True:
            leaders = [c.election.identity for c in self.candidates if c.leads]
            now = time.monotonic()
            assert len(leaders) < 2, f"{leaders} lead at once"
            for name in leaders:
                if self.spans and self.spans[-1][0] == name:
                    self.spans[-1] = (name, self.spans[-1][1], now)
                else:
                    self.spans.append((name, now, now))
            await asyncio.sleep(0.005)

    @property
    def order(self) -> list[str]:
        return [name.split("_")[0] for name, _, _ in self.spans]


@asynccontextmanager
async def led(one: Candidate, two: Candidate) -> AsyncIterator[Record]:
    """Have the first one lead and the second one know it, and look at both, while the block runs."""
    record = Record(one, two)
    async with running(record.run(), one.election.run()):
        await asyncio.wait_for(one.election.leading.wait(), 10)
        async with running(two.election.run()):
            await eventually(lambda: two.election.holder == one.election.identity)
            yield record


@pytest.fixture
async def apis(plane: ControlPlane) -> AsyncIterator[tuple[Kube, Kube]]:
    async with Kube.connected(plane.kubeconfig) as one, Kube.connected(plane.kubeconfig) as two:
        yield one, two


@pytest.fixture
def pair(apis: tuple[Kube, Kube], namespace: str) -> tuple[Candidate, Candidate]:
    return Candidate(apis[0], namespace, "one"), Candidate(apis[1], namespace, "two")


async def test_one_leads_and_the_other_knows_who(
    plane: ControlPlane, namespace: str, pair: tuple[Candidate, Candidate]
) -> None:
    one, two = pair
    async with led(one, two):
        assert two.election.holder_address == "one:18000"
        assert two.election.following.is_set()
        lease = await plane.get("coordination.k8s.io/v1/leases", "aoai-operator", namespace=namespace)
        assert lease is not None
        renewed = lease["spec"]["renewTime"]
        assert lease["spec"]["leaseTransitions"] == 1
        assert lease["metadata"]["annotations"] == {"aoai.dev/address": "one:18000"}
        later = await plane.wait_for(
            lambda item: item["spec"]["renewTime"] > renewed,
            "coordination.k8s.io/v1/leases",
            "aoai-operator",
            namespace=namespace,
        )
        assert later["spec"]["acquireTime"] == lease["spec"]["acquireTime"]
        assert not two.leads


async def test_a_lease_given_back_is_taken_at_once(pair: tuple[Candidate, Candidate]) -> None:
    one, two = pair
    record = Record(one, two)
    async with running(record.run()):
        async with running(one.election.run()):
            await asyncio.wait_for(one.election.leading.wait(), 10)
            async with running(two.election.run()) as (following,):
                await eventually(lambda: two.election.holder == one.election.identity)
                following.cancel()
        assert not one.leads
        assert one.election.following.is_set()
        async with running(two.election.run()):
            await one.election.release()
            released = len(two.line.calls)
            await asyncio.wait_for(two.election.leading.wait(), 10)
            # It took the Lease by its next try or the one after: it did not wait for it to run out.
            assert len(two.line.calls) <= released + 4
            await eventually(lambda: record.order == ["one", "two"])


@pytest.mark.parametrize("how", ["refused", "silent"])
async def test_a_leader_that_is_cut_off_stops_before_another_begins(
    pair: tuple[Candidate, Candidate], how: str
) -> None:
    one, two = pair
    async with led(one, two) as record:
        setattr(one.line, how, True)
        await asyncio.wait_for(two.election.leading.wait(), 20)
        assert one.election.following.is_set()
        setattr(one.line, how, False)
        await eventually(lambda: one.election.holder == two.election.identity)
        assert one.election.following.is_set()
    assert record.order == ["one", "two"]
    (_, _, end), (_, begin, _) = record.spans
    assert end < begin


async def test_a_leader_that_died_is_followed_by_another(pair: tuple[Candidate, Candidate]) -> None:
    one, two = pair
    async with running(one.election.run()):
        await asyncio.wait_for(one.election.leading.wait(), 10)
    async with running(two.election.run()):
        await asyncio.wait_for(two.election.leading.wait(), 20)
        assert two.election.holder == two.election.identity


async def test_a_restarted_replica_is_another_candidate(apis: tuple[Kube, Kube], namespace: str) -> None:
    first, second = Candidate(apis[0], namespace, "one"), Candidate(apis[1], namespace, "one")
    async with led(first, second):
        assert second.election.following.is_set()


@pytest.mark.parametrize("hours", [-1, 1])
@pytest.mark.parametrize("who", [0, 1])
async def test_the_time_of_day_does_not_matter(pair: tuple[Candidate, Candidate], who: int, hours: int) -> None:
    one, two = pair
    async with led(one, two) as record:
        pair[who].wall = timedelta(hours=hours)
        seen = len(two.line.calls)
        await eventually(lambda: len(two.line.calls) > seen + 12)
    assert record.order == ["one"]


@pytest.mark.parametrize("seconds", [-3600, 3600])
@pytest.mark.parametrize("who", [0, 1])
async def test_a_clock_that_jumps_makes_no_second_leader(
    pair: tuple[Candidate, Candidate], who: int, seconds: float
) -> None:
    one, two = pair
    async with led(one, two) as record:
        pair[who].monotonic = seconds
        seen = len(two.line.calls)
        await eventually(lambda: len(two.line.calls) > seen + 12)
        await eventually(lambda: one.leads)
    assert set(record.order) == {"one"}


async def test_a_deleted_lease_makes_no_second_leader(pair: tuple[Candidate, Candidate]) -> None:
    one, two = pair
    async with led(one, two) as record:
        for _ in range(3):
            await one.line.delete(LEASES, PoolKey(one.election._key.namespace, "aoai-operator"))
            seen = len(two.line.calls)
            await eventually(lambda: len(two.line.calls) > seen + 4)  # noqa: B023 - awaited here
    assert set(record.order) == {"one"}


async def test_only_the_leader_writes_and_gives_up_in_time(
    pair: tuple[Candidate, Candidate], apis: tuple[Kube, Kube], namespace: str
) -> None:
    one, _ = pair
    writes = Line(apis[0])
    fenced = Fenced(writes, one.election)
    body = config_map("table", namespace, a="1")
    with pytest.raises(NotLeadingError):
        await fenced.apply(CONFIG_MAPS, body)
    assert writes.calls == []
    async with running(one.election.run()):
        await asyncio.wait_for(one.election.leading.wait(), 10)
        await fenced.apply(CONFIG_MAPS, body)
        writes.silent = one.line.silent = True
        begun = one.election._held_since
        assert begun is not None
        with pytest.raises(NotLeadingError):
            await fenced.apply(CONFIG_MAPS, body)
        assert elapsed() - begun < TIMING.duration
        await asyncio.wait_for(one.election.following.wait(), 10)
        with pytest.raises(NotLeadingError):
            await fenced.delete(CONFIG_MAPS, PoolKey(namespace, "table"))


async def test_a_write_that_the_machine_slept_through_is_given_up(apis: tuple[Kube, Kube], namespace: str) -> None:
    """The leader's own clock goes on meanwhile, and the event loop's does not: that one has most of its time left."""
    one = Candidate(apis[0], namespace, "one", timing=LeaseTiming(duration=3600, deadline=3000))
    writes = Line(apis[0])
    fenced = Fenced(writes, one.election)
    async with running(one.election.run()):
        await asyncio.wait_for(one.election.leading.wait(), 10)
        writes.silent = True
        async with asyncio.TaskGroup() as tasks:
            write = tasks.create_task(refused(fenced.apply(CONFIG_MAPS, config_map("table", namespace, a="1"))))
            await eventually(lambda: len(writes.calls) == 1)
            one.monotonic = 3599
            assert await asyncio.wait_for(write, 30)
        assert not one.leads


async def test_a_leader_outlives_a_short_absence_of_the_server(
    plane: ControlPlane, pair: tuple[Candidate, Candidate]
) -> None:
    one, two = pair
    record = Record(one, two)
    async with running(record.run(), one.election.run(), two.election.run()):
        await eventually(lambda: one.leads or two.leads)
        await plane.apiserver.kill()
        await plane.apiserver.start()
        await eventually(lambda: one.leads or two.leads)

"""Names and probes: from the tables to the observations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aoai_operator.core.health import ProbeTarget, Sample
from aoai_operator.core.names import EndpointKey, HostKey, SecretRef
from aoai_operator.core.observed import HostState, Reason, State
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.table import RoutingTable
from aoai_operator.ports import ResolveError
from aoai_operator.runners.observing import Observer
from aoai_operator.runners.probing import Probing
from support.tables import endpoint, endpoint_key, host_key, routing_table
from support.waiting import eventually

SECRETS = {SecretRef("ai", "keys", name): SecretValue(f"{name}-key") for name in ("east", "west")}


@dataclass
class World:
    """The outside, played: names that resolve, and what probes of endpoints and deployments find."""

    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    samples: dict[str, Sample] = field(default_factory=dict)
    probes: list[ProbeTarget] = field(default_factory=list)
    counted: list[tuple[str, Reason]] = field(default_factory=list)
    now: int = 0
    changes: int = 0

    def __post_init__(self) -> None:
        self.observer = Observer(changed=self._changed, now=lambda: self.now)
        self.probing = Probing(
            prober=self,
            resolver=self,
            observer=self.observer,
            meters=self,
            now=lambda: self.now,
            chance=lambda: 0.5,
        )

    def _changed(self) -> None:
        self.changes += 1

    async def resolve(self, host: str) -> tuple[str, ...]:
        if host not in self.names:
            raise ResolveError(f"{host} does not resolve")
        return self.names[host]

    async def endpoint(self, target: ProbeTarget) -> Sample:
        self.probes.append(target)
        return self.samples.get(target.host, Sample(Reason.OK))

    async def deployment(self, target: ProbeTarget, name: str) -> Sample:
        assert target.credential.reveal() == "east-key"
        return self.samples.get(name, Sample(Reason.OK))

    def probed(self, key: EndpointKey, reason: Reason) -> None:
        self.counted.append((key.endpoint, reason))

    async def until_probed(self, times: int) -> None:
        await eventually(lambda: len(self.probes) >= times)

    def follow(self, table: RoutingTable, secrets: dict[SecretRef, SecretValue] | None = None) -> None:
        self.table, self.secrets = table, SECRETS if secrets is None else secrets
        self.observer.follow([table])
        self.probing.follow([table], self.secrets)

    def at(self, now: int) -> None:
        """Set the clock; a table that is another object makes the schedules look at it."""
        self.now = now
        self.follow(self.table.model_copy(), self.secrets)

    def shown(self, key: HostKey) -> HostState:
        return self.observer.overrides(self.now).host(key)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.probing.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_a_name_is_resolved_then_probed_at_its_addresses_with_its_key() -> None:
    world = World(names={"east.example": ("10.0.0.1",)})
    world.follow(routing_table(endpoint("east")))
    async with world.running():
        await eventually(lambda: world.shown(host_key("east")).state is State.HEALTHY)
    target = world.probes[0]
    assert (target.host, target.addresses, target.timeout_ms) == ("east.example", ("10.0.0.1",), 3_000)
    assert target.credential.reveal() == "east-key"
    assert world.observer.overrides(0).addresses == {endpoint_key("east"): ("10.0.0.1",)}
    assert world.changes > 0


async def test_a_literal_address_is_probed_without_a_lookup() -> None:
    world = World()
    world.follow(routing_table(endpoint("east", host="10.9.8.7")))
    async with world.running():
        await world.probing.names_tried()
        await eventually(lambda: world.shown(host_key("east")).state is State.HEALTHY)
    assert world.probes[0].addresses == ()


async def test_a_name_that_does_not_resolve_is_out_and_not_probed_until_it_does() -> None:
    world = World()
    world.follow(routing_table(endpoint("east")))
    async with world.running():
        await world.probing.names_tried()
        assert world.shown(host_key("east")).reason is Reason.DNS
        assert world.probes == []
        world.names["east.example"] = ("10.0.0.1",)
        world.at(30_000)
        await eventually(lambda: world.shown(host_key("east")).usable and world.probes)


async def test_a_moved_name_is_probed_at_once_at_its_new_address() -> None:
    world = World(names={"east.example": ("10.0.0.1",), "west.example": ("10.0.0.2",)})
    world.follow(routing_table(endpoint("east"), endpoint("west"), interval_ms=600_000))
    async with world.running():
        await eventually(lambda: len(world.probes) == 2)
        world.names["east.example"] = ("10.0.0.3",)
        world.at(30_000)
        await eventually(lambda: len(world.probes) == 3)
    assert world.probes[2].addresses == ("10.0.0.3",)


async def test_three_bad_probes_take_it_out_and_two_good_ones_bring_it_back() -> None:
    bad = Sample(Reason.CONNECT, "refused")
    world = World(samples={"10.0.0.1": bad})
    key = host_key("east")
    world.follow(routing_table(endpoint("east", host="10.0.0.1")))
    async with world.running():
        for count in range(1, 4):
            world.at(10_000 * count)
            await world.until_probed(count)
        await eventually(lambda: world.shown(key).reason is Reason.CONNECT)
        world.samples.clear()
        world.at(40_000)
        await eventually(lambda: len(world.probes) == 4)
        assert not world.shown(key).usable
        world.at(50_000)
        await eventually(lambda: world.shown(key).usable)
    assert world.shown(key).incarnation == 1


async def test_a_suspect_is_probed_early() -> None:
    world = World()
    world.follow(routing_table(endpoint("east", host="10.0.0.1"), interval_ms=600_000))
    async with world.running():
        await eventually(lambda: len(world.probes) == 1)
        world.now = 5_000
        world.probing.soon(endpoint_key("east"))
        await eventually(lambda: len(world.probes) == 2)


async def test_each_deployment_is_probed_where_the_pool_asks_for_it() -> None:
    world = World(samples={"mini": Sample(Reason.DEPLOYMENT_MISSING, "no such deployment")})
    table = routing_table(endpoint("east", host="10.0.0.1"), deployments=("gpt", "mini"), probe="Deployment")
    world.follow(table)
    async with world.running():
        for count in range(1, 4):
            world.at(10_000 * count)
            await world.until_probed(count)
        await eventually(lambda: world.shown(host_key("east", "mini")).reason is Reason.DEPLOYMENT_MISSING)
    assert world.shown(host_key("east")).state is State.HEALTHY
    assert world.counted[:3] == [("east", Reason.OK), ("east", Reason.OK), ("east", Reason.DEPLOYMENT_MISSING)]


async def test_without_a_credential_or_a_probe_nothing_is_probed() -> None:
    world = World()
    world.follow(routing_table(endpoint("east", host="10.0.0.1")), {})
    async with world.running():
        world.follow(routing_table(endpoint("east", host="10.0.0.1"), probe=None))
        world.follow(routing_table(endpoint("west", host="10.0.0.2")))
        await eventually(lambda: world.probes)
        world.follow(
            routing_table(endpoint("west", host="10.0.0.2")), {SecretRef("ai", "keys", "west"): SecretValue("2")}
        )
        await eventually(lambda: len(world.probes) == 2)
    assert [t.credential.reveal() for t in world.probes] == ["west-key", "2"]


async def test_another_key_is_another_chance() -> None:
    world = World()
    table = routing_table(endpoint("east", host="10.0.0.1"))
    world.follow(table)
    world.observer.probed(endpoint_key("east"), Sample(Reason.AUTH))
    world.observer.probed(endpoint_key("east"), Sample(Reason.AUTH))
    world.observer.probed(endpoint_key("east"), Sample(Reason.AUTH))
    assert world.shown(host_key("east")).reason is Reason.AUTH
    world.follow(table)
    assert world.shown(host_key("east")).reason is Reason.AUTH
    world.follow(table, {**SECRETS, SecretRef("ai", "keys", "east"): SecretValue("rotated")})
    assert world.shown(host_key("east")).usable


async def test_a_replica_that_does_not_lead_resolves_and_does_not_probe_until_it_does() -> None:
    world = World(names={"east.example": ("10.0.0.1",)})
    world.probing.lead(False)
    world.follow(routing_table(endpoint("east")))
    async with world.running():
        await world.probing.names_tried()
        assert world.observer.overrides(0).addresses == {endpoint_key("east"): ("10.0.0.1",)}
        assert not world.probes
        world.probing.lead(True)
        await world.until_probed(1)
        world.probing.lead(False)
        world.probing.soon(endpoint_key("east"))
        world.at(3_600_000)
        await eventually(lambda: world.shown(host_key("east")).state is State.HEALTHY)
    assert len(world.probes) == 1

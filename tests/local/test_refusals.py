"""A real Envoy refuses a pool's resources: the other pools do not notice, and the pool keeps what it had."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from aoai_operator.adapters.listening import reserved_port
from aoai_operator.control_plane import ControlPlane, Gateway
from aoai_operator.core.compiler import compile_world
from aoai_operator.core.envoy.settings import GatewaySettings
from aoai_operator.core.envoy.snapshot import Resource, Snapshot, TypeUrl
from aoai_operator.core.envoy.translate import translate
from aoai_operator.core.names import PoolKey, SecretRef
from aoai_operator.core.observed import Overrides
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.table import RoutingTable
from aoai_operator.metrics import Metrics
from aoai_operator.runners.publish import Publisher
from support.managed import NoObservations, envoy_beside
from support.resources import pool, world
from support.waiting import eventually

B = PoolKey("ns", "b")
POISON = "https://poison.example"
"""The address of an endpoint whose pool's resources are made unacceptable to Envoy."""


@dataclass
class Sabotage:
    """translate(), but what it makes of a poisoned pool is such that Envoy refuses it."""

    shared: bool = False

    def __call__(
        self,
        tables: Sequence[RoutingTable],
        secrets: Mapping[SecretRef, SecretValue],
        overrides: Overrides,
        settings: GatewaySettings,
    ) -> Snapshot:
        snapshot = translate(tables, secrets, overrides, settings)
        resources = {url: dict(named) for url, named in snapshot.resources.items()}
        for table in tables:
            if any(e.host == "poison.example" for e in table.endpoints):
                self._poison(resources, str(table.key), settings.gateway)
        return Snapshot(resources)

    def _poison(self, resources: dict[TypeUrl, dict[str, Resource]], key: str, gateway: str) -> None:
        if self.shared:
            routes = resources[TypeUrl.ROUTE][gateway]
            bad = {"name": key, "domains": ["*.*"], "routes": [{"match": {"prefix": "/"}, "route": {}}]}
            hosts = [*routes.body["virtual_hosts"], bad]
            resources[TypeUrl.ROUTE][gateway] = Resource(gateway, {**routes.body, "virtual_hosts": hosts})
            return
        for name, cluster in resources[TypeUrl.CLUSTER].items():
            if cluster.owner == key:
                body = {**cluster.body, "connect_timeout": "-1s"}
                resources[TypeUrl.CLUSTER][name] = Resource(name, body, cluster.owner)


@dataclass
class House:
    """A publisher, a control plane and a real Envoy."""

    publisher: Publisher
    admin: str

    def want(self, **urls: str) -> None:
        """Take pools by name and the address of their endpoint."""
        resources = world(*(pool(name, url=url) for name, url in urls.items()))
        self.publisher.want(compile_world(resources).tables, resources.secrets)

    async def clusters(self) -> set[str]:
        transport = httpx.AsyncHTTPTransport(uds=self.admin)
        async with httpx.AsyncClient(transport=transport, base_url="http://envoy") as client:
            text = (await client.get("/clusters")).text
        return {line.partition("::")[0] for line in text.splitlines()}

    async def serves(self, *names: str) -> None:
        """Wait until Envoy has the clusters of these pools and of no others."""
        expected = {f"ns/{name}/gpt-4o" for name in names} | {"control-plane"}

        async def same() -> bool:
            return await self.clusters() == expected

        await eventually(same, what=f"Envoy has {expected}")


@pytest.fixture(params=["cluster", "routes"])
async def house(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        port = stack.enter_context(reserved_port("127.0.0.1", 0))
        settings = GatewaySettings("default", "127.0.0.1", port, str(tmp_path / "access.log"))
        gateway: Gateway
        publisher = Publisher(
            settings=settings,
            observing=NoObservations(),
            publish=lambda snapshot: gateway.publish(snapshot),  # noqa: PLW0108 - they need each other
            now=lambda: 1,
            interval=0.01,
            translate=Sabotage(shared=request.param == "routes"),
        )
        plane = ControlPlane(changed=lambda: None, meters=Metrics())
        gateway = plane.add("default", refused=publisher.refused, settled=publisher.settled)
        admin = await stack.enter_async_context(envoy_beside(plane, publisher, tmp_path))
        yield House(publisher, str(admin))


async def test_a_refused_pool_is_out_and_the_others_come_in(house: House) -> None:
    house.want(a="https://a.example", b=POISON, c="https://c.example")
    await house.serves("a", "c")
    await eventually(lambda: set(house.publisher.refusals()) == {B})
    assert "name: " not in house.publisher.refusals()[B]


async def test_a_refused_change_keeps_the_pools_last_good_state(house: House) -> None:
    house.want(a="https://a.example", b="https://b.example")
    await house.publisher.settled_once.wait()
    house.want(a="https://a.example", b=POISON, c="https://c.example")
    await house.serves("a", "b", "c")
    await eventually(lambda: set(house.publisher.refusals()) == {B})


async def test_a_mended_pool_is_let_in(house: House) -> None:
    house.want(a="https://a.example", b=POISON)
    await house.serves("a")
    await eventually(house.publisher.refusals)
    house.want(a="https://a.example", b="https://b.example")
    await house.serves("a", "b")
    assert not house.publisher.refusals()

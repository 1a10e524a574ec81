"""Line 8: active probes tell what is wrong with an endpoint, and when it is well again; /healthz tells of the whole."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import pytest_asyncio

from aoai_operator.simulator import Blackhole, Deployment, Down, Region, Simulator, Status
from support.calls import ask
from support.local import LocalGateway
from support.manifests import TENANT_KEY, pool_manifest
from support.servers import Authority
from support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUICK: Mapping[str, Any] = {
    "probe": {"path": "Deployment", "interval": "1s", "timeout": "300ms"},
    "unhealthyAfter": 2,
    "healthyAfter": 2,
}
PAIR_KEY = "pair-key-0123456789"


@dataclass
class House:
    """A gateway with two pools: one whose endpoints fail in all ways, and one of two endpoints that both may fail."""

    azure: Simulator
    gateway: LocalGateway

    def reason(self, endpoint: str) -> tuple[str, str]:
        """Return the state and its reason, of an endpoint as last shown."""
        found = [e for e in self.gateway.events_of("transition") if f" {endpoint}/" in e["name"]]
        return (found[-1]["value"], found[-1]["reason"]) if found else ("", "")

    async def shows(self, endpoint: str, state: str) -> None:
        """Wait until an endpoint is shown in a state."""
        await eventually(lambda: self.reason(endpoint)[0] == state, what=f"{endpoint} is {state}")

    async def health(self, path: str) -> int:
        """Return the status of a health check."""
        async with httpx.AsyncClient() as client:
            return (await client.get(f"{self.gateway.url}{path}")).status_code


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    """The gateway, running."""
    unknown = Authority(tmp_path_factory.mktemp("unknown"))
    unknown.server("localhost", "127.0.0.1")
    names = ("good", "auth", "dns", "connect", "timeout", "missing", "status", "one", "two")
    regions = [Region(name=name, deployments=[Deployment(name="gpt-4o", model="gpt-4o")]) for name in names]
    certificate = str(unknown.ca_file.with_name("server.pem"))
    regions.append(Region(name="tls", deployments=[Deployment(name="gpt-4o", model="gpt-4o")], certfile=certificate))
    async with Simulator(regions) as azure:
        running = azure.regions
        urls = {"dns": "http://no-such-host.invalid", "tls": f"https://localhost:{urlsplit(running['tls'].url).port}"}
        endpoints = {name: {"url": url} for name, url in urls.items()}
        several = [r for name, r in running.items() if name not in ("one", "two")]
        files = {
            "chat.yaml": pool_manifest(several, spec={"health": dict(QUICK)}, endpoints=endpoints),
            "pair.yaml": pool_manifest(
                [running["one"], running["two"]],
                name="pair",
                spec={"health": dict(QUICK), "gateway": {"hostnames": ["pair.ai.svc"]}},
                tenants={"pair": PAIR_KEY},
            ),
        }
        running["auth"].set_keys("another key")
        running["missing"].undeploy("gpt-4o")
        azure.fault("connect", Down())
        azure.fault("timeout", Blackhole())
        azure.fault("status", Status(status=500))
        # The key and the deployment are broken after the manifest was written: it names the ones that were good.
        async with LocalGateway(files) as gateway:
            yield House(azure, gateway)


@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [
        ("auth", "Auth"),
        ("dns", "Dns"),
        ("connect", "Connect"),
        ("tls", "Tls"),
        ("timeout", "Timeout"),
        ("missing", "DeploymentMissing"),
        ("status", "Status"),
    ],
)
async def test_each_fault_has_its_own_reason(house: House, endpoint: str, reason: str) -> None:
    await eventually(lambda: house.reason(endpoint) == ("Unhealthy", reason))


async def test_an_endpoint_that_is_well_serves_alone(house: House) -> None:
    async with house.gateway.client() as client:
        for _ in range(5):
            assert await ask(client)
    assert house.reason("good")[0] in ("", "Healthy")


async def test_what_is_mended_comes_back(house: House) -> None:
    running = house.azure.regions
    for name in ("connect", "timeout", "status"):
        await house.shows(name, "Unhealthy")
        house.azure.heal(name)
    running["auth"].set_keys("sim-key-auth")
    running["missing"].deploy(Deployment(name="gpt-4o", model="gpt-4o"))
    for name in ("connect", "timeout", "status", "auth", "missing"):
        await house.shows(name, "Healthy")
    async with house.gateway.client() as client:

        async def all_serve() -> bool:
            assert await ask(client)
            asked = [r for name in ("connect", "timeout", "status", "auth", "missing") for r in [running[name]]]
            return all(any(q.operation == "chat/completions" and q.status == 200 for q in r.log) for r in asked)

        await eventually(all_serve)


async def test_it_takes_as_many_probes_as_the_spec_says(house: House) -> None:
    one = house.azure.regions["one"]
    await eventually(lambda: any(r.operation == "models" for r in one.log))
    house.azure.reset_counts()
    house.azure.fault("one", Status(status=500))
    await house.shows("one", "Unhealthy")
    failed = [r for r in one.log if r.operation == "models"]
    assert len([r for r in failed if r.status == 500]) >= 2
    house.azure.heal("one")
    await house.shows("one", "Healthy")
    assert len([r for r in one.log if r.operation == "models" and r.status == 200]) >= 2


async def test_no_client_asks_an_endpoint_before_probes_say_that_it_is_well(house: House) -> None:
    """Half-open: it is the probes, not a client's request, that try whether it is back."""
    two = house.azure.regions["two"]
    house.azure.fault("two", Down())
    await house.shows("two", "Unhealthy")

    async with house.gateway.client(pool="ai/pair", key=PAIR_KEY) as client:
        house.azure.heal("two")
        house.azure.reset_counts()
        while house.reason("two")[0] == "Unhealthy":
            assert await ask(client)

        async def back() -> bool:
            assert await ask(client)
            return any(r.operation == "chat/completions" and b"Hello" in r.body for r in two.log)

        await eventually(back)
    # A probe of a deployment is a chat without messages.
    first = next(r.at for r in two.log if r.operation == "chat/completions" and b"Hello" in r.body)
    assert len([r for r in two.log if r.at < first and r.operation == "models" and r.status == 200]) >= 2


async def test_healthz_tells_whether_anything_can_serve(house: House) -> None:
    everything = ("/healthz", "/ai/pair/healthz", "/ai/chat/healthz")
    assert [await house.health(path) for path in everything] == [200, 200, 200]
    for name in ("one", "two"):
        house.azure.fault(name, Down())

    async def pair_is_out() -> bool:
        return await house.health("/ai/pair/healthz") == 503

    await eventually(pair_is_out)
    assert [await house.health(path) for path in everything] == [200, 503, 200]
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"{house.gateway.url}/healthz", headers={"host": "pair.ai.svc"})
        assert answer.status_code == 503
        assert answer.json() == {"status": "unavailable"}
    for name in house.azure.regions:
        house.azure.fault(name, Down())

    async def all_out() -> bool:
        return await house.health("/healthz") == 503

    await eventually(all_out)
    for name in house.azure.regions:
        house.azure.heal(name)

    async def all_back() -> bool:
        return [await house.health(path) for path in everything] == [200, 200, 200]

    await eventually(all_back)
    assert TENANT_KEY not in str(house.gateway.events)

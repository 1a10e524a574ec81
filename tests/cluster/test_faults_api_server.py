"""The API server is away, forgets, or is cut off from one replica, under load: its clients notice nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from aoai_operator.simulator import Down
from support.calls import ask
from support.cluster.access import write_kubeconfig
from support.cluster.audit import Call
from support.cluster.client import path
from support.cluster.control_plane import ControlPlane
from support.cluster.fleet import converged, leader, leaders, left_alone, start_fleet, taken, takes_over, whole
from support.cluster.house import POOLS, House
from support.cluster.pods import GatewayPod
from support.kube import Forwarder, forget
from support.load import Load, load
from support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

OWN = "first-operator"
"""The first replica's ServiceAccount."""
WRITES = {"create", "update", "patch", "delete"}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def line(_session_plane: ControlPlane) -> AsyncIterator[Forwarder]:
    """The way of one replica to the API server."""
    async with Forwarder(urlsplit(_session_plane.server).port or 443) as forwarder:
        yield forwarder


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def fleet(_session_plane: ControlPlane, line: Forwarder) -> AsyncIterator[House]:
    """Two replicas and two Envoys; the first replica has a line and, so that it is told from the other, a user."""
    async with _session_plane.namespace() as namespace, House(_session_plane, namespace) as house:
        await start_fleet(house, first={"AOAI_KUBECONFIG": str(await own_user(house, line))})
        yield house


async def own_user(house: House, line: Forwarder) -> Path:
    """Return the kubeconfig of a ServiceAccount that may do what the chart's may, by the line."""
    plane, namespace = house.plane, house.namespace
    await plane.kubectl("create", "serviceaccount", OWN, "-n", namespace)
    mine = {"kind": "ServiceAccount", "name": OWN, "namespace": namespace}
    for kind, within in (("rolebindings", namespace), ("clusterrolebindings", "")):
        resource = f"rbac.authorization.k8s.io/v1/{kind}"
        found = await plane.get(resource, namespace=within)
        assert found is not None
        for binding in found["items"]:
            subjects = binding.get("subjects") or []
            if any(s["kind"] == "ServiceAccount" and s.get("namespace") == namespace for s in subjects):
                answer = await plane.request(
                    "PATCH",
                    path(resource, binding["metadata"]["name"], namespace=within),
                    json={"subjects": [*subjects, mine]},
                    content_type="application/merge-patch+json",
                )
                answer.raise_for_status()
    account = await plane.service_account(namespace, OWN)
    return write_kubeconfig(
        account.directory / "by-line",
        user={"tokenFile": str(account.directory / "token")},
        server=f"https://127.0.0.1:{line.port}",
        ca_file=plane.ca_file,
        namespace=namespace,
    )


@pytest_asyncio.fixture(loop_scope="session")
async def house(fleet: House) -> AsyncIterator[House]:
    """The same, whole again, on a cluster that is whole again."""
    yield fleet
    for name in fleet.azure.regions:
        fleet.azure.heal(name)
    await fleet.plane.heal()
    await whole(fleet)


async def test_the_api_server_is_away_until_nobody_leads(house: House) -> None:
    """While it is away, a region dies and comes back, and an Envoy starts that knows nothing."""
    plane, fresh = house.plane, house.release.gateways["gateway-0"]
    async with load(house.client(max_retries=0)) as under:
        await plane.apiserver.kill()
        await eventually(lambda: nobody_leads(house), within=30, what="the Lease is lost")
        house.azure.fault("east", Down())
        await under.goes_on(100)
        await eventually(lambda: left_alone(house, "east"), what="the region that died meanwhile is left alone")
        house.azure.heal("east")
        await eventually(lambda: taken(house, "east"), within=60, what="the region is taken again")
        await serves(house, under, "east")
    # What is under way in a process that is killed is lost anywhere: here the SDK's own retries are used.
    async with load(house.client(max_retries=2)) as under:
        await fresh.part.kill()
        await fresh.part.start()
        await eventually(lambda: listens(fresh), within=60, what="the fresh Envoy has its configuration")
        await eventually(lambda: taken(house, "east", "west"), within=60, what="it takes both regions")
        await under.goes_on(100)
    assert not plane.apiserver.running
    assert await nobody_leads(house)
    async with load(house.client(max_retries=0)) as under:
        await plane.apiserver.start()
        await converged(house)
        assert (await house.pool())["status"]["healthyEndpoints"] == "2/2"
        await under.goes_on()


async def nobody_leads(house: House) -> bool:
    return not await leaders(house)


async def serves(house: House, under: Load, region: str) -> None:
    """Return when a region has served something of what goes on."""
    before = house.azure.regions[region].served
    await under.goes_on(100)
    await eventually(lambda: house.azure.regions[region].served > before, what=f"{region} serves again")


async def listens(pod: GatewayPod) -> bool:
    return "LIVE" in await pod.admin("/ready") and "::" in await pod.admin("/listeners")


async def test_the_api_server_hangs_until_nobody_leads(house: House) -> None:
    """It takes connections and requests, and answers nothing: whoever waits for it must not wait for ever."""
    async with load(house.client(max_retries=0)) as under:
        house.plane.apiserver.pause()
        try:
            await eventually(lambda: nobody_leads(house), within=30, what="the Lease is lost")
            house.azure.fault("east", Down())
            await under.goes_on(100)
            await eventually(lambda: left_alone(house, "east"), what="the region that died meanwhile is left alone")
            house.azure.heal("east")
        finally:
            house.plane.apiserver.resume()
        await eventually(lambda: taken(house, "east"), within=60, what="the region is taken again")
        await converged(house)
        await under.goes_on()


async def test_etcd_is_restarted(house: House) -> None:
    async with load(house.client(max_retries=0)) as under:
        await house.plane.etcd.kill()
        await under.goes_on()
        await house.plane.etcd.start()
        await converged(house)


async def test_what_was_deleted_while_the_watch_was_broken_is_noticed(house: House) -> None:
    """The versions that the watches knew are forgotten: they get 410, and list."""
    keys = {"gone": "the-key-of-what-goes"}
    await house.apply_pool("gone", tenants=keys)
    await house.pool_is("Ready", name="gone")
    async with house.client("gone") as client, load(house.client(max_retries=0)) as under:
        client.api_key = keys["gone"]
        assert await ask(client)
        # While every process of the operator is stopped, as on a paused machine, no watch hears anything.
        for pod in house.release.operators.values():
            pod.part.pause()
        try:
            await house.plane.request("DELETE", path(POOLS, "gone", namespace=house.namespace))
            await house.plane.request("DELETE", path("v1/configmaps", "gone-routing", namespace=house.namespace))
            await forget(house.plane)
            await under.goes_on()
        finally:
            for pod in house.release.operators.values():
                pod.part.resume()
        await eventually(lambda: forgotten(house, "gone"), within=60, what="the Envoys forget the pool")
        await under.goes_on()


async def forgotten(house: House, pool: str) -> bool:
    dumps = [await pod.admin("/config_dump?include_eds") for pod in house.release.gateways.values()]
    return not any(f"{house.namespace}/{pool}" in dump for dump in dumps)


@pytest.mark.parametrize("how", ["cut off", "paused"])
async def test_the_old_leader_never_writes_after_the_new_one(house: House, line: Forwarder, how: str) -> None:
    first, second = (house.release.operators[f"operator-{n}"] for n in range(2))
    if await leader(house) is second:
        await second.part.stop()
        await takes_over(house, first)
        await second.part.start()
        await converged(house)
    mark = house.plane.audit.mark()
    async with load(house.client(max_retries=0)) as under:
        if how == "paused":
            first.part.pause()
        else:
            await line.cut()
        try:
            # Something to write, which both of them would.
            await house.apply_pool(spec={"failover": {"perTryTimeout": "7s"}})
            await takes_over(house, second)
            await under.goes_on()
        finally:
            if how == "paused":
                first.part.resume()
            else:
                await line.mend()
        await converged(house)
    assert await leader(house) is second
    old = f"system:serviceaccount:{house.namespace}:{OWN}"
    writes = [call for call in house.plane.audit.since(mark) if wrote(call, house)]
    new = [call.user != old for call in writes]
    assert any(new)
    assert all(new[new.index(True) :]), writes


def wrote(call: Call, house: House) -> bool:
    """Tell whether a replica has changed something."""
    ours = call.user.startswith(f"system:serviceaccount:{house.namespace}:")
    return ours and call.verb in WRITES and call.code < 300

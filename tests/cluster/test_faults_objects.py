"""Objects are deleted, edited, or not there yet, and the release is upgraded, under load: no client notices."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import httpx
import pytest
import pytest_asyncio

from aoai_operator.core.configmaps import SIGNATURE
from support.cluster.client import Json, path
from support.cluster.control_plane import ControlPlane
from support.cluster.fleet import converged, leader, other, start_fleet, whole
from support.cluster.house import CRDS, House
from support.cluster.pods import OperatorPod
from support.load import load
from support.manifests import secret
from support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

MAPS, SECRETS = "v1/configmaps", "v1/secrets"


@pytest_asyncio.fixture(loop_scope="session")
async def cluster(_session_plane: ControlPlane) -> ControlPlane:
    """The control plane."""
    return _session_plane


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def fleet(_session_plane: ControlPlane) -> AsyncIterator[House]:
    """Two replicas, which look at Secrets often, and two Envoys."""
    values = {"operator": {"secretsInterval": "2s"}}
    async with _session_plane.namespace() as namespace, House(_session_plane, namespace, values=values) as house:
        await start_fleet(house)
        yield house


@pytest_asyncio.fixture(loop_scope="session")
async def house(fleet: House) -> AsyncIterator[House]:
    """The same, whole again."""
    yield fleet
    await whole(fleet)


async def test_a_config_map_is_edited_and_deleted_while_its_leader_does_nothing(house: House) -> None:
    first = await leader(house)
    follower = other(house, first)
    url = path(MAPS, "chat-routing", namespace=house.namespace)
    wanted = (await house.plane.request("GET", url)).json()

    def restored(found: Json) -> bool:
        return bool(found.get("data") == wanted["data"])

    async with load(house.client(max_retries=0)) as under:
        first.part.pause()
        try:
            text = wanted["data"]["routing-table.yaml"].replace("name: east", "name: nowhere")
            edit = {"data": {"routing-table.yaml": text}}
            answer = await house.plane.request("PATCH", url, json=edit, content_type="application/merge-patch+json")
            answer.raise_for_status()
            await eventually(lambda: told(house, follower), what="the follower refuses the table")
            await under.goes_on()
        finally:
            first.part.resume()
        await house.plane.wait_for(restored, MAPS, "chat-routing", namespace=house.namespace)
        first.part.pause()
        try:
            (await house.plane.request("DELETE", url)).raise_for_status()
            await under.goes_on(100)
        finally:
            first.part.resume()
        await house.plane.wait_for(restored, MAPS, "chat-routing", namespace=house.namespace)


def told(house: House, pod: OperatorPod) -> bool:
    why = f"the ConfigMap {house.namespace}/chat-routing is not signed by this operator: it was edited, or"
    return any(line.get("why", "").startswith(why) and line["level"] == "error" for line in pod.logs())


async def test_the_key_of_the_signatures_is_deleted(house: House) -> None:
    """A new one is made, and all is signed with it; what serves goes on, also where it is not read yet."""
    await house.apply_pool("bystander", tenants={})
    await house.pool_is("Ready", name="bystander")
    first = await signature(house)
    name = f"{house.release.name}-aoai-operator-tables"
    async with load(house.client(max_retries=0)) as under:
        await house.plane.request("DELETE", path(SECRETS, name, namespace=house.namespace))

        async def signed_anew() -> bool:
            return await signature(house) not in ("", first)

        await eventually(signed_anew, within=30, what="the table is signed with another key")
        await under.goes_on(100)
        await converged(house)
    for pod in house.release.operators.values():
        assert not [line for line in pod.logs() if "chat-routing is not signed" in line.get("why", "")][1:]
    await house.plane.kubectl("delete", "abp", "bystander", "-n", house.namespace)


async def test_the_key_of_the_signatures_is_spoilt(house: House) -> None:
    """The leader makes it anew in the Secret that is there."""
    first = await signature(house)
    url = path(SECRETS, f"{house.release.name}-aoai-operator-tables", namespace=house.namespace)
    before = (await house.plane.request("GET", url)).json()
    spoilt = {"data": {entry: base64.b64encode(b"short").decode() for entry in before["data"]}}
    async with load(house.client(max_retries=0)) as under:
        answer = await house.plane.request("PATCH", url, json=spoilt, content_type="application/merge-patch+json")
        answer.raise_for_status()

        async def signed_anew() -> bool:
            return await signature(house) not in ("", first)

        await eventually(signed_anew, within=60, what="the table is signed with another key")
        await under.goes_on(100)
        await converged(house)
    after = (await house.plane.request("GET", url)).json()
    assert after["metadata"]["uid"] == before["metadata"]["uid"]


async def signature(house: House) -> str:
    found = await house.plane.get(MAPS, "chat-routing", namespace=house.namespace)
    assert found is not None
    return str(found["metadata"].get("annotations", {}).get(SIGNATURE, ""))


async def test_an_older_version_left_no_signatures(house: House) -> None:
    """All replicas are down when the new version comes: it takes nothing of what it finds, and no client notices."""
    async with load(house.client(max_retries=0)) as under:
        for pod in house.release.operators.values():
            await pod.part.stop()
        await unsign(house)
        for pod in house.release.operators.values():
            await pod.part.start()
        await under.goes_on(100)
        await eventually(lambda: signature(house), within=60, what="the table is signed")
        await whole(house)


async def test_an_older_version_leads_while_the_new_one_comes(house: House) -> None:
    """A rolling update: nobody signs yet. The new replica serves after some patience, and no Envoy loses a pool."""
    (pod, *others) = house.release.operators.values()
    known = len(connected(pod))
    async with load(house.client(max_retries=0)) as under:
        for running in (pod, *others):
            await running.part.stop()
        lease = asyncio.create_task(held_by_another(house))
        try:
            await unsign(house)
            await pod.part.start()
            await eventually(pod.ready, within=90, what="it is ready, though nobody signs")
            await eventually(lambda: len(connected(pod)) >= known + 2, what="the Envoys come to it")
            assert not await signature(house)
            await under.goes_on(100)
        finally:
            lease.cancel()
            await asyncio.gather(lease, return_exceptions=True)
        await eventually(lambda: signature(house), within=60, what="it leads, and signs the table")
        await whole(house)


def connected(pod: OperatorPod) -> list[Json]:
    return [line for line in pod.logs() if line["event"] == "an Envoy connected"]


async def held_by_another(house: House) -> None:
    """Keep the Lease as somebody else."""
    name = f"{house.release.name}-aoai-operator"
    url = path("coordination.k8s.io/v1/leases", name, namespace=house.namespace)
    while True:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        # Who gave it back said that it lasts for a second.
        spec = {"holderIdentity": "older-version", "leaseDurationSeconds": 15, "renewTime": now}
        answer = await house.plane.request(
            "PATCH", url, json={"spec": spec}, content_type="application/merge-patch+json"
        )
        answer.raise_for_status()
        await asyncio.sleep(1)


async def unsign(house: House) -> None:
    """Leave a table as a version without signatures does."""
    name = f"{house.release.name}-aoai-operator-tables"
    await house.plane.request("DELETE", path(SECRETS, name, namespace=house.namespace))
    edit = {"metadata": {"annotations": {SIGNATURE: None}}}
    url = path(MAPS, "chat-routing", namespace=house.namespace)
    answer = await house.plane.request("PATCH", url, json=edit, content_type="application/merge-patch+json")
    answer.raise_for_status()


async def test_a_secret_is_deleted_and_restored(house: House) -> None:
    await house.apply_pool("bystander", tenants={})
    await house.pool_is("Ready", name="bystander")
    key = secret("chat-east", house.azure.regions["east"].key, namespace=house.namespace)
    async with load(house.client(max_retries=0)) as under:
        await house.plane.request("DELETE", path(SECRETS, "chat-east", namespace=house.namespace))
        await eventually(lambda: reason(house, "chat", "SecretNotFound"), what="the endpoint has no credential")
        await under.goes_on(100)
        assert not await reason(house, "bystander", "SecretNotFound")
        await house.plane.apply(key)
        await eventually(lambda: healthy(house), what="the endpoint is back")
        before = house.azure.regions["east"].served
        await under.goes_on(100)
        assert house.azure.regions["east"].served > before
    await house.plane.kubectl("delete", "abp", "bystander", "-n", house.namespace)


async def reason(house: House, pool: str, wanted: str) -> bool:
    return wanted in str((await house.pool(pool)).get("status", {}))


async def healthy(house: House) -> bool:
    return bool((await house.pool())["status"]["healthyEndpoints"] == "2/2")


async def test_the_release_is_upgraded(house: House) -> None:
    """The values change, and the replicas are replaced as by a rolling update. From an older chart: test_upgrade.py."""
    async with load(house.client(max_retries=0)) as under:
        await house.release.helm("upgrade", operator={"secretsInterval": "3s"})
        for number in range(2):
            await house.release.start_operator(f"upgraded-{number}")
            old = house.release.operators.pop(f"operator-{number}")
            await eventually(house.release.operators[f"upgraded-{number}"].ready, within=60)
            await old.part.stop()
            await under.goes_on()
        await converged(house)


async def test_the_crds_are_not_there_yet(cluster: ControlPlane) -> None:
    async with cluster.namespace() as namespace, House(cluster, namespace) as house:
        await house.plane.kubectl("delete", "-f", str(CRDS))
        try:
            operator = await house.release.start_operator()
            missing = "aoaibackendpools.aoai.dev, tenantquotas.aoai.dev"
            await eventually(lambda: any(line.get("missing") == missing for line in operator.logs()))
            # It would be ready, but for that.
            await eventually(lambda: answers(f"{operator.url}/readyz", "not yet: the CRDs are applied"))
        finally:
            await house.plane.apply(CRDS)
        await house.apply_pool()
        await house.release.start_gateway()
        await house.pool_is("Ready")
        await eventually(operator.ready)
        async with load(house.client(max_retries=0)):
            pass


async def answers(url: str, wanted: str) -> bool:
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(url)).text.strip() == wanted

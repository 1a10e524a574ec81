"""What the schema cannot reject: a condition on that object, with field and mend, and all else keeps serving."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import openai
import pytest

from support.calls import ask
from support.certificates import pair, tls_secret
from support.cluster.client import Json
from support.cluster.control_plane import ControlPlane
from support.cluster.house import POOLS, QUOTAS, House
from support.manifests import TENANT_KEY, secret, tenant_quota
from support.waiting import eventually


@pytest.fixture
async def serving(plane: ControlPlane, namespace: str) -> AsyncIterator[House]:
    """A house whose pool "good" serves, and that reads Secrets every second."""
    async with House(plane, namespace, values={"operator": {"secretsInterval": "1s"}}) as made:
        await made.release.start_operator()
        await made.release.start_gateway()
        await made.apply_pool("good", spec={"gateway": {"hostnames": ["good.example"]}})
        await made.pool_is("Ready", name="good")
        # The tenant may have been read after the pool, and come with the next table.
        await eventually(lambda: answers(made), within=10, what="its tenant is served")
        yield made


async def answers(house: House) -> bool:
    async with house.client("good", max_retries=0) as client:
        try:
            return bool(await ask(client))
        except openai.AuthenticationError:
            return False


@dataclass(frozen=True)
class Fault:
    """A condition that is to be found: of which object, and what it says."""

    resource: str
    name: str
    condition: str
    reason: str
    message: str


async def found(house: House, fault: Fault) -> None:
    def told(item: Json) -> bool:
        conditions = {c["type"]: c for c in item.get("status", {}).get("conditions", ())}
        known = conditions.get(fault.condition, {})
        return (
            known.get("status") == "False"
            and known["reason"] == fault.reason
            and fault.message in known["message"]
            and known["observedGeneration"] == item["metadata"]["generation"]
        )

    await house.plane.wait_for(told, fault.resource, fault.name, namespace=house.namespace)


async def serves(house: House) -> Json:
    """The good pool serves; return all of it but what a new table changes: tenants that are at fault are in that."""
    async with house.client("good", max_retries=0) as client:
        assert await ask(client)
    pool = await house.pool_is("Ready", name="good")
    status = {name: told for name, told in pool["status"].items() if name != "routingTable"}
    told = [{name: said for name, said in c.items() if name != "lastTransitionTime"} for c in status["conditions"]]
    return {"spec": pool["spec"], "labels": pool["metadata"].get("labels"), "status": {**status, "conditions": told}}


async def test_each_fault_is_told_where_it_is_and_harms_nobody(serving: House) -> None:
    house = serving
    before = await serves(house)
    ns = house.namespace
    auth = {"apiKey": {"secretRef": {"name": "nowhere"}}}
    entry = {"apiKey": {"secretRef": {"name": "wrong-west", "key": "nokey"}}}
    await house.apply_pool(
        "wrong",
        tenants={},
        endpoints={"east": {"auth": auth}, "west": {"auth": entry}},
        spec={"gateway": {"hostnames": ["good.example"]}},
    )
    await house.apply_pool("dns", tenants={}, endpoints={"east": {"url": "https://no-such-name.invalid"}})
    tls = {"hostnames": ["tls.example"], "tls": {"secretRef": {"name": "serving"}}}
    await house.plane.apply(tls_secret("serving", pair("another.example"), namespace=ns))
    await house.apply_pool("tls", tenants={}, spec={"gateway": tls})
    await house.plane.apply(
        tenant_quota("lost", "nowhere", namespace=ns),
        secret("lost-key", "a-key-of-the-lost-01", namespace=ns),
        tenant_quota("twin", "good", namespace=ns),
        secret("twin-key", TENANT_KEY, namespace=ns),
        tenant_quota("keyless", "good", namespace=ns),
    )
    for fault in FAULTS:
        await found(house, fault)
    assert await serves(house) == before

    # Mended, each becomes what it should have been.
    await house.plane.apply(
        secret("nowhere", house.azure.regions["east"].key, namespace=ns),
        secret("keyless-key", "a-key-of-the-keyless-01", namespace=ns),
        secret("twin-key", "a-key-of-its-own-0123", namespace=ns),
        tls_secret("serving", pair("tls.example"), namespace=ns),
    )
    await house.apply_pool("wrong", tenants={}, spec={"gateway": {"hostnames": ["wrong.example"]}})
    for name in ("wrong", "tls"):
        await house.pool_is("ResolvedRefs", name=name)
        await house.pool_is("Ready", name=name)
    for name in ("twin", "keyless"):
        await house.plane.kubectl("wait", f"tq/{name}", "-n", ns, "--for=condition=Ready", "--timeout=30s")
    await serves(house)


FAULTS = [
    Fault(POOLS, "wrong", "ResolvedRefs", "SecretNotFound", "spec.endpoints[0].auth.apiKey.secretRef"),
    Fault(POOLS, "wrong", "ResolvedRefs", "SecretNotFound", "spec.endpoints[1].auth.apiKey.secretRef"),
    Fault(POOLS, "wrong", "Accepted", "HostnameConflict", "spec.gateway.hostnames[0]: good.example belongs to"),
    Fault(POOLS, "dns", "ResolvedRefs", "HostUnresolved", "spec.endpoints[0].url"),
    Fault(POOLS, "tls", "ResolvedRefs", "CertificateInvalid", "spec.gateway.tls.secretRef"),
    Fault(QUOTAS, "lost", "ResolvedRefs", "PoolNotFound", "spec.poolRefs[0]"),
    Fault(QUOTAS, "twin", "Accepted", "KeyConflict", "spec.identities[0].apiKey.secretRef"),
    Fault(QUOTAS, "keyless", "ResolvedRefs", "SecretNotFound", "spec.identities[0].apiKey.secretRef"),
]

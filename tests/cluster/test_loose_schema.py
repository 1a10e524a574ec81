"""Objects that a looser schema let in, an older release's or an edited one, and that the operator cannot read."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
import yaml

from aoai_operator.crds import crds
from support.calls import ask
from support.cluster.client import Json
from support.cluster.commands import CommandFailedError
from support.cluster.house import CRDS, POOLS, QUOTAS, House
from support.manifests import TENANT_KEY, pool_manifest, secret, tenant_quota, to_yaml
from support.waiting import eventually


def loosened(crd: Json) -> Json:
    """Return a definition whose specs may be anything."""
    made: Json = json.loads(json.dumps(crd))
    (version,) = made["spec"]["versions"]
    properties = version["schema"]["openAPIV3Schema"]["properties"]
    properties["spec"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return made


@pytest.fixture
async def loose(house: House) -> AsyncIterator[None]:
    """The pools "good" and "edited" serve; then the schema is made loose, until the end."""
    await house.apply_pool("good")
    await house.apply_pool("edited", tenants={"other": "key-of-other-0123456789"})
    for name in ("good", "edited"):
        await house.pool_is("Ready", name=name)
    await house.plane.apply(*(loosened(crd) for crd in crds().values()))
    try:
        yield
    finally:
        await house.plane.apply(CRDS)


async def accepted(house: House, manifest: str) -> None:
    """Apply what only the loose schema takes; a server takes a moment until it holds to a new one."""

    async def taken() -> bool:
        try:
            await house.plane.apply(manifest)
        except CommandFailedError:
            return False
        return True

    await eventually(taken, within=30, what="the loose schema is served")


async def invalid(house: House, resource: str, name: str) -> tuple[Json, str]:
    """Wait until an object is said to be invalid; return it, and the words."""

    def told(item: Json) -> bool:
        found = {c["type"]: c for c in item.get("status", {}).get("conditions", ())}
        fresh = item.get("status", {}).get("observedGeneration") == item["metadata"]["generation"]
        return bool(fresh and found.get("Accepted", {}).get("reason") == "Invalid")

    item = await house.plane.wait_for(told, resource, name, namespace=house.namespace)
    found = {c["type"]: c for c in item["status"]["conditions"]}
    assert {kind: found[kind]["status"] for kind in ("Accepted", "Ready", "Stalled")} == {
        "Accepted": "False",
        "Ready": "False",
        "Stalled": "True",
    }
    return item, found["Accepted"]["message"]


async def serves(house: House, name: str, key: str) -> None:
    async with house.client(name, max_retries=0).copy(api_key=key) as client:
        assert await ask(client)


def broken(house: House, name: str) -> str:
    """Return a pool with a word for a number, and a field that is misspelt; with its tenant's all right."""
    documents = list(yaml.safe_load_all(pool_manifest(house.azure, name=name, namespace=house.namespace, tenants={})))
    (pool,) = (d for d in documents if d["kind"] == "AOAIBackendPool")
    pool["spec"]["endpoints"][1]["priority"] = "high"
    pool["spec"]["balancig"] = {"strategy": "Headroom"}
    return to_yaml(documents)


@pytest.mark.usefixtures("loose")
async def test_what_cannot_be_read_is_said_on_that_object_and_harms_nobody(house: House) -> None:
    before = (await house.pool("good"))["status"]
    table = await house.plane.get("v1/configmaps", "edited-routing", namespace=house.namespace)
    assert table is not None
    await accepted(house, broken(house, "edited"))
    await accepted(house, broken(house, "fresh"))
    quota = tenant_quota("odd", "good", namespace=house.namespace, limts={"tokensPerMinute": 1})
    await accepted(house, to_yaml([quota, secret("odd-key", "key-of-odd-0123456789", namespace=house.namespace)]))

    for name in ("edited", "fresh"):
        _, why = await invalid(house, POOLS, name)
        assert "spec.endpoints[1].priority" in why
        assert "spec.balancig: unknown field" in why
        assert "balancing" in why, "the mend"
    _, why = await invalid(house, QUOTAS, "odd")
    assert "spec.limts: unknown field; did you mean limits?" in why

    # What it was before serves on, and nobody else notices.
    kept = await house.plane.get("v1/configmaps", "edited-routing", namespace=house.namespace)
    assert kept is not None
    assert kept["data"] == table["data"]
    await serves(house, "edited", "key-of-other-0123456789")
    await serves(house, "good", TENANT_KEY)
    assert (await house.pool("good"))["status"] == before
    events = await house.plane.get("events.k8s.io/v1/events", namespace=house.namespace)
    assert events is not None
    told = {(e["regarding"]["name"], e["type"]) for e in events["items"] if e["reason"] == "Invalid"}
    assert told == {("edited", "Warning"), ("fresh", "Warning"), ("odd", "Warning")}

    # Mended, each is as any other.
    for name in ("edited", "fresh"):
        await house.apply_pool(name, tenants={})
        await house.pool_is("Ready", name=name)
    await serves(house, "edited", "key-of-other-0123456789")

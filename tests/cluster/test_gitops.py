"""What GitOps tools see: nothing that was applied is changed by the operator, and applying again changes nothing."""

from __future__ import annotations

import json
from typing import Any

import yaml

from support.calls import ask
from support.cluster.client import Json
from support.cluster.house import POOLS, House
from support.manifests import pool_manifest


async def test_nothing_drifts_and_applying_again_changes_nothing(house: House) -> None:
    manifest = pool_manifest(house.azure, namespace=house.namespace)
    await house.plane.apply(manifest)
    for resource in ("abp/chat", "tq/team"):
        await house.plane.kubectl("wait", resource, "-n", house.namespace, "--for=condition=Ready", "--timeout=30s")
    async with house.client() as client:
        assert await ask(client)
    release = await house.plane.helm("get", "manifest", house.release.name, "--namespace", house.namespace)
    for text in (manifest, release):
        assert await house.plane.kubectl("diff", "--server-side", "--force-conflicts", "-f", "-", stdin=text) == ""
    await house.plane.wait_for(all_probed, POOLS, "chat", namespace=house.namespace)
    # The API server keeps managers in the order of their last writes: an apply after a status was written changes that
    # order, whoever wrote the status, and is a new version for it. The next one has nothing left to change.
    first = await house.plane.kubectl("apply", "--server-side", "-f", "-", stdin=manifest)
    before = await versions(house, manifest)
    assert first.count("serverside-applied") == len(before)
    again = await house.plane.kubectl("apply", "--server-side", "-f", "-", stdin=manifest)
    assert again.count("serverside-applied") == len(before)
    assert await versions(house, manifest) == before


def all_probed(pool: Json) -> bool:
    """Tell whether nothing is on its way that would change the status."""
    endpoints = pool.get("status", {}).get("endpoints", ())
    return bool(endpoints) and all(endpoint["state"] == "Healthy" for endpoint in endpoints)


async def test_fields_of_users_stay_the_users(house: House) -> None:
    """The operator owns statuses and its own ConfigMaps: no annotation, no finalizer, no field of a spec."""
    await house.apply_pool()
    for resource in ("abp/chat", "tq/team"):
        await house.plane.kubectl("wait", resource, "-n", house.namespace, "--for=condition=Ready", "--timeout=30s")
        shown = await house.plane.kubectl("get", resource, "-n", house.namespace, "-o", "json", "--show-managed-fields")
        metadata = json.loads(shown)["metadata"]
        assert "finalizers" not in metadata
        assert "annotations" not in metadata
        ours = [m for m in metadata["managedFields"] if m["manager"].startswith("aoai-operator")]
        assert [(m["operation"], m["subresource"], set(m["fieldsV1"])) for m in ours] == [
            ("Apply", "status", {"f:status"})
        ]


async def versions(house: House, manifest: str) -> dict[tuple[str, str], Any]:
    """Return the versions of the objects of a manifest."""
    documents: list[Json] = list(yaml.safe_load_all(manifest))
    shown = await house.plane.kubectl("get", "-f", "-", "-o", "json", stdin=manifest)
    items = json.loads(shown)["items"]
    assert len(items) == len(documents)
    return {(i["kind"], i["metadata"]["name"]): i["metadata"]["resourceVersion"] for i in items}

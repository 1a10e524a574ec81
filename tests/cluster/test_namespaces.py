"""Who may use a pool from which namespace, with an operator of the whole cluster; and changes that are held back."""

from __future__ import annotations

from collections.abc import Callable

from openai import APIStatusError

from support.calls import ask
from support.cluster.client import Json
from support.cluster.control_plane import ControlPlane
from support.cluster.house import POOLS, QUOTAS, House
from support.manifests import pool_manifest, secret, tenant_quota

MAPS = "v1/configmaps"
KEYS = {"near": "key-of-near-0123456789", "far": "key-of-far-0123456789"}


def with_reason(kind: str, status: str, reason: str) -> Callable[[Json], bool]:
    """Return what is true of an object with this condition, of its present generation."""

    def so(item: Json) -> bool:
        found = {c["type"]: c for c in item.get("status", {}).get("conditions", ())}.get(kind)
        fresh = item.get("status", {}).get("observedGeneration") == item["metadata"]["generation"]
        return fresh and found is not None and (found["status"], found["reason"]) == (status, reason)

    return so


async def add_tenant(house: House, name: str, namespace: str) -> None:
    refs = [{"name": "chat", "namespace": house.namespace}]
    await house.plane.apply(
        tenant_quota(name, namespace=namespace, poolRefs=refs),
        secret(f"{name}-key", KEYS[name], namespace=namespace),
    )


async def answer(house: House, name: str) -> int:
    async with house.client(max_retries=0) as client:
        client.api_key = KEYS[name]
        try:
            return 200 if await ask(client) else 0
        except APIStatusError as error:
            return error.status_code


async def test_a_tenant_is_served_from_a_namespace_that_its_pool_allows(plane: ControlPlane, namespace: str) -> None:
    house = House(plane, namespace, values={"watchNamespaces": []})
    async with plane.namespace("near") as near, plane.namespace("far") as far, house:
        await house.release.start_operator()
        await house.release.start_gateway()
        # It sees what other tests left behind as well, and there a tenant may have the usual key.
        own = {"team": f"a-key-of-{namespace}"}
        await house.apply_pool(spec={"allowedNamespaces": {"from": "List", "names": [near]}}, tenants=own)
        await add_tenant(house, "near", near)
        await add_tenant(house, "far", far)
        await house.pool_is("Ready")
        await plane.wait_for(with_reason("Ready", "True", "Ready"), QUOTAS, "near", namespace=near)
        refused = await plane.wait_for(
            with_reason("ResolvedRefs", "False", "NamespaceNotAllowed"), QUOTAS, "far", namespace=far
        )
        ready = {c["type"]: c for c in refused["status"]["conditions"]}["Ready"]
        assert ready["status"] == "False"
        assert ready["message"].startswith(f"spec.poolRefs[0]: the pool {namespace}/chat does not take tenants of")
        assert far in ready["message"]
        assert await answer(house, "near") == 200
        assert await answer(house, "far") == 401
        table = await plane.get(MAPS, "chat-routing", namespace=namespace)
        assert table is not None
        assert near in str(table["data"])
        assert far not in str(table["data"])

        # The pool opens to the one, and closes to the other.
        await house.apply_pool(spec={"allowedNamespaces": {"from": "List", "names": [far]}}, tenants=own)
        await plane.wait_for(with_reason("Ready", "True", "Ready"), QUOTAS, "far", namespace=far)
        await plane.wait_for(
            with_reason("ResolvedRefs", "False", "NamespaceNotAllowed"), QUOTAS, "near", namespace=near
        )
        await house.pool_is("Programmed")
        assert await answer(house, "far") == 200
        assert await answer(house, "near") == 401
        async with house.client() as client:
            client.api_key = own["team"]
            assert await ask(client)


async def test_a_suspended_pool_holds_changes_back(house: House) -> None:
    east, west = (house.azure.regions[name] for name in ("east", "west"))
    await house.apply_pool()
    pool = await house.pool_is("Ready")
    table = await house.plane.get(MAPS, "chat-routing", namespace=house.namespace)
    assert table is not None

    async def without_west(**spec: object) -> None:
        await house.plane.apply(pool_manifest([east], namespace=house.namespace, spec=dict(spec)))

    await without_west(suspend=True)
    held = await house.plane.wait_for(
        with_reason("Programmed", "True", "Suspended"), POOLS, "chat", namespace=house.namespace
    )
    assert held["status"]["routingTable"] == pool["status"]["routingTable"]
    kept = await house.plane.get(MAPS, "chat-routing", namespace=house.namespace)
    assert kept is not None
    assert kept["data"] == table["data"]
    async with house.client(max_retries=0) as client:
        before = east.served, west.served
        for _ in range(30):
            assert await ask(client)
        assert east.served > before[0]
        assert west.served > before[1], "the endpoint that was taken out serves until the change is let go"

        await without_west()
        let_go = await house.plane.wait_for(
            with_reason("Programmed", "True", "Programmed"), POOLS, "chat", namespace=house.namespace
        )
        assert let_go["status"]["routingTable"] != pool["status"]["routingTable"]
        assert [e["name"] for e in let_go["status"]["endpoints"]] == ["east"]
        before = east.served, west.served
        for _ in range(30):
            assert await ask(client)
        assert (east.served, west.served) == (before[0] + 30, before[1])


async def test_a_pool_in_a_namespace_that_is_not_watched_is_not_said_to_be_missing(
    plane: ControlPlane, namespace: str
) -> None:
    house = House(plane, namespace)
    async with plane.namespace("elsewhere") as elsewhere, house:
        await house.release.start_operator()
        await plane.apply(pool_manifest(house.azure, namespace=elsewhere, spec={"allowedNamespaces": {"from": "All"}}))
        refs = [{"name": "chat", "namespace": elsewhere}, {"name": "gone", "namespace": namespace}]
        await plane.apply(
            tenant_quota("near", namespace=namespace, poolRefs=refs),
            secret("near-key", KEYS["near"], namespace=namespace),
        )
        refused = await plane.wait_for(
            with_reason("ResolvedRefs", "False", "NamespaceNotWatched"), QUOTAS, "near", namespace=namespace
        )
        assert {c["type"]: c["message"] for c in refused["status"]["conditions"]}["Ready"] == (
            f"spec.poolRefs[0]: this operator does not watch the namespace {elsewhere}, and cannot know the pool "
            f"{elsewhere}/chat; add the namespace to the operator's watchNamespaces, or name a pool of a namespace "
            f"that it watches. spec.poolRefs[1]: there is no AOAIBackendPool {namespace}/gone; create it, or name an "
            "existing one."
        )

"""Routing tables that somebody made up: they serve nothing, ask for no Secret of others, and send none anywhere."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
import yaml
from openai import AuthenticationError

from aoai_operator.core import configmaps
from aoai_operator.core.names import PoolKey, SecretRef
from aoai_operator.core.signing import key_of
from aoai_operator.core.table import RoutingTable, Tenant
from aoai_operator.simulator import Deployment, Region, RunningRegion, Simulator
from support.calls import ask
from support.cluster.client import Json, path
from support.cluster.control_plane import ControlPlane
from support.cluster.house import House
from support.manifests import secret
from support.waiting import eventually

MAPS = "v1/configmaps"
MINE = key_of(b"i have read how it is signed....")
"""Whoever forges a table has a key, but not the operator's."""
NOT_SIGNED = "is not signed by this operator: it was edited, or somebody else wrote it"
UNSIGNED = "is not signed: an older version wrote it, or somebody else"


def forged(real: RoutingTable, pool: PoolKey, url: str, key: SecretRef, *, tenants: tuple[Tenant, ...]) -> RoutingTable:
    """Return the table of another pool, whose endpoints are all somewhere else, with a key of somebody's choice."""
    address = urlsplit(url)
    there = {"scheme": address.scheme, "host": address.hostname, "port": address.port, "credential": key}
    endpoints = tuple(endpoint.model_copy(update=there) for endpoint in real.endpoints)
    changes = {"namespace": pool.namespace, "name": pool.name, "hostnames": ("taken.example",), "tenants": tenants}
    return real.model_copy(update={**changes, "endpoints": endpoints})


async def test_a_forged_table_sends_no_secret_anywhere(plane: ControlPlane, namespace: str) -> None:
    async with plane.namespace() as bare, plane.namespace() as foreign:
        values: Json = {"watchNamespaces": [namespace, bare, foreign]}
        evil = Simulator([Region(name="evil", deployments=(Deployment(name="gpt-4o", model="gpt-4o"),))])
        async with House(plane, namespace, values=values) as house, evil:
            await house.release.start_operator()
            await house.release.start_gateway()
            await house.apply_pool()
            uid = (await house.pool_is("Ready"))["metadata"]["uid"]
            region = evil.regions["evil"]
            await plane.apply(secret("azure-key", region.key, namespace=foreign))
            await plane.apply(secret("team-key", "a-key-of-another-team", namespace=foreign))
            await plane.apply(secret("own-key", region.key, namespace=bare))
            real = await shown(house)
            mark = plane.audit.mark()

            stolen = SecretRef(foreign, "azure-key", "api-key")
            theirs = Tenant(
                namespace=foreign, name="team", models=(), api_keys=(SecretRef(foreign, "team-key", "api-key"),)
            )
            cases = (
                (PoolKey(bare, "ghost"), stolen),
                (PoolKey(bare, "spook"), SecretRef(bare, "own-key", "api-key")),
                (PoolKey(namespace, "ghost"), stolen),
                (PoolKey(namespace, "spook"), SecretRef(namespace, "chat-east", "api-key")),
                # The living pool's own name and uid, and the Secrets of its own namespace.
                (PoolKey(namespace, "chat"), stolen),
                (PoolKey(namespace, "chat"), SecretRef(namespace, "chat-east", "api-key")),
            )
            for key, ref in cases:
                table = forged(real, key, region.url, ref, tenants=(theirs,))
                (made,) = configmaps.manifests(table, uid, MINE)
                await write(plane, key, made)
                await told_or_gone(house, key, f"the ConfigMap {key}-routing {NOT_SIGNED}")
                if key.name == "chat":
                    await restored(house, real)
            await refuses_what_is_left_of_a_real_one(house, real)

            async with house.client(max_retries=0) as client:
                assert await ask(client)
                client.api_key = "a-key-of-another-team"
                with pytest.raises(AuthenticationError):
                    await ask(client)
            assert_nothing_was_asked_for(plane, mark, foreign, bare, region)


async def refuses_what_is_left_of_a_real_one(house: House, real: RoutingTable) -> None:
    """The real signature under another text, and the real text without its signature."""
    found = await house.plane.get(MAPS, "chat-routing", namespace=house.namespace)
    assert found is not None
    text = found["data"]["routing-table.yaml"]
    document = yaml.safe_load(text)
    document["table"]["hostnames"] = ["taken.example"]
    key = PoolKey(house.namespace, "chat")
    edits: tuple[tuple[Json, str], ...] = (
        ({"data": {"routing-table.yaml": yaml.safe_dump(document)}}, NOT_SIGNED),
        ({"metadata": {"annotations": {configmaps.SIGNATURE: None}}}, UNSIGNED),
    )
    for edit, why in edits:
        await write(house.plane, key, edit)
        await told_or_gone(house, key, f"the ConfigMap {key}-routing {why}")
        await restored(house, real)


def assert_nothing_was_asked_for(
    plane: ControlPlane, mark: int, foreign: str, bare: str, region: RunningRegion
) -> None:
    assert not list(region.log)
    asked = {(c.namespace, c.name) for c in plane.audit.since(mark) if (c.resource, c.verb) == ("secrets", "get")}
    assert not {place for place in asked if place[0] in (foreign, bare)}


async def shown(house: House) -> RoutingTable:
    """Return the routing table as anybody can read it."""
    found = await house.plane.get(MAPS, "chat-routing", namespace=house.namespace)
    assert found is not None
    return RoutingTable.model_validate(yaml.safe_load(found["data"]["routing-table.yaml"])["table"], strict=False)


async def restored(house: House, real: RoutingTable) -> None:
    """Wait until the leader has written the right table again, signed."""

    def right(found: Json) -> bool:
        table = yaml.safe_load(found["data"]["routing-table.yaml"])["table"]
        signed = configmaps.SIGNATURE in found["metadata"].get("annotations", {})
        return signed and bool(RoutingTable.model_validate(table, strict=False) == real)

    await house.plane.wait_for(right, MAPS, "chat-routing", namespace=house.namespace)


async def test_an_older_table_that_was_signed_is_written_over(house: House) -> None:
    """Nobody but the leader knows that it is not the right one any more; it does, and at once."""
    await house.apply_pool()
    await house.pool_is("Ready")
    older = await house.plane.get(MAPS, "chat-routing", namespace=house.namespace)
    assert older is not None
    await house.apply_pool(spec={"failover": {"perTryTimeout": "7s"}})
    await house.pool_is("Ready")
    real = await shown(house)
    key = PoolKey(house.namespace, "chat")
    await write(
        house.plane, key, {"data": older["data"], "metadata": {"annotations": older["metadata"]["annotations"]}}
    )
    await restored(house, real)
    (operator,) = house.release.operators.values()
    assert not [line for line in operator.logs() if line["event"].startswith("a routing table is refused")]


async def test_a_deleted_pool_is_not_kept_alive_by_its_table(house: House) -> None:
    """With its signature, and what keeps the garbage collector from it: another owner, and a finalizer."""
    await house.apply_pool()
    await house.pool_is("Ready")
    holder = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "holder"}}
    await house.plane.apply(holder, namespace=house.namespace)
    held = await house.plane.get(MAPS, "holder", namespace=house.namespace)
    found = await house.plane.get(MAPS, "chat-routing", namespace=house.namespace)
    assert held is not None
    assert found is not None
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "holder", "uid": held["metadata"]["uid"]}
    owners = [*found["metadata"]["ownerReferences"], owner]
    kept = {"metadata": {"finalizers": ["example.com/keep"], "ownerReferences": owners}}
    key = PoolKey(house.namespace, "chat")
    await write(house.plane, key, kept)
    (gateway,) = house.release.gateways.values()

    async def forgotten() -> bool:
        return str(key) not in await gateway.admin("/config_dump?include_eds")

    try:
        await house.plane.kubectl("delete", "abp", "chat", "-n", house.namespace)
        await eventually(forgotten, within=90, what="the Envoy forgets the pool")
        assert await house.plane.get(MAPS, "chat-routing", namespace=house.namespace) is not None
    finally:
        await write(house.plane, key, {"metadata": {"finalizers": None}})


async def write(plane: ControlPlane, pool: PoolKey, made: Json) -> None:
    """Write a ConfigMap, over the operator's own too."""
    found = await plane.get(MAPS, f"{pool.name}-routing", namespace=pool.namespace)
    if found is None:
        await plane.apply(made)
        return
    url = path(MAPS, f"{pool.name}-routing", namespace=pool.namespace)
    answer = await plane.request("PATCH", url, json=made, content_type="application/merge-patch+json")
    answer.raise_for_status()


async def told_or_gone(house: House, key: PoolKey, why: str) -> None:
    """Wait until the log says it, or the real garbage collector was quicker: it takes what has no living owner."""
    (operator,) = house.release.operators.values()

    async def said() -> bool:
        if any(line.get("why") == why and line["level"] == "error" for line in operator.logs()):
            return True
        return await house.plane.get(MAPS, f"{key.name}-routing", namespace=key.namespace) is None

    await eventually(said, what=f"the log says: {why}")

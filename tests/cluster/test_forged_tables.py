"""Routing tables that somebody made up: they serve nothing, ask for no Secret of others, and send none anywhere."""

from __future__ import annotations

from urllib.parse import urlsplit

from aoai_operator.core import configmaps
from aoai_operator.core.names import PoolKey, SecretRef
from aoai_operator.core.table import RoutingTable
from aoai_operator.simulator import Deployment, Region, Simulator
from support.calls import ask
from support.cluster.client import Json, path
from support.cluster.control_plane import ControlPlane
from support.cluster.house import House
from support.manifests import secret
from support.waiting import eventually

MAPS = "v1/configmaps"


def forged(real: RoutingTable, pool: PoolKey, url: str, key: SecretRef) -> RoutingTable:
    """Return the table of another pool, whose endpoints are all somewhere else, with a key of somebody's choice."""
    address = urlsplit(url)
    there = {"scheme": address.scheme, "host": address.hostname, "port": address.port, "credential": key}
    endpoints = tuple(endpoint.model_copy(update=there) for endpoint in real.endpoints)
    changes = {"namespace": pool.namespace, "name": pool.name, "hostnames": (), "tenants": (), "endpoints": endpoints}
    return real.model_copy(update=changes)


async def test_a_forged_table_sends_no_secret_anywhere(plane: ControlPlane, namespace: str) -> None:
    async with plane.namespace() as bare, plane.namespace() as foreign:
        values: Json = {"watchNamespaces": [namespace, bare, foreign]}
        evil = Simulator([Region(name="evil", deployments=(Deployment(name="gpt-4o", model="gpt-4o"),))])
        async with House(plane, namespace, values=values) as house, evil:
            await house.release.start_operator()
            await house.release.start_gateway()
            await house.apply_pool()
            pool = await house.pool_is("Ready")
            region = evil.regions["evil"]
            await plane.apply(secret("azure-key", region.key, namespace=foreign))
            await plane.apply(secret("own-key", region.key, namespace=bare))
            found = await plane.get(MAPS, "chat-routing", namespace=namespace)
            assert found is not None
            real = configmaps.read(PoolKey(namespace, "chat"), [found]).table
            assert real is not None

            stolen = SecretRef(foreign, "azure-key", "api-key")
            theirs = "names an endpoint's credential in another namespace than the pool's"
            nobody = "belongs to no pool that is there"
            cases = (
                (PoolKey(bare, "ghost"), stolen, theirs),
                (PoolKey(bare, "spook"), SecretRef(bare, "own-key", "api-key"), nobody),
                (PoolKey(namespace, "ghost"), stolen, theirs),
                (PoolKey(namespace, "spook"), SecretRef(namespace, "chat-east", "api-key"), nobody),
                (PoolKey(namespace, "chat"), stolen, theirs),
            )
            mark = plane.audit.mark()
            for key, ref, why in cases:
                (made,) = configmaps.manifests(forged(real, key, region.url, ref), pool["metadata"]["uid"])
                await write(plane, key, made)
                await told_or_gone(house, key, f"the ConfigMap {key}-routing {why}")
            async with house.client(max_retries=0) as client:
                assert await ask(client)
            assert not list(region.log)
            asked = {
                (c.namespace, c.name) for c in plane.audit.since(mark) if (c.resource, c.verb) == ("secrets", "get")
            }
            assert not asked & {(foreign, "azure-key"), (bare, "own-key")}


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

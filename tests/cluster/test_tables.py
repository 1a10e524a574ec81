"""Routing tables on the cluster: whose they are, what undoes an edit, and what goes with a pool."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest
import yaml

from support.calls import ask
from support.cluster.client import Json, path
from support.cluster.house import House
from support.manifests import secret, tenant_quota
from support.waiting import eventually

MAPS = "v1/configmaps"
MANY, KEYS = 220, 8


@pytest.fixture
async def serving(house: House) -> House:
    """A house with two pools that serve."""
    await house.apply_pool()
    await house.apply_pool("other", tenants={"others": "another-key-0123456789"})
    for name in ("chat", "other"):
        await house.pool_is("Ready", name=name)
    return house


async def table(house: House, name: str = "chat-routing") -> Json:
    found = await house.plane.get(MAPS, name, namespace=house.namespace)
    assert found is not None
    return found


async def maps(house: House, pool: str = "chat") -> dict[str, Json]:
    found = await house.plane.get(MAPS, namespace=house.namespace)
    assert found is not None
    labelled = (i for i in found["items"] if i["metadata"].get("labels", {}).get("aoai.dev/pool") == pool)
    return {i["metadata"]["name"]: i for i in labelled}


def versions(items: dict[str, Json]) -> dict[str, str]:
    return {name: item["metadata"]["resourceVersion"] for name, item in items.items()}


async def patch(house: House, name: str, changes: Json) -> None:
    answer = await house.plane.request(
        "PATCH",
        path(MAPS, name, namespace=house.namespace),
        json=changes,
        content_type="application/merge-patch+json",
    )
    answer.raise_for_status()


async def call_until(house: House, stop: asyncio.Event) -> int:
    """Ask without a pause and without the SDK's own retries; return how often it was answered."""
    answers = 0
    async with house.client(max_retries=0) as client:
        while not stop.is_set():
            assert await ask(client)
            answers += 1
    return answers


async def test_a_table_is_its_pools_is_restored_and_goes_with_it(serving: House) -> None:
    house = serving
    pool = await house.pool()
    first = await table(house)
    metadata = first["metadata"]
    (owner,) = metadata["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("AOAIBackendPool", "chat", pool["metadata"]["uid"])
    assert owner["controller"] is True
    document = yaml.safe_load(first["data"]["routing-table.yaml"])
    told = pool["status"]["routingTable"]
    assert told == {"configMap": "chat-routing", "revision": document["revision"]}
    assert metadata["annotations"]["aoai.dev/revision"] == document["revision"]
    assert [e["name"] for e in document["table"]["endpoints"]] == ["east", "west"]
    bystander = versions(await maps(house, "other"))

    stop = asyncio.Event()
    calls = asyncio.create_task(call_until(house, stop))
    try:
        await restored_after_edits(house, first)
        await restored_after_deletion(house, first)
    finally:
        stop.set()
        assert await calls
    assert versions(await maps(house, "other")) == bystander

    await house.plane.kubectl("delete", "abp", "chat", "-n", house.namespace)
    # The garbage collector learns of kinds that are new to the API server every 30 s.
    await house.plane.wait_gone(MAPS, "chat-routing", namespace=house.namespace, within=90)
    (gateway,) = house.release.gateways.values()

    async def forgotten() -> bool:
        return f"{house.namespace}/chat" not in await gateway.admin("/config_dump?include_eds")

    await eventually(forgotten, what="the Envoy forgets the pool")
    assert versions(await maps(house, "other")) == bystander
    async with house.client("other", max_retries=0) as client:
        client.api_key = "another-key-0123456789"
        assert await ask(client)


async def restored_after_edits(house: House, wanted: Json) -> None:
    text: str = wanted["data"]["routing-table.yaml"]
    edits: Iterable[Json] = (
        {"data": {"routing-table.yaml": text.replace("name: east", "name: nowhere")}},
        {"data": {"routing-table.yaml": "["}},
        {"data": None},
        {"metadata": {"labels": {"aoai.dev/pool": "other"}}},
        {"metadata": {"labels": None}},
        {"metadata": {"ownerReferences": None}},
        {"metadata": {"annotations": None}},
    )
    for edit in edits:
        await patch(house, "chat-routing", edit)
        await house.plane.wait_for(lambda found: same(found, wanted), MAPS, "chat-routing", namespace=house.namespace)


def same(found: Json, wanted: Json) -> bool:
    fields = ("labels", "annotations", "ownerReferences")
    return found.get("data") == wanted["data"] and all(
        found["metadata"].get(f) == wanted["metadata"][f] for f in fields
    )


async def restored_after_deletion(house: House, wanted: Json) -> None:
    uid = wanted["metadata"]["uid"]
    await house.plane.kubectl("delete", "configmap", "chat-routing", "-n", house.namespace)

    def again(found: Json) -> bool:
        return found["metadata"]["uid"] != uid and same(found, wanted)

    await house.plane.wait_for(again, MAPS, "chat-routing", namespace=house.namespace)


async def test_a_config_map_that_has_the_name_is_left_alone(house: House) -> None:
    await house.apply_pool("other")
    await house.pool_is("Ready", name="other")
    notes = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "chat-routing", "labels": {"app": "chat"}},
        "data": {"notes": "somebody's own"},
    }
    await house.plane.apply(notes, namespace=house.namespace)
    before = await table(house)
    await house.apply_pool(tenants={})
    pool = await house.pool_is("Accepted", "False")
    (accepted,) = (c for c in pool["status"]["conditions"] if c["type"] == "Accepted")
    assert accepted["reason"] == "ConfigMapConflict"
    assert accepted["message"] == (
        f"metadata.name: the ConfigMap {house.namespace}/chat-routing is there already, and belongs to no pool; "
        "delete or rename it, or give the pool another name."
    )
    told = {c["type"]: (c["status"], c["reason"]) for c in pool["status"]["conditions"]}
    assert told["Stalled"] == ("True", "ConfigMapConflict")
    assert told["Programmed"] == ("False", "NoTable")
    assert not pool["status"]["routingTable"].get("configMap"), "that one is not ours"
    assert await table(house) == before
    async with house.client("other") as client:
        assert await ask(client)

    await house.plane.kubectl("delete", "configmap", "chat-routing", "-n", house.namespace)
    await house.pool_is("Ready")
    assert (await table(house))["metadata"]["labels"]["aoai.dev/pool"] == "chat"


async def test_many_tenants_are_sharded_and_one_more_changes_one_shard(house: House) -> None:
    await house.apply_pool()
    # What a table holds of a tenant is what its keys are called: long names make the table large with few tenants.
    entries = [f"key-{i:0200d}" for i in range(MANY * KEYS)]
    data = {entry: f"a-key-of-the-bulk-{entry[-6:]}" for entry in entries}
    bulk = [{**secret("bulk", "", namespace=house.namespace), "stringData": data}]
    for i in range(MANY):
        mine = entries[i * KEYS : (i + 1) * KEYS]
        identities = [{"apiKey": {"secretRef": {"name": "bulk", "key": entry}}} for entry in mine]
        bulk.append(tenant_quota(f"bulk-{i}", "chat", namespace=house.namespace, identities=identities))
    await house.plane.apply(yaml.safe_dump_all(bulk))
    await house.pool_is("Ready")

    async def sharded(count: int) -> dict[str, Json]:
        found = await maps(house)
        texts = [i["data"]["tenants.yaml"] for n, i in found.items() if "-tenants-" in n]
        return found if sum(len(yaml.safe_load(t)) for t in texts) == count else {}

    before = await eventually(lambda: sharded(MANY + 1), within=90, what="all tenants are in shards")
    assert len(before) > 2
    assert all(len(yaml.safe_dump(item["data"])) < 500_000 for item in before.values())
    more = [secret("more-key", "a-key-of-one-more", namespace=house.namespace)]
    more.append(tenant_quota("more", "chat", namespace=house.namespace))
    await house.plane.apply(yaml.safe_dump_all(more))

    async def one_more() -> dict[str, Json]:
        found = await sharded(MANY + 2)
        # The shard is written first, and then the table that names it.
        return found if found and versions(found)["chat-routing"] != versions(before)["chat-routing"] else {}

    after = await eventually(one_more, within=30, what="one tenant more")
    await house.pool_is("Ready")
    old, new = versions(before), versions(after)
    changed = {name for name in new if new[name] != old.get(name)}
    assert len(changed) == 2
    assert "chat-routing" in changed
    async with house.client() as client:
        client.api_key = "a-key-of-one-more"
        assert await ask(client)

    # Most of them go, and with them the shards; what only looks like one stays.
    labels = {"aoai.dev/pool": "chat"}
    strange = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "chat-tenants-99", "labels": labels}}
    await house.plane.apply(yaml.safe_dump(strange), namespace=house.namespace)
    await house.plane.kubectl("delete", "tq", "-n", house.namespace, *(f"bulk-{i}" for i in range(MANY)))

    async def inline() -> bool:
        return {name for name in await maps(house) if "-tenants-" in name} == {"chat-tenants-99"}

    await eventually(inline, within=60, what="no shard is left")
    await house.pool_is("Ready")
    async with house.client() as client:
        client.api_key = "a-key-of-one-more"
        assert await ask(client)
    settled = versions(await maps(house))
    await house.apply_pool("other", tenants={})
    await house.pool_is("Ready", name="other")
    assert versions(await maps(house)).items() >= settled.items(), "and the table is not written again for its sake"

"""What the leader holds of pools and tenants: a spec is parsed once, and what is equal is held once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import pytest

from aoai_operator.adapters.kube.resources import POOLS, QUOTAS
from aoai_operator.adapters.kube.store import ObjectStore, Unavailable
from aoai_operator.cluster.known import read_pool, read_quota
from aoai_operator.cluster.resources import Resources
from aoai_operator.core.api import AOAIBackendPool, AOAIBackendPoolStatus, Invalid
from aoai_operator.core.api.base import API_VERSION, REQUESTED_AT
from aoai_operator.core.names import PoolKey, SecretRef
from aoai_operator.ports import JsonObject, KubeApi, KubeError, Resource
from support.kube import pool

CHAT = PoolKey("ai", "chat")
STATUS = AOAIBackendPoolStatus(observed_generation=1, healthy_endpoints="1/1")


def chat(
    version: int = 1, generation: int = 1, *, named: str = "key", annotations: Mapping[str, str] | None = None
) -> JsonObject:
    """Return a pool as the API server has it."""
    item = pool("chat", "ai", uid="u", resourceVersion=str(version), generation=generation)
    item["metadata"]["annotations"] = dict(annotations or {})
    item["spec"]["endpoints"][0]["auth"]["apiKey"]["secretRef"]["name"] = named
    return item


def told(item: JsonObject, status: AOAIBackendPoolStatus) -> JsonObject:
    """Return an object with a status."""
    return {**item, "status": status.model_dump(mode="json", by_alias=True, exclude_none=True)}


def tenant(version: int = 1) -> JsonObject:
    """Return a tenant as the API server has it."""
    return {
        "apiVersion": API_VERSION,
        "kind": "TenantQuota",
        "metadata": {"namespace": "ai", "name": "team", "uid": "t", "resourceVersion": str(version), "generation": 1},
        "spec": {"poolRefs": [{"name": "chat"}], "identities": [{"apiKey": {"secretRef": {"name": "team-key"}}}]},
    }


class Api:
    """Lists pools and tenants; only what is called here."""

    def __init__(self, **items: JsonObject) -> None:
        self.items: dict[str, JsonObject] = items
        self.away: set[Resource] = set()

    async def list(self, resource: Resource, _namespace: str | None, _labels: str) -> tuple[JsonObject, ...]:
        if resource in self.away:
            raise KubeError(0, "Unreachable", "it is away")
        return tuple(item for item in self.items.values() if item["kind"] == resource.kind)

    def resources(self) -> Resources:
        api = cast("KubeApi", self)
        return Resources(
            ObjectStore(api, POOLS, keep=read_pool, resync=0), ObjectStore(api, QUOTAS, keep=read_quota, resync=0)
        )


def parsed(resources: Resources) -> object:
    return resources.pools[CHAT].parsed


async def test_a_status_alone_leaves_the_model_as_it_is() -> None:
    api = Api(pool=chat())
    resources = api.resources()
    await resources.refresh()
    before = parsed(resources)
    assert isinstance(before, AOAIBackendPool)
    api.items["pool"] = told(chat(version=2), STATUS)
    await resources.refresh()
    assert parsed(resources) is before
    assert resources.pools[CHAT].status == STATUS


@pytest.mark.parametrize("item", [chat(2, 2, named="other"), chat(2, 1, annotations={REQUESTED_AT: "now"})])
async def test_another_spec_is_parsed_and_so_is_what_a_user_asks_for(item: JsonObject) -> None:
    api = Api(pool=chat())
    resources = api.resources()
    await resources.refresh()
    before = parsed(resources)
    api.items["pool"] = item
    await resources.refresh()
    assert parsed(resources) is not before


async def test_an_object_that_was_made_again_is_another_one() -> None:
    api = Api(pool=chat())
    resources = api.resources()
    await resources.refresh()
    before = parsed(resources)
    api.items["pool"] = chat()
    api.items["pool"]["metadata"]["uid"] = "another"
    await resources.refresh()
    assert parsed(resources) is not before
    assert resources.pools[CHAT].uid == "another"


async def test_a_status_that_says_what_is_wanted_is_held_once() -> None:
    resources = Api(pool=chat()).resources()
    await resources.refresh()
    known = resources.pools[CHAT]
    assert not known.says(STATUS)
    written = resources.put_pool(told(chat(version=2), STATUS))
    assert written is resources.pools[CHAT]
    assert written.status is not STATUS
    assert written.says(STATUS)
    assert written.status is STATUS
    again = resources.put_pool(told(chat(version=3), STATUS))
    assert again.status is STATUS
    assert not again.says(STATUS.model_copy(update={"healthy_endpoints": "0/1"}))


async def test_a_long_annotation_is_not_held() -> None:
    resources = Api(pool=chat(annotations={"kubectl.kubernetes.io/last-applied-configuration": "x" * 100})).resources()
    await resources.refresh()
    found = parsed(resources)
    assert isinstance(found, AOAIBackendPool)
    assert found.metadata.annotations == {}


def referred(resources: Resources) -> set[SecretRef]:
    return {ref for kind in resources.refs().values() for refs in kind.values() for ref in refs}


async def test_references_follow_both_kinds_even_if_one_cannot_be_read_for_a_time() -> None:
    api = Api(pool=chat(), tenant=tenant())
    resources = api.resources()
    await resources.refresh()
    of_tenant = SecretRef("ai", "team-key", "api-key")
    assert referred(resources) == {SecretRef("ai", "key", "api-key"), of_tenant}
    api.items["pool"] = chat(2, 2, named="other")
    api.away = {QUOTAS}
    with pytest.raises(Unavailable):
        await resources.refresh()
    api.away = set()
    resources.wake(QUOTAS, None)
    await eventually_read(resources)
    assert referred(resources) == {SecretRef("ai", "other", "api-key"), of_tenant}


async def test_tenants_are_read_although_pools_cannot_be() -> None:
    api = Api(pool=chat(), tenant=tenant())
    resources = api.resources()
    await resources.refresh()
    api.items["tenant"] = {**tenant(version=2), "spec": {**tenant()["spec"], "models": ["gpt-4o"]}}
    api.items["tenant"]["metadata"]["generation"] = 2
    api.away = {POOLS}
    with pytest.raises(Unavailable, match="aoaibackendpools"):
        await resources.refresh()
    (quota,) = resources.world({}, {}, statuses=False).quotas
    assert quota.spec.models == ("gpt-4o",)


async def eventually_read(resources: Resources) -> None:
    """Read until the store tries again what failed."""
    for _ in range(100):
        try:
            await resources.refresh()
        except Unavailable:
            continue
        return


async def test_a_request_is_told_once_and_again_for_a_pool_that_was_made_again() -> None:
    api = Api(pool=chat(annotations={REQUESTED_AT: "now"}))
    resources = api.resources()
    await resources.refresh()
    assert resources.requested() == {PoolKey("ai", "key")}
    api.items["pool"] = chat(2, annotations={REQUESTED_AT: "now"})
    await resources.refresh()
    assert resources.requested() == frozenset()
    items: Mapping[str, JsonObject] = dict(api.items)
    api.items.clear()
    await resources.refresh()
    api.items.update(items)
    await resources.refresh()
    assert resources.requested() == {PoolKey("ai", "key")}


async def test_what_cannot_be_used_has_a_status_and_is_no_part_of_the_world() -> None:
    item = chat()
    item["spec"]["endpoints"] = []
    resources = Api(pool=item, tenant=tenant()).resources()
    await resources.refresh()
    assert isinstance(parsed(resources), Invalid)
    world = resources.world({}, {}, statuses=True)
    assert world.pools == ()
    assert world.invalid == {CHAT}
    assert len(world.quotas) == 1
    pools, quotas = resources.statuses_of_invalid(1)
    assert [c.reason for c in pools[CHAT].conditions] == ["Invalid"] * 3
    assert quotas == {}

"""The leader's writer: what is odd about one object is nobody else's trouble."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

from structlog.testing import capture_logs

from aoai_operator.adapters.kube.events import EventPoster
from aoai_operator.cluster import writer as module
from aoai_operator.cluster.known import KnownPool, KnownQuota, read_pool, read_quota
from aoai_operator.cluster.resources import Resources
from aoai_operator.cluster.serving import Serving
from aoai_operator.cluster.writer import Writer
from aoai_operator.core.api import (
    AOAIBackendPoolStatus,
    Condition,
    ProxiesStatus,
    RoutingTableStatus,
    TenantQuotaStatus,
)
from aoai_operator.core.api.base import API_VERSION
from aoai_operator.core.compiler import Compiled
from aoai_operator.core.conditions import ConditionReason, ConditionType
from aoai_operator.core.names import PoolKey
from aoai_operator.ports import JsonObject, KubeApi, Resource
from support.kube import running
from support.waiting import eventually

ODD, OTHER = PoolKey("ai", "a"), PoolKey("ai", "b")
PENDING = Condition(
    type=ConditionType.RECONCILING,
    status="True",
    last_transition_time="2026-01-01T00:00:00Z",
    reason=ConditionReason.PENDING,
)


class Api:
    """Takes statuses, and fails in an unheard-of way at one."""

    def __init__(self) -> None:
        self.tried: list[str] = []
        self.odd = True

    async def apply(self, _resource: Resource, body: JsonObject, *, status: bool = False, part: str = "") -> JsonObject:
        assert not part
        assert status
        name: str = body["metadata"]["name"]
        self.tried.append(name)
        if self.odd and name == ODD.name:
            raise ValueError("what is this?")
        return body


class Pools:
    """Two pools, as far as the writer asks for them."""

    def __init__(self) -> None:
        self.quotas: dict[PoolKey, KnownQuota] = {}
        self.pool_moves = self.quota_moves = 0
        self.pools: dict[PoolKey, KnownPool] = {
            key: self._known({"metadata": {"name": key.name}}) for key in (ODD, OTHER)
        }

    def put_pool(self, item: JsonObject) -> KnownPool:
        """Take what was written."""
        self.pools[PoolKey("ai", item["metadata"]["name"])] = known = self._known(item)
        self.pool_moves += 1
        return known

    def put_quota(self, item: JsonObject) -> KnownQuota:
        """Take a tenant as it was written, by us or by somebody else."""
        name = item["metadata"]["name"]
        metadata = {"namespace": "ai", "name": name, "uid": name, "generation": 1, "resourceVersion": "1"}
        known = read_quota({"apiVersion": API_VERSION, "metadata": metadata, "status": item.get("status")}, None)
        self.quotas[PoolKey("ai", name)] = known
        self.quota_moves += 1
        return known

    def _known(self, item: JsonObject) -> KnownPool:
        name = item["metadata"]["name"]
        metadata = {"namespace": "ai", "name": name, "uid": name, "generation": 1, "resourceVersion": "1"}
        return read_pool({"apiVersion": API_VERSION, "metadata": metadata, "status": item.get("status")}, None)


class NoEvents:
    """Takes Events."""

    def post(self, *_: object, **__: object) -> None:
        """Take it."""


def writing(api: Api, pools: Pools, *, arrived: Callable[[], bool] = lambda: True) -> Writer:
    return Writer(
        api=cast(KubeApi, api),
        resources=cast(Resources, pools),
        serving=cast(Serving, SimpleNamespace(moves=0)),
        events=cast(EventPoster, NoEvents()),
        waiting=lambda _: None,
        taken_changed=lambda: None,
        arrived=arrived,
    )


def status(*, programmed: int, revision: str = "1") -> AOAIBackendPoolStatus:
    return AOAIBackendPoolStatus(
        proxies=ProxiesStatus(connected=2, programmed=programmed), routing_table=RoutingTableStatus(revision=revision)
    )


async def test_envoys_that_look_for_a_new_leader_are_not_said_to_be_lost(monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "_LOOK", 0.01)
    monkeypatch.setattr(module, "ARRIVING", 0.0)
    monkeypatch.setattr(module, "_RETURNING", 0.0)
    api, pools, arrived = Api(), Pools(), asyncio.Event()
    for key in (ODD, OTHER):
        pools.put_pool({"metadata": {"name": key.name}, "status": status(programmed=2).model_dump(by_alias=True)})
    api.odd = False
    writer = writing(api, pools, arrived=arrived.is_set)
    lost, moved = status(programmed=0), status(programmed=0, revision="2")
    async with running(writer.run()):
        writer.want(Compiled({}, {ODD: lost, OTHER: moved}, {}, ()))
        await eventually(lambda: api.tried == [OTHER.name], what="the pool whose table is another one is told at once")
        writer.want(Compiled({}, {ODD: status(programmed=2), OTHER: moved}, {}, ()))
        writer.want(Compiled({}, {ODD: lost, OTHER: moved}, {}, ()))
        assert api.tried == [OTHER.name]
        arrived.set()
        await eventually(lambda: api.tried == [OTHER.name, ODD.name], what="it is lost")
    assert pools.pools[ODD].status == lost


async def test_a_status_of_a_tenant_that_somebody_overwrote_is_written_again() -> None:
    """All tenants said what they should, which is known without going through them, until one moved."""
    api, resources = Api(), Pools()
    api.odd = False
    told = TenantQuotaStatus(observed_generation=1)
    resources.put_quota({"metadata": {"name": "team"}})
    wanted = Compiled({}, {}, {PoolKey("ai", "team"): told}, ())
    writer = writing(api, resources)

    async def looked(times: int) -> None:
        # That this one is written shows that it was looked.
        seen = status(programmed=2, revision=f"at look {times}")
        writer.want(replace(wanted, pool_statuses={OTHER: seen}))
        await eventually(lambda: api.tried.count(OTHER.name) == times)

    async with running(writer.run()):
        await looked(1)
        await eventually(lambda: api.tried.count("team") == 1, what="it is written")
        await looked(2)
        await looked(3)
        assert api.tried.count("team") == 1
        resources.put_quota({"metadata": {"name": "team"}, "status": {"observedGeneration": 0}})
        writer.look_again()
        await eventually(lambda: api.tried.count("team") == 2, what="it is written again")
    assert resources.quotas[PoolKey("ai", "team")].status == told


async def test_an_envoy_that_is_away_for_a_moment_is_not_said_to_be_lost(monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "ARRIVING", 0.0)
    monkeypatch.setattr(module, "_RETURNING", 1000.0)
    api, pools = Api(), Pools()
    api.odd = False

    def written(key: PoolKey, times: int) -> bool:
        return api.tried.count(key.name) == times

    there, away, none = (status(programmed=count) for count in (2, 1, 0))
    edited = away.model_copy(update={"observed_generation": 2})
    for key in (ODD, OTHER):
        pools.put_pool({"metadata": {"name": key.name}, "status": there.model_dump(mode="json", by_alias=True)})
    writer = writing(api, pools)
    async with running(writer.run()):
        for looks, wanted in enumerate((away, none, away, there, away), 1):
            # That this one is written shows that the one before it was looked at.
            seen = status(programmed=2, revision=f"at look {looks}")
            writer.want(Compiled({}, {OTHER: wanted, ODD: seen}, {}, ()))
            await eventually(partial(written, ODD, looks))
        assert written(OTHER, 0)
        monkeypatch.setattr(module, "_RETURNING", 0.0)
        writer.want(Compiled({}, {OTHER: none}, {}, ()))
        await eventually(partial(written, OTHER, 1), what="another one goes, and its time is over")
        monkeypatch.setattr(module, "_RETURNING", 1000.0)
        writer.want(Compiled({}, {OTHER: there}, {}, ()))
        await eventually(partial(written, OTHER, 2), what="they are back")
        writer.want(Compiled({}, {OTHER: edited}, {}, ()))
        await eventually(partial(written, OTHER, 3), what="what was edited waits for nobody")


async def test_each_time_that_envoys_take_a_table_they_are_given_the_time(monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "ARRIVING", 0.0)
    monkeypatch.setattr(module, "_RETURNING", 0.0)
    monkeypatch.setattr(module, "_SETTLING", 1000.0)
    api, pools = Api(), Pools()
    api.odd = False

    def written(key: PoolKey, times: int) -> bool:
        return api.tried.count(key.name) == times

    there, pending = status(programmed=2), status(programmed=1).model_copy(update={"conditions": (PENDING,)})
    pools.put_pool({"metadata": {"name": OTHER.name}, "status": there.model_dump(mode="json", by_alias=True)})
    writer = writing(api, pools)
    async with running(writer.run()):
        for looks, wanted in enumerate((pending, there), 1):
            # That this one is written shows that it was looked at the one before it.
            seen = status(programmed=2, revision=f"at look {looks}")
            writer.want(Compiled({}, {OTHER: wanted, ODD: seen}, {}, ()))
            await eventually(partial(written, ODD, looks))
        assert written(OTHER, 0)
        monkeypatch.setattr(module, "_SETTLING", 0.0)
        writer.want(Compiled({}, {OTHER: pending}, {}, ()))
        await eventually(partial(written, OTHER, 1))


async def test_what_changed_back_before_it_was_written_leaves_no_new_time() -> None:
    api, pools = Api(), Pools()
    api.odd = False
    before = PENDING.model_copy(update={"reason": "Programmed"})
    after = before.model_copy(update={"last_transition_time": "2026-01-02T00:00:00Z"})
    told = status(programmed=2).model_copy(update={"conditions": (before,)})
    pools.put_pool({"metadata": {"name": OTHER.name}, "status": told.model_dump(mode="json", by_alias=True)})
    writer = writing(api, pools)
    async with running(writer.run()):
        seen = status(programmed=2, revision="this look")
        writer.want(Compiled({}, {OTHER: told.model_copy(update={"conditions": (after,)}), ODD: seen}, {}, ()))
        await eventually(lambda: pools.pools[ODD].status == seen)
        assert OTHER.name not in api.tried
        writer.want(Compiled({}, {OTHER: status(programmed=2)}, {}, ()))
        await eventually(lambda: OTHER.name in api.tried, what="the condition is gone")


async def test_one_odd_object_ends_nothing_and_is_tried_again(monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "_RETRY", 0.05)
    api = Api()
    writer = writing(api, Pools())
    with capture_logs() as logs:
        async with running(writer.run()):
            writer.want(Compiled({}, {key: AOAIBackendPoolStatus() for key in (ODD, OTHER)}, {}, ()))
            await eventually(lambda: api.tried.count(ODD.name) > 2)
            assert api.tried.count(OTHER.name) == 1
            api.odd = False
            before = len(api.tried)
            await eventually(lambda: len(api.tried) > before)
    (odd,) = (log for log in logs if log.get("exc_info"))
    assert (odd["kind"], odd["object"]) == ("AOAIBackendPool", str(ODD))

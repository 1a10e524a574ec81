"""The leader's writer: what is odd about one object is nobody else's trouble."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from structlog.testing import capture_logs

from aoai_operator.adapters.kube.events import EventPoster
from aoai_operator.cluster import writer as module
from aoai_operator.cluster.known import KnownPool, KnownQuota, read_pool
from aoai_operator.cluster.resources import Resources
from aoai_operator.cluster.serving import Serving
from aoai_operator.cluster.writer import Writer
from aoai_operator.core.api import AOAIBackendPoolStatus
from aoai_operator.core.api.base import API_VERSION
from aoai_operator.core.compiler import Compiled
from aoai_operator.core.names import PoolKey
from aoai_operator.ports import JsonObject, KubeApi, Resource
from support.kube import running
from support.waiting import eventually

ODD, OTHER = PoolKey("ai", "a"), PoolKey("ai", "b")


class Api:
    """Takes statuses, and fails in an unheard-of way at one."""

    def __init__(self) -> None:
        self.tried: list[str] = []
        self.odd = True

    async def apply(self, _resource: Resource, body: JsonObject, *, status: bool = False) -> JsonObject:
        assert status
        name: str = body["metadata"]["name"]
        self.tried.append(name)
        if self.odd and name == ODD.name:
            raise ValueError("what is this?")
        return body


class Pools:
    """Two pools, as far as the writer asks for them."""

    def __init__(self) -> None:
        self.quotas: Mapping[PoolKey, KnownQuota] = {}
        self.pools: dict[PoolKey, KnownPool] = {
            key: self._known({"metadata": {"name": key.name}}) for key in (ODD, OTHER)
        }

    def put_pool(self, item: JsonObject) -> KnownPool:
        """Take what was written."""
        self.pools[PoolKey("ai", item["metadata"]["name"])] = known = self._known(item)
        return known

    def _known(self, item: JsonObject) -> KnownPool:
        name = item["metadata"]["name"]
        metadata = {"namespace": "ai", "name": name, "uid": name, "generation": 1, "resourceVersion": "1"}
        return read_pool({"apiVersion": API_VERSION, "metadata": metadata, "status": item.get("status")}, None)


async def test_one_odd_object_ends_nothing_and_is_tried_again(monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "_RETRY", 0.05)
    api = Api()
    writer = Writer(
        api=cast(KubeApi, api),
        resources=cast(Resources, Pools()),
        serving=cast(Serving, None),
        events=cast(EventPoster, None),
        waiting=lambda _: None,
        taken_changed=lambda: None,
        arrived=lambda: True,
    )
    with capture_logs() as logs:
        async with running(writer.run()):
            writer.want(Compiled({}, {key: AOAIBackendPoolStatus() for key in (ODD, OTHER)}, {}, ()))
            await eventually(lambda: api.tried.count(ODD.name) > 2)
            assert api.tried.count(OTHER.name) == 1
            api.odd = False
            before = len(api.tried)
            await eventually(lambda: len(api.tried) > before)
    assert len([log for log in logs if log.get("exc_info")]) == 1

"""What a replica serves while Secrets and namespaces cannot be read. The API server is a small one in memory."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from copy import deepcopy
from typing import cast

import pytest
from structlog.testing import capture_logs

from aoai_operator.adapters.kube.resources import CONFIG_MAPS, POOLS, SECRETS
from aoai_operator.adapters.kube.secrets import SecretReader
from aoai_operator.adapters.kube.store import ObjectStore, whole
from aoai_operator.cluster import serving as module
from aoai_operator.cluster.serving import Serving
from aoai_operator.core import configmaps
from aoai_operator.core.configmaps import POOL_LABEL
from aoai_operator.core.envoy.snapshot import Owners
from aoai_operator.core.names import PoolKey, SecretRef
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.signing import key_data, key_of
from aoai_operator.core.table import RoutingTable
from aoai_operator.ports import JsonObject, KubeApi, KubeError, Resource
from aoai_operator.runners.signing import TableKey
from support.kube import running
from support.tables import CHAT, endpoint, routing_table
from support.waiting import eventually

AWAY = KubeError(0, "Unreachable", "the API server is away")
KEY, OTHER_KEY = key_of(b"k" * 32), key_of(b"o" * 32)
OWN = "aoai-tables"
FORBIDDEN = KubeError(403, "Forbidden", "configmaps is forbidden in the namespace gone")


def table(secret: str) -> RoutingTable:
    """Return a table whose one endpoint has its key in this Secret."""
    return routing_table(endpoint("east").model_copy(update={"credential": SecretRef("ai", secret, "key")}))


class Api:
    """Keeps ConfigMaps and Secrets, and what goes wrong with them. Only what is called here."""

    def __init__(self) -> None:
        self.maps: dict[PoolKey, JsonObject] = {}
        self.secrets: dict[str, str] = {}
        self.pools = {"chat"}
        self.key: SecretValue | None = KEY
        self.errors: dict[str, KubeError] = {}
        self.asked: list[str] = []
        self._version = 0

    def put(self, wanted: RoutingTable, key: SecretValue = KEY) -> PoolKey:
        for manifest in configmaps.manifests(wanted, "uid", key):
            self._version += 1
            item = deepcopy(manifest)
            item["metadata"] |= {"uid": "of-the-map", "resourceVersion": str(self._version)}
            place = PoolKey(item["metadata"]["namespace"], item["metadata"]["name"])
            self.maps[place] = item
        return place

    async def list(self, resource: Resource, namespace: str | None = None, _labels: str = "") -> tuple[JsonObject, ...]:
        assert resource is CONFIG_MAPS
        self._answer(namespace or "")
        return tuple(item for key, item in self.maps.items() if namespace in (None, key.namespace))

    async def get(self, resource: Resource, key: PoolKey) -> JsonObject | None:
        self._answer(key.name)
        if resource is CONFIG_MAPS:
            return self.maps.get(key)
        if resource is POOLS:
            return {"metadata": {"uid": "uid"}} if key.name in self.pools else None
        assert resource is SECRETS
        if key.name == OWN:
            data = key_data(self.key) if self.key else {}
            return {"data": {entry: base64.b64encode(value).decode() for entry, value in data.items()}}
        if key.name not in self.secrets:
            return None
        return {"data": {"key": base64.b64encode(self.secrets[key.name].encode()).decode()}}

    def _answer(self, name: str) -> None:
        self.asked.append(name)
        if name in self.errors:
            raise self.errors[name]


class Replica:
    """What a replica serves, and with which keys."""

    def __init__(self, api: Api, *, namespaces: tuple[str, ...] = ()) -> None:
        self.delivered: list[tuple[str, str | None]] = []
        self._api = api
        self.changes = 0
        self.unknown: Owners = frozenset()
        kube = cast(KubeApi, api)
        self.key = TableKey(
            api=kube,
            secrets=SECRETS,
            namespace="aoai-system",
            name="aoai",
            leading=lambda: False,
            changed=lambda: self.serving.key_changed(),  # noqa: PLW0108 - they need each other
            interval=0.05,
        )
        self.secrets = SecretReader(kube, interval=30, changed=lambda: self.serving.secrets_changed())  # noqa: PLW0108 - they need each other
        self.refused: list[int] = []
        """How many tables were refused, at each look."""
        self.serving = Serving(
            store=ObjectStore(kube, CONFIG_MAPS, keep=whole, namespaces=namespaces, labels=POOL_LABEL),
            key=self.key,
            pool=self._pool,
            secrets=self.secrets,
            deliver=self._deliver,
            refused=self.refused.append,
        )
        self.serving.changed = self._changed

    def _changed(self) -> None:
        self.changes += 1

    async def _pool(self, key: PoolKey) -> JsonObject | None:
        return await self._api.get(POOLS, key)

    def _deliver(
        self, tables: Mapping[PoolKey, RoutingTable], secrets: Mapping[SecretRef, SecretValue], unknown: Owners
    ) -> None:
        self.unknown = unknown
        if CHAT not in tables:
            return
        (ref,) = tables[CHAT].endpoints[0].secrets
        self.delivered.append((ref.name, secrets[ref].reveal() if ref in secrets else None))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with running(self.key.run(), self.secrets.run(), self.serving.run()):
            yield


@pytest.fixture
def api() -> Api:
    made = Api()
    made.secrets = {"old": "a"}
    made.put(table("old"))
    return made


async def asked_again(api: Api, name: str) -> None:
    """Wait until something was asked for twice more."""
    before = api.asked.count(name)
    await eventually(lambda: api.asked.count(name) > before + 1)


async def test_a_start_waits_for_the_secrets(api: Api) -> None:
    api.errors["old"] = AWAY
    replica = Replica(api)
    async with replica.running():
        await asked_again(api, "old")
        assert not replica.serving.ready.is_set()
        assert not replica.delivered
        del api.errors["old"]
        await asyncio.wait_for(replica.serving.ready.wait(), 10)
        assert replica.delivered == [("old", "a")]


async def test_a_secret_that_is_not_there_keeps_no_start_waiting(api: Api) -> None:
    api.secrets = {}
    replica = Replica(api)
    async with replica.running():
        await asyncio.wait_for(replica.serving.ready.wait(), 10)
        assert replica.delivered == [("old", None)]


async def test_a_table_that_names_another_secret_waits_for_it(api: Api) -> None:
    replica = Replica(api)
    async with replica.running():
        await asyncio.wait_for(replica.serving.ready.wait(), 10)
        api.errors["new"] = AWAY
        replica.serving.wake(api.put(table("new")))
        await asked_again(api, "new")
        replica.serving.secrets_changed()
        assert set(replica.delivered) == {("old", "a")}
        api.secrets["new"] = "b"
        del api.errors["new"]
        await eventually(lambda: replica.delivered[-1][0] == "new")
        assert set(replica.delivered) == {("old", "a"), ("new", "b")}


async def test_it_does_not_wait_for_ever(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SECRETS_WITHIN", 0.1)
    replica = Replica(api)
    async with replica.running():
        await asyncio.wait_for(replica.serving.ready.wait(), 10)
        api.errors["new"] = AWAY
        replica.serving.wake(api.put(table("new")))
        await eventually(lambda: replica.delivered[-1] == ("new", None))


async def test_a_namespace_that_may_not_be_read_keeps_no_start_waiting(api: Api) -> None:
    api.errors["gone"] = FORBIDDEN
    replica = Replica(api, namespaces=("gone", "ai"))
    async with replica.running():
        await asyncio.wait_for(replica.serving.ready.wait(), 10)
        assert replica.delivered == [("old", "a")]


async def test_a_start_waits_for_the_key_of_the_signatures(api: Api) -> None:
    api.errors[OWN] = AWAY
    replica = Replica(api)
    async with replica.running():
        await asked_again(api, OWN)
        assert not replica.serving.read.is_set()
        del api.errors[OWN]
        await asyncio.wait_for(replica.serving.ready.wait(), 10)
        assert replica.delivered == [("old", "a")]


async def test_no_pool_is_asked_for_whose_table_is_signed(api: Api) -> None:
    replica = Replica(api)
    async with replica.running():
        await asyncio.wait_for(replica.serving.ready.wait(), 10)
        api.secrets["new"] = "b"
        replica.serving.wake(api.put(table("new")))
        await eventually(lambda: replica.delivered[-1] == ("new", "b"))
        assert "chat" not in api.asked


async def test_a_table_that_is_not_signed_is_not_served_and_its_last_good_one_is(api: Api) -> None:
    replica = Replica(api)
    async with replica.running():
        await asyncio.wait_for(replica.serving.ready.wait(), 10)
        api.secrets["new"] = "b"
        with capture_logs() as logs:
            replica.serving.wake(api.put(table("new"), OTHER_KEY))
            await eventually(lambda: "chat" in api.asked)
        assert [line["event"] for line in logs] == ["a routing table is refused, its last good one serves"]
        assert replica.serving.tables == {CHAT: table("old")}
        assert not replica.serving.holds(table("new"), "uid")
        await eventually(lambda: replica.refused[-1] == 1)
        replica.serving.wake(api.put(table("new")))
        await eventually(lambda: replica.delivered[-1] == ("new", "b"))
        assert replica.refused[-1] == 0
        assert set(replica.delivered) == {("old", "a"), ("new", "b")}


async def test_a_start_gives_a_leader_time_to_sign(api: Api) -> None:
    api.put(table("old"), OTHER_KEY)
    replica = Replica(api)
    async with replica.running():
        await asyncio.wait_for(replica.serving.read.wait(), 10)
        await eventually(lambda: "chat" in api.asked)
        assert not replica.serving.ready.is_set()
        replica.serving.wake(api.put(table("old")))
        await asyncio.wait_for(replica.serving.ready.wait(), 10)
        assert replica.delivered == [("old", "a")]


async def test_of_a_pool_whose_table_stays_refused_envoys_keep_what_they_have(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.1)
    monkeypatch.setattr(module, "_LOOK_AGAIN", 0.05)
    monkeypatch.setattr(module, "_SHARED_KEPT", 0.5)
    api.put(table("old"), OTHER_KEY)
    replica = Replica(api)
    async with replica.running():
        await asyncio.wait_for(replica.serving.ready.wait(), 10)
        assert replica.unknown == {"ai/chat", None}
        await eventually(lambda: replica.unknown == {"ai/chat"}, what="changes of what is shared are let through")
        assert replica.serving.tables == {}
        replica.serving.wake(api.put(table("old")))
        await eventually(lambda: replica.delivered == [("old", "a")])
        assert replica.unknown == frozenset()


async def test_they_keep_it_until_the_secrets_of_its_first_table_are_read(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in an upgrade: a leader signs the table, and only then a follower learns which Secrets it names."""
    monkeypatch.setattr(module, "_PATIENCE", 0.1)
    api.put(table("old"), OTHER_KEY)
    api.errors["old"] = AWAY
    replica = Replica(api)
    async with replica.running():
        await asyncio.wait_for(replica.serving.ready.wait(), 10)
        replica.serving.wake(api.put(table("old")))
        await eventually(lambda: replica.serving.tables)
        await asked_again(api, "old")
        assert "ai/chat" in replica.unknown
        assert replica.delivered == []
        del api.errors["old"]
        await eventually(lambda: replica.delivered == [("old", "a")])
        assert replica.unknown == frozenset()


async def test_envoys_keep_nothing_of_a_pool_that_is_gone(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.1)
    monkeypatch.setattr(module, "_LOOK_AGAIN", 0.05)
    api.put(table("old"), OTHER_KEY)
    replica = Replica(api)
    async with replica.running():
        await asyncio.wait_for(replica.serving.ready.wait(), 10)
        assert replica.unknown == {"ai/chat", None}
        api.pools = set()
        await eventually(lambda: replica.unknown == frozenset())


async def test_no_start_waits_for_a_table_of_a_pool_that_is_not_there(api: Api) -> None:
    api.put(table("old"), OTHER_KEY)
    api.pools = set()
    replica = Replica(api)
    async with replica.running():
        await asyncio.wait_for(replica.serving.ready.wait(), 10)
        assert replica.serving.tables == {}
        assert "old" not in api.asked


async def test_a_pool_that_is_gone_is_forgotten_whatever_somebody_keeps_there(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOK_AGAIN", 0.05)
    replica = Replica(api)
    async with replica.running():
        await asyncio.wait_for(replica.serving.ready.wait(), 10)
        replica.serving.wake(api.put(table("old"), OTHER_KEY))
        await asked_again(api, "chat")
        assert replica.serving.tables == {CHAT: table("old")}
        api.pools = set()
        await eventually(lambda: replica.serving.tables == {})


async def test_what_is_signed_with_a_new_key_is_taken_at_once(api: Api) -> None:
    """The leader has made a key, and this replica has not looked at it since."""
    replica = Replica(api)
    replica.key._interval = 600
    async with replica.running():
        await asyncio.wait_for(replica.serving.ready.wait(), 10)
        api.key = OTHER_KEY
        api.secrets["new"] = "b"
        with capture_logs() as logs:
            replica.serving.wake(api.put(table("new"), OTHER_KEY))
            await eventually(lambda: replica.delivered[-1] == ("new", "b"))
        assert not logs
        assert replica.serving.holds(table("new"), "uid")


async def test_with_a_new_key_all_is_to_be_signed_again_and_serves_meanwhile(api: Api) -> None:
    replica = Replica(api)
    async with replica.running():
        await asyncio.wait_for(replica.serving.ready.wait(), 10)
        assert replica.serving.holds(table("old"), "uid")
        before = replica.changes
        api.key = OTHER_KEY
        await eventually(lambda: replica.changes > before, what="it is told that there is something to write")
        assert not replica.serving.holds(table("old"), "uid")
        assert replica.serving.key == OTHER_KEY
        assert replica.serving.tables == {CHAT: table("old")}
        replica.serving.wake(api.put(table("old"), OTHER_KEY))
        await eventually(lambda: replica.serving.holds(table("old"), "uid"))
        assert set(replica.delivered) == {("old", "a")}

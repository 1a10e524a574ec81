"""The key of the routing tables, on a small API server in memory."""

from __future__ import annotations

import base64
from copy import deepcopy
from typing import cast

import pytest
from structlog.testing import capture_logs

from aoai_operator.adapters.kube.resources import SECRETS
from aoai_operator.core.names import PoolKey
from aoai_operator.core.secret import SecretValue
from aoai_operator.ports import JsonObject, KubeApi, KubeError, Resource
from aoai_operator.runners.signing import TableKey
from support.kube import running
from support.waiting import eventually

AWAY = KubeError(0, "Unreachable", "the API server is away")
PLACE = PoolKey("aoai-system", "aoai-operator-tables")


class Api:
    """Keeps one Secret, and what was written."""

    def __init__(self) -> None:
        self.secret: JsonObject | None = None
        self.writes: list[str] = []
        self.away = False
        self.looks = 0
        self.quicker: JsonObject | None = None

    async def get(self, resource: Resource, key: PoolKey) -> JsonObject | None:
        assert (resource, key) == (SECRETS, PLACE)
        self.looks += 1
        if self.away:
            raise AWAY
        return deepcopy(self.secret)

    async def create(self, _resource: Resource, body: JsonObject) -> JsonObject:
        self.secret = self.quicker or self.secret
        if self.secret is not None:
            raise KubeError(409, "AlreadyExists", "it is there already")
        return self._written("create", body)

    async def apply(self, _resource: Resource, body: JsonObject) -> JsonObject:
        assert self.secret is not None
        assert body["metadata"]["resourceVersion"] == self.secret["metadata"]["resourceVersion"]
        return self._written("apply", body)

    def _written(self, verb: str, body: JsonObject) -> JsonObject:
        self.writes.append(verb)
        self.secret = deepcopy(body)
        self.secret["metadata"]["resourceVersion"] = str(len(self.writes))
        return deepcopy(self.secret)


def replica(api: Api, *, leading: bool = False) -> tuple[TableKey, list[SecretValue | None]]:
    """Return what looks after the key, and the keys that it told of."""
    told: list[SecretValue | None] = []
    key = TableKey(
        api=cast(KubeApi, api),
        secrets=SECRETS,
        namespace="aoai-system",
        name="aoai-operator",
        leading=lambda: leading,
        changed=lambda: told.append(key.key),
    )
    return key, told


@pytest.fixture
def api() -> Api:
    return Api()


async def test_it_is_made_once_and_all_have_the_same(api: Api) -> None:
    leader, told = replica(api, leading=True)
    follower, told_too = replica(api)
    for key in (leader, follower, leader, follower):
        await key.look()
    assert api.writes == ["create"]
    assert told == told_too == [leader.key]
    assert leader.key is not None
    assert api.secret is not None
    assert len(base64.b64decode(api.secret["data"]["key"])) == 32
    assert leader.key != replica(Api())[0].key


async def test_a_replica_that_starts_makes_it_whoever_leads(api: Api) -> None:
    """In an upgrade from a version without signatures, who leads does not know of it."""
    key, told = replica(api)
    await key.look()
    assert api.writes == ["create"]
    assert told == [key.key]


async def test_who_was_slower_takes_the_other_ones(api: Api) -> None:
    other = Api()
    await replica(other)[0].look()
    api.quicker = other.secret
    key, _ = replica(api)
    await key.look()
    assert not api.writes
    assert key.key is not None


async def test_one_that_is_deleted_is_made_anew_by_the_leader_alone(api: Api) -> None:
    leader, told = replica(api, leading=True)
    follower, _ = replica(api)
    await leader.look()
    await follower.look()
    api.secret = None
    await follower.look()
    assert follower.key == told[0]
    await leader.look()
    await follower.look()
    assert api.writes == ["create", "create"]
    assert told[0] != told[1] == follower.key


async def test_one_that_cannot_be_used_is_made_anew_by_the_leader_alone(api: Api) -> None:
    api.secret = {"metadata": {"resourceVersion": "7"}, "data": {"key": base64.b64encode(b"short").decode()}}
    follower, _ = replica(api)
    with capture_logs() as logs:
        await follower.look()
        await follower.look()
    assert [line["event"] for line in logs] == ["the key of the routing tables is not usable, a leader makes it anew"]
    assert follower.key is None
    leader, _ = replica(api, leading=True)
    await leader.look()
    await follower.look()
    assert api.writes == ["apply"]
    assert leader.key == follower.key is not None


async def test_while_it_cannot_be_read_the_last_one_is_kept_and_none_is_made(api: Api) -> None:
    api.away = True
    key, told = replica(api, leading=True)
    with capture_logs() as logs:
        await key.look()
        await key.look()
    assert [line["event"] for line in logs] == ["the key of the routing tables cannot be read now"]
    assert key.key is None
    api.away = False
    await key.look()
    api.away = True
    await key.look()
    assert api.writes == ["create"]
    assert told == [key.key]


async def test_a_start_does_not_wait_for_the_next_look(api: Api) -> None:
    """Its rights may be some moments younger than itself."""
    api.away = True
    key, told = replica(api)
    async with running(key.run()):
        await eventually(lambda: api.looks > 0)
        api.away = False
        await eventually(lambda: len(told) == 1, within=5)


async def test_who_begins_to_lead_looks_at_once(api: Api) -> None:
    key, told = replica(api, leading=True)
    async with running(key.run()):
        await eventually(lambda: len(told) == 1)
        api.secret = None
        key.wake()
        await eventually(lambda: len(told) == 2)


async def test_it_is_in_no_log(api: Api) -> None:
    key, _ = replica(api, leading=True)
    with capture_logs() as logs:
        await key.look()
    assert key.key is not None
    assert api.secret is not None
    assert key.key.reveal() not in repr(logs)
    assert api.secret["data"]["key"] not in repr(logs)

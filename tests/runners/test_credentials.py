"""The writer of tenants' Secrets: what it says where it cannot write, and that it leaves alone what is not theirs."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from aoai_operator.adapters.kube.secrets import SecretReader
from aoai_operator.cluster import credentials as module
from aoai_operator.cluster.credentials import CredentialWriter
from aoai_operator.cluster.resources import Resources
from aoai_operator.core.api import AOAIBackendPool, TenantQuota, parse
from aoai_operator.core.generated import Address
from aoai_operator.core.names import PoolKey, SecretRef
from aoai_operator.ports import JsonObject, KubeApi, KubeError
from support.raw import raw_pool, raw_tenant
from support.waiting import eventually

TENANT, UID = PoolKey("ai", "team"), "uid-of-team"


class World:
    """An API server with one Secret at most, and one tenant that asks for it; a mock, as refusals matter here."""

    def __init__(self, *, url: str = "http://gateway.aoai.svc", **credentials: str) -> None:
        raw = raw_tenant()
        raw["metadata"] = {"namespace": "ai", "name": "team"}
        raw["spec"] |= {"poolRefs": [{"name": "chat"}], "credentials": {"generateSecret": "made", **credentials}}
        pool = parse(raw_pool() | {"metadata": {"namespace": "ai", "name": "chat"}})
        quota = parse(raw)
        assert isinstance(pool, AOAIBackendPool)
        assert isinstance(quota, TenantQuota)
        reference = {"apiVersion": "aoai.dev/v1alpha1", "kind": "TenantQuota", "metadata": {"name": "team"}}
        known = SimpleNamespace(parsed=quota, uid=UID, generation=1, reference=reference)
        pools = {PoolKey("ai", "chat"): SimpleNamespace(parsed=pool)}
        self.secret: JsonObject | None = None
        self.refusal: KubeError | None = None
        self.values: dict[SecretRef, Any] = {}
        self.writes = 0
        self.told = 0
        self.writer = CredentialWriter(
            api=cast(KubeApi, self),
            resources=cast(Resources, SimpleNamespace(quotas={TENANT: known}, pools=pools)),
            secrets=cast(SecretReader, self),
            address=Address(url),
            changed=self._changed,
            now=lambda: 1_795_000_000_000,
        )

    def _changed(self) -> None:
        self.told += 1

    def refresh(self, _names: object) -> None:
        """Read the Secret again, as SecretReader does."""
        self.values = {SecretRef("ai", "made", name): name for name in (self.secret or {}).get("data", {})}

    async def get(self, _resource: object, _key: PoolKey) -> JsonObject | None:
        return self.secret

    async def create(self, _resource: object, body: JsonObject) -> JsonObject:
        if self.refusal is not None:
            raise self.refusal
        assert self.secret is None
        return await self._write(body)

    async def replace(self, _resource: object, body: JsonObject) -> JsonObject:
        assert self.secret is not None
        assert body["metadata"]["resourceVersion"] == self.secret["metadata"]["resourceVersion"]
        return await self._write(body)

    async def _write(self, body: JsonObject) -> JsonObject:
        self.writes += 1
        self.secret = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.writes)}}
        return self.secret

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.writer.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    @property
    def key(self) -> str:
        assert self.secret is not None
        return str(self.secret["data"]["OPENAI_API_KEY"])

    @property
    def why(self) -> str:
        return self.writer.unwritten.get(TENANT, "")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_LOOK", "_AGAIN"):
        monkeypatch.setattr(module, name, 0.01)


async def test_it_is_written_once_and_is_the_tenants(capsys: pytest.CaptureFixture[str]) -> None:
    world = World()
    async with world.running():
        await eventually(lambda: world.secret is not None)
    assert world.secret is not None
    assert world.writes == 1
    (owner,) = world.secret["metadata"]["ownerReferences"]
    assert (owner["uid"], owner["controller"]) == (UID, True)
    key = base64.b64decode(world.secret["data"]["OPENAI_API_KEY"]).decode()
    assert len(key) > 40
    out = capsys.readouterr()
    assert key not in out.out + out.err
    assert world.why == ""


async def test_a_refusal_is_told_and_tried_again() -> None:
    world = World()
    world.refusal = KubeError(403, "Forbidden", "cannot create resource secrets")
    async with world.running():
        await eventually(lambda: world.why)
        assert world.why == "the API server refuses it: cannot create resource secrets"
        world.refusal = None
        await eventually(lambda: world.secret is not None and not world.why)
    assert world.told == 2


@pytest.mark.parametrize("owners", [None, [], [{"uid": "uid-of-somebody"}]])
async def test_somebody_elses_is_never_written(owners: list[JsonObject] | None) -> None:
    world = World()
    world.secret = theirs = {"metadata": {"resourceVersion": "7", "ownerReferences": owners}, "data": {"a": "Yg=="}}
    async with world.running():
        await eventually(lambda: world.why)
        assert "belongs to somebody else" in world.why
        await eventually(lambda: world.told)
    assert world.secret is theirs
    assert world.writes == 0


async def test_where_nobody_knows_the_address_nothing_is_written() -> None:
    world = World(url="")
    async with world.running():
        await eventually(lambda: "--gateway-url" in world.why)
    assert world.secret is None


async def test_one_that_is_gone_is_written_with_another_key() -> None:
    world = World()
    async with world.running():
        await eventually(lambda: world.secret is not None)
        before = world.key
        world.secret, world.values = None, {}
        await eventually(lambda: world.secret is not None)
        assert world.key != before


async def test_entries_that_somebody_broke_are_mended() -> None:
    world = World()
    async with world.running():
        await eventually(lambda: world.secret is not None)
        assert world.secret is not None
        world.secret["data"] |= {"OPENAI_API_KEY": "!!", "OPENAI_BASE_URL": "eA=="}
        world.values = {}
        await eventually(lambda: world.writes == 2)
    data = {name: base64.b64decode(text).decode() for name, text in world.secret["data"].items()}
    assert data["OPENAI_BASE_URL"] == "http://gateway.aoai.svc/ai/chat/openai/v1"
    assert data["OPENAI_API_KEY"] == data["AZURE_OPENAI_API_KEY"]


@pytest.mark.parametrize("told", [{}, {"aoai.dev/rotated-at": "yesterday"}])
async def test_a_key_whose_age_nobody_knows_is_replaced_and_good_for_the_overlap(told: dict[str, str]) -> None:
    world = World(rotateEvery="48h")
    async with world.running():
        await eventually(lambda: world.secret is not None)
        assert world.secret is not None
        before = world.key
        world.secret["metadata"]["annotations"] = told
        world.values = {}
        await eventually(lambda: world.writes == 2)
    assert world.key != before
    assert world.secret["data"]["previous-api-key"] == before
    assert world.secret["metadata"]["annotations"] == {"aoai.dev/rotated-at": "2026-11-18T11:06:40Z"}

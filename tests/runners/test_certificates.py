"""The certificates' loop, on a small API server in memory."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest
from structlog.testing import capture_logs

from aoai_operator.adapters.kube.resources import CONFIG_MAPS, SECRETS
from aoai_operator.core.names import PoolKey
from aoai_operator.core.pki import Certificate, KeyPair, make_authority
from aoai_operator.core.rotation import read_authorities, read_leaf
from aoai_operator.ports import JsonObject, KubeApi, KubeError, Resource
from aoai_operator.runners.certificates import Certificates
from support.waiting import eventually

NS = "aoai-system"


class Api:
    """Keeps objects, and what was written."""

    def __init__(self) -> None:
        self.objects: dict[tuple[Resource, PoolKey], JsonObject] = {}
        self.writes: list[str] = []
        self.looks = 0
        self.away = False
        self.forbidden: set[str] = set()
        self.odd: Exception | None = None

    async def get(self, resource: Resource, key: PoolKey) -> JsonObject | None:
        self.looks += 1
        self._answer(key)
        return deepcopy(self.objects.get((resource, key)))

    async def apply(self, resource: Resource, body: JsonObject) -> JsonObject:
        key = PoolKey(body["metadata"]["namespace"], body["metadata"]["name"])
        self._answer(key)
        self.writes.append(str(key))
        self.objects[resource, key] = deepcopy(body)
        return body

    def _answer(self, key: PoolKey) -> None:
        if self.away or key.namespace in self.forbidden:
            raise KubeError(0, "Unreachable", "the API server is away")
        if self.odd:
            raise self.odd

    def data(self, name: str) -> dict[str, bytes]:
        found = self.objects[SECRETS, PoolKey(NS, name)]["data"]
        return {key: base64.b64decode(value) for key, value in found.items()}


class Replica:
    """One replica of the operator."""

    def __init__(self, api: Api, *, leading: bool = True) -> None:
        self.api = api
        self.leads: Callable[[], bool] = lambda: leading
        self.time = datetime(2026, 1, 1, tzinfo=UTC)
        self.namespaces = ["search"]
        self.served: list[tuple[KeyPair, tuple[Certificate, ...]]] = []
        self.runner = Certificates(
            api=cast(KubeApi, api),
            secrets=SECRETS,
            configmaps=CONFIG_MAPS,
            namespace=NS,
            name="aoai-operator",
            gateways=["default", "batch"],
            leading=lambda: self.leads(),  # noqa: PLW0108 - tests change it
            trusting=lambda: self.namespaces,
            served=lambda *own: self.served.append(own),
            now=lambda: self.time,
            trust_files={"trust.json": "{}"},
        )

    async def look(self) -> None:
        """Let it look once more. This API server answers at once, so a look that has begun is over."""
        before = self.api.looks
        self.runner.wake()
        await eventually(lambda: self.api.looks > before, what="it looked")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.runner.run())
        try:
            await self.look()
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def api() -> Api:
    return Api()


async def test_the_leader_makes_all_and_then_writes_no_more(api: Api) -> None:
    replica = Replica(api)
    async with replica.running():
        assert api.writes == [
            f"{NS}/aoai-operator-ca",
            f"{NS}/aoai-operator-server",
            f"{NS}/aoai-operator-gateway-default",
            f"{NS}/aoai-operator-gateway-batch",
            "search/aoai-operator-trust",
        ]
        await replica.look()
        assert len(api.writes) == 5
        assert len(replica.served) == 1
    server, trusted = read_leaf(api.data("aoai-operator-server"))
    assert replica.served == [(server, trusted)]
    assert server.certificate.names == {"aoai-operator-xds.aoai-system.svc", "spiffe://aoai.dev/operator"}
    gateway, _ = read_leaf(api.data("aoai-operator-gateway-batch"))
    assert gateway.certificate.names == {"spiffe://aoai.dev/gateway/batch"}
    assert all(leaf.certificate.signed_by(trusted[0]) for leaf in (server, gateway))
    trust = api.objects[CONFIG_MAPS, PoolKey("search", "aoai-operator-trust")]["data"]
    assert trust == {"ca.crt": trusted[0].pem.decode(), "trust.json": "{}"}


async def test_what_it_applies_is_whole(api: Api) -> None:
    async with Replica(api).running():
        body = api.objects[SECRETS, PoolKey(NS, "aoai-operator-server")]
    assert (body["apiVersion"], body["kind"], body["type"]) == ("v1", "Secret", "kubernetes.io/tls")
    assert body["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "aoai-operator"}
    assert set(body["data"]) == {"tls.crt", "tls.key", "ca.crt"}


async def test_a_follower_reads_and_never_writes(api: Api) -> None:
    follower = Replica(api, leading=False)
    async with follower.running():
        assert (api.writes, follower.served) == ([], [])
        async with Replica(api).running():
            pass
        before = len(api.writes)
        await follower.look()
        assert follower.served == [read_leaf(api.data("aoai-operator-server"))]
        assert len(api.writes) == before


async def test_who_stops_leading_while_it_works_writes_no_more(api: Api) -> None:
    replica = Replica(api)
    told = iter([True, True, True])
    replica.leads = lambda: next(told, False)
    async with replica.running():
        assert api.writes == [f"{NS}/aoai-operator-ca", f"{NS}/aoai-operator-server"]


async def test_leaves_are_renewed_and_the_new_authority_reaches_everybody(api: Api) -> None:
    replica = Replica(api)
    async with replica.running():
        replica.time += timedelta(days=2)
        await replica.look()
        assert len(replica.served) == 2
        replica.time += timedelta(days=242)
        await replica.look()
        held = read_authorities(api.data("aoai-operator-ca"))
        assert held.upcoming is not None
        assert replica.served[-1][1] == held.trusted
        assert len(held.trusted) == 2
        trust = api.objects[CONFIG_MAPS, PoolKey("search", "aoai-operator-trust")]["data"]["ca.crt"]
        assert trust.count("BEGIN CERTIFICATE") == 2
        assert all(
            read_leaf(api.data(f"aoai-operator-{leaf}"))[1] == held.trusted
            for leaf in ("server", "gateway-default", "gateway-batch")
        )


@pytest.mark.parametrize("suffix", ["ca", "server", "gateway-default"])
@pytest.mark.parametrize("broken", ["not base64 §", "", base64.b64encode(b"s3cret").decode()])
async def test_what_is_broken_is_made_anew_and_said(api: Api, suffix: str, broken: str) -> None:
    replica = Replica(api)
    async with replica.running():
        body = api.objects[SECRETS, PoolKey(NS, f"aoai-operator-{suffix}")]
        body["data"] = {**body["data"], "tls.key": broken}
        with capture_logs() as logs:
            await replica.look()
        line = next(line for line in logs if line["log_level"] == "error")
        assert line["secret"] == f"aoai-operator-{suffix}"
        assert "s3cret" not in repr(logs)
        held = read_authorities(api.data("aoai-operator-ca"))
        for leaf in ("server", "gateway-default", "gateway-batch"):
            assert read_leaf(api.data(f"aoai-operator-{leaf}"))[0].certificate.signed_by(held.signing.certificate)


async def test_somebody_elses_authority_is_replaced(api: Api) -> None:
    replica = Replica(api)
    async with replica.running():
        other = make_authority(now=replica.time, lifetime=timedelta(days=1)).certificate.pem
        api.objects[SECRETS, PoolKey(NS, "aoai-operator-ca")]["data"]["tls.crt"] = base64.b64encode(other).decode()
        await replica.look()
        assert read_authorities(api.data("aoai-operator-ca")).signing.certificate.pem != other


async def test_a_secret_that_is_gone_comes_back(api: Api) -> None:
    replica = Replica(api)
    async with replica.running():
        del api.objects[SECRETS, PoolKey(NS, "aoai-operator-gateway-default")]
        await replica.look()
        assert api.writes[5:] == [f"{NS}/aoai-operator-gateway-default"]


async def test_while_the_api_server_is_away_nothing_is_made_anew(api: Api) -> None:
    replica = Replica(api)
    async with replica.running():
        api.away = True
        with capture_logs() as logs:
            await replica.look()
        assert [line["event"] for line in logs] == ["certificates cannot be looked after now"]
        api.away = False
        await replica.look()
        assert len(api.writes) == 5


async def test_one_namespace_that_cannot_be_told_stops_no_other(api: Api) -> None:
    replica = Replica(api)
    replica.namespaces = ["gone", "search"]
    api.forbidden.add("gone")
    async with replica.running():
        assert api.writes[-1] == "search/aoai-operator-trust"


async def test_a_server_secret_that_is_broken_keeps_the_last_one_serving(api: Api) -> None:
    replica = Replica(api)
    async with replica.running():
        replica.leads = lambda: False
        api.objects[SECRETS, PoolKey(NS, "aoai-operator-server")]["data"] = None
        await replica.look()
        assert len(replica.served) == 1


async def test_what_nobody_expected_is_said_once_and_tried_again(api: Api) -> None:
    replica = Replica(api)
    api.odd = ValueError("what is this?")
    with capture_logs() as logs:
        async with replica.running():
            for _ in range(3):
                await replica.look()
            assert not api.writes
            api.odd = None
            await replica.look()
            await eventually(lambda: replica.served)
    assert [log["event"] for log in logs if log.get("exc_info")] == [
        "certificates cannot be looked after, they are tried again"
    ]

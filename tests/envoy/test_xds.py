"""The real Envoy, configured by our delta ADS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from aoai_operator.control_plane import ControlPlane
from aoai_operator.core.envoy.bootstrap import TcpAddress, UnixAddress, bootstrap
from aoai_operator.core.envoy.snapshot import Resource, Snapshot, TypeUrl
from aoai_operator.core.proxies import Proxy
from aoai_operator.core.world import Programming
from support.envoy import RunningEnvoy
from support.servers import Canned, answer, serving
from support.waiting import eventually

Json = dict[str, Any]
TYPE = "type.googleapis.com/envoy.extensions."
ADS: Json = {"ads": {}, "resource_api_version": "V3"}
GREETING = "function envoy_on_response(h) h:headers():replace('x-greeting', '{}') end"


def cluster(name: str, *, secret: str | None = None, **changes: Any) -> tuple[TypeUrl, Resource]:
    body: Json = {
        "name": name,
        "type": "EDS",
        "connect_timeout": "1s",
        "eds_cluster_config": {"eds_config": ADS},
        **changes,
    }
    if secret is not None:
        body["typed_extension_protocol_options"] = {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": TYPE + "upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http_protocol_options": {}},
                "http_filters": [
                    {
                        "name": "credential",
                        "typed_config": {
                            "@type": TYPE + "filters.http.credential_injector.v3.CredentialInjector",
                            "overwrite": True,
                            "credential": {
                                "name": "key",
                                "typed_config": {
                                    "@type": TYPE + "http.injected_credentials.generic.v3.Generic",
                                    "credential": {"name": secret, "sds_config": ADS},
                                    "header": "api-key",
                                },
                            },
                        },
                    },
                    {"name": "codec", "typed_config": {"@type": TYPE + "filters.http.upstream_codec.v3.UpstreamCodec"}},
                ],
            }
        }
    return TypeUrl.CLUSTER, Resource(name, body, owner=name)


def endpoints(name: str, *ports: int) -> tuple[TypeUrl, Resource]:
    hosts = [
        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}} for port in ports
    ]
    return TypeUrl.ENDPOINT, Resource(name, {"cluster_name": name, "endpoints": [{"lb_endpoints": hosts}]}, owner=name)


def secret(name: str, value: str) -> tuple[TypeUrl, Resource]:
    return TypeUrl.SECRET, Resource(name, {"name": name, "generic_secret": {"secret": {"inline_string": value}}})


def lua(code: str) -> tuple[TypeUrl, Resource]:
    config = {"@type": TYPE + "filters.http.lua.v3.Lua", "default_source_code": {"inline_string": code}}
    return TypeUrl.EXTENSION, Resource("lua", {"name": "lua", "typed_config": config})


def routes(*clusters: str) -> tuple[TypeUrl, Resource]:
    body = {
        "name": "routes",
        "virtual_hosts": [
            {
                "name": "all",
                "domains": ["*"],
                "routes": [{"match": {"prefix": f"/{name}"}, "route": {"cluster": name}} for name in clusters],
            }
        ],
    }
    return TypeUrl.ROUTE, Resource("routes", body)


def listener(socket: Path, *, name: str = "default", **changes: Any) -> tuple[TypeUrl, Resource]:
    manager = {
        "@type": TYPE + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "rds": {"route_config_name": "routes", "config_source": ADS},
        "http_filters": [
            {
                "name": "lua",
                "config_discovery": {"config_source": ADS, "type_urls": [TYPE + "filters.http.lua.v3.Lua"]},
            },
            {"name": "router", "typed_config": {"@type": TYPE + "filters.http.router.v3.Router"}},
        ],
        **changes,
    }
    body = {
        "name": name,
        "address": {"pipe": {"path": str(socket)}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    return TypeUrl.LISTENER, Resource(name, body)


@dataclass
class Heard:
    """An observer that keeps the answers of the Envoys: type and names of each."""

    acks: list[tuple[TypeUrl, frozenset[str]]] = field(default_factory=list)
    nacks: list[tuple[TypeUrl, str, str]] = field(default_factory=list)
    connections: int = 0

    def connected(self, proxy: Proxy) -> None:  # noqa: ARG002 - the port's
        self.connections += 1

    def disconnected(self, proxy: Proxy) -> None: ...

    def acked(self, proxy: Proxy, type_url: TypeUrl, versions: Mapping[str, str]) -> None:  # noqa: ARG002 - the port's
        self.acks.append((type_url, frozenset(versions)))

    def nacked(self, proxy: Proxy, type_url: TypeUrl, versions: Mapping[str, str], message: str) -> None:  # noqa: ARG002 - the port's
        self.nacks += [(type_url, name, message) for name in versions]

    def settled(self, proxy: Proxy, version: str) -> None: ...


class Plane:
    """A control plane with what it told."""

    def __init__(self) -> None:
        self.heard = Heard()
        self.refused: list[tuple[TypeUrl, str, str]] = []
        self.settled: list[str] = []
        self.plane = ControlPlane(changed=lambda: None, meters=self.heard)
        self.gateway = self.plane.add(
            "g",
            refused=lambda url, name, _version, message: self.refused.append((url, name, message)),
            settled=self.settled.append,
        )

    def publish(self, *resources: tuple[TypeUrl, Resource]) -> Snapshot:
        snapshot = Snapshot.of(resources)
        self.gateway.publish(snapshot)
        return snapshot

    async def settle(self, *resources: tuple[TypeUrl, Resource]) -> None:
        snapshot = self.publish(*resources)
        await eventually(lambda: snapshot.version in self.settled, what="all is accepted")


@dataclass
class House:
    """A plane, an Envoy, and what is needed to talk through it."""

    plane: Plane
    envoy: RunningEnvoy
    socket: Path

    async def get(self, path: str) -> httpx.Response:
        transport = httpx.AsyncHTTPTransport(uds=str(self.socket))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            return await client.get(path)

    def basics(self, *ports: int, greeting: str = "hello", key: str = "k1") -> list[tuple[TypeUrl, Resource]]:
        return [
            secret("key", key),
            cluster("a", secret="key"),
            endpoints("a", *ports),
            lua(GREETING.format(greeting)),
            routes("a"),
            listener(self.socket),
        ]


@pytest.fixture
async def upstream() -> AsyncIterator[Canned]:
    async with serving(answer(200, "ok", connection="close")) as server:
        yield server


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    plane, address = Plane(), tmp_path / "xds.sock"
    async with plane.plane.serving(f"unix:{address}"), envoy_at(UnixAddress(str(address))) as envoy:
        yield House(plane, envoy, tmp_path / "gateway.sock")


@asynccontextmanager
async def envoy_at(address: UnixAddress | TcpAddress) -> AsyncIterator[RunningEnvoy]:
    unused = UnixAddress("unused")
    config = bootstrap(node_id="e", gateway="g", control_plane=address, admin=unused)
    async with RunningEnvoy(config) as envoy:
        yield envoy


async def test_all_types_arrive_and_changes_are_seen_live(house: House, upstream: Canned) -> None:
    await house.plane.settle(*house.basics(upstream.port))
    first = await house.get("/a")
    assert (first.status_code, first.headers["x-greeting"]) == (200, "hello")
    assert "api-key: k1" in upstream.requests[-1]

    await house.plane.settle(*house.basics(upstream.port, greeting="bye", key="k2"))

    async def changed() -> bool:
        return (await house.get("/a")).headers.get("x-greeting") == "bye" and "api-key: k2" in upstream.requests[-1]

    await eventually(changed)
    assert house.plane.heard.nacks == []
    assert house.plane.gateway.programming("a") == Programming(connected=1, programmed=1)


async def test_a_change_of_endpoints_sends_only_these(house: House, upstream: Canned) -> None:
    await house.plane.settle(*house.basics(upstream.port))
    house.plane.heard.acks.clear()
    await house.plane.settle(*house.basics(upstream.port, 1))
    assert house.plane.heard.acks == [(TypeUrl.ENDPOINT, frozenset({"a"}))]


async def test_a_change_of_a_cluster_keeps_it_serving(house: House, upstream: Canned) -> None:
    basics = house.basics(upstream.port)
    await house.plane.settle(*basics)
    await house.plane.settle(*basics, cluster("a", connect_timeout="2s", secret="key"))

    async def swapped() -> bool:
        assert (await house.get("/a")).status_code == 200
        return '"connect_timeout": "2s"' in await house.envoy.admin("/config_dump?resource=dynamic_active_clusters")

    await eventually(swapped, within=4)
    assert await house.envoy.stat("cluster.a.init_fetch_timeout") == 0


async def test_a_change_of_a_listener_keeps_it_serving(house: House, upstream: Canned) -> None:
    basics = house.basics(upstream.port)
    await house.plane.settle(*basics)
    await house.plane.settle(*basics, listener(house.socket, server_name="changed"))

    async def swapped() -> bool:
        response = await house.get("/a")
        assert response.status_code == 200
        return response.headers["server"] == "changed"

    await eventually(swapped, within=4)


async def test_a_new_pool_is_reachable_as_soon_as_its_route_is(house: House, upstream: Canned) -> None:
    basics = house.basics(upstream.port)
    await house.plane.settle(*basics)
    for name in ("b", "c", "d"):
        basics += [cluster(name), endpoints(name, upstream.port)]
    house.plane.publish(*basics, routes("a", "b", "c", "d"))
    statuses = set()

    async def reached() -> bool:
        statuses.add((await house.get("/d")).status_code)
        return 200 in statuses

    await eventually(reached)
    assert statuses <= {404, 200}


async def test_removed_resources_go_after_what_refers_to_them(house: House, upstream: Canned) -> None:
    basics = house.basics(upstream.port)
    await house.plane.settle(*basics, cluster("b"), endpoints("b", upstream.port), routes("a", "b"))
    assert (await house.get("/b")).status_code == 200
    house.plane.heard.acks.clear()
    await house.plane.settle(*basics)
    assert (await house.get("/b")).status_code == 404
    assert house.plane.heard.acks == [
        (TypeUrl.ROUTE, frozenset({"routes"})),
        (TypeUrl.CLUSTER, frozenset({"b"})),
    ]
    assert "b::" not in await house.envoy.admin("/clusters")


async def test_bad_lua_is_refused_in_envoys_words_and_the_old_code_stays(house: House, upstream: Canned) -> None:
    await house.plane.settle(*house.basics(upstream.port))
    house.plane.publish(*house.basics(upstream.port), lua("function envoy_on_response(h"))
    await eventually(lambda: house.plane.refused)
    [(url, name, message)] = house.plane.refused
    assert (url, name) == (TypeUrl.EXTENSION, "lua")
    assert "script load error" in message
    assert (await house.get("/a")).headers["x-greeting"] == "hello"
    programming = house.plane.gateway.programming("a")
    assert (programming.connected, programming.programmed, programming.refusal) == (1, 0, message)

    await house.plane.settle(*house.basics(upstream.port, greeting="mended"))
    assert house.plane.gateway.programming("a") == Programming(1, 1)
    assert (await house.get("/a")).headers["x-greeting"] == "mended"
    assert len(house.plane.refused) == 1


async def test_a_bad_listener_is_refused_and_the_last_good_one_serves(house: House, upstream: Canned) -> None:
    basics = house.basics(upstream.port)
    await house.plane.settle(*basics)
    unknown = {"name": "x", "typed_config": {"@type": TYPE + "filters.http.nope.v3.Nope"}}
    house.plane.publish(*basics, listener(house.socket, http_filters=[unknown]))
    await eventually(lambda: house.plane.refused)
    assert house.plane.refused[0][:2] == (TypeUrl.LISTENER, "default")
    assert (await house.get("/a")).status_code == 200


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"lb_policy": "ROUND_ROBIN", "connect_timeout": "-1s"}, "Invalid duration", id="rule of a field"),
        pytest.param({"health_checks": [{"timeout": "1s"}]}, "HealthCheck", id="rule of a part"),
        pytest.param({"eds_cluster_config": None, "type": "EDS"}, "eds", id="refused when built"),
    ],
)
async def test_one_bad_cluster_keeps_no_other_from_arriving(
    house: House, upstream: Canned, changes: Json, words: str
) -> None:
    basics = house.basics(upstream.port)
    await house.plane.settle(*basics)
    more = [cluster("bad", **changes)]
    for name in ("b", "c", "d"):
        more += [cluster(name), endpoints(name, upstream.port)]
    house.plane.publish(*basics, *more, routes("a", "b", "c", "d"))

    async def served() -> bool:
        return [(await house.get(f"/{name}")).status_code for name in "abcd"] == [200] * 4

    await eventually(served, within=4)
    assert {(url, name) for url, name, _ in house.plane.refused} == {(TypeUrl.CLUSTER, "bad")}
    assert words.lower() in house.plane.refused[0][2].lower()


async def test_one_bad_list_of_endpoints_keeps_no_other_from_arriving(house: House, upstream: Canned) -> None:
    names = ("b", "c", "d", "e")
    clusters = [cluster(name) for name in names]
    basics = [*house.basics(upstream.port), *clusters, routes("a", *names)]
    await house.plane.settle(*basics, *(endpoints(name) for name in names))
    good = [endpoints(name, upstream.port) for name in names]
    bad = {"cluster_name": "c", "endpoints": [{"priority": 3, "lb_endpoints": []}, {"priority": 500}]}
    house.plane.publish(*basics, *good, (TypeUrl.ENDPOINT, Resource("c", bad, owner="c")))

    async def served() -> bool:
        return [(await house.get(f"/{name}")).status_code for name in "bde"] == [200] * 3

    await eventually(served, within=4)
    await eventually(lambda: house.plane.refused)
    assert {(url, name) for url, name, _ in house.plane.refused} == {(TypeUrl.ENDPOINT, "c")}
    assert house.plane.gateway.programming("b") == Programming(1, 1)
    assert house.plane.gateway.programming("c").programmed == 0


async def test_an_envoy_that_comes_back_is_sent_nothing_that_it_has(tmp_path: Path, upstream: Canned) -> None:
    address = tmp_path / "xds.sock"
    async with envoy_at(UnixAddress(str(address))) as envoy:
        house = House(Plane(), envoy, tmp_path / "gateway.sock")
        async with house.plane.plane.serving(f"unix:{address}"):
            await house.plane.settle(*house.basics(upstream.port))
            assert (await house.get("/a")).status_code == 200
        again = House(Plane(), envoy, house.socket)
        updates = await _updates(envoy)
        async with again.plane.plane.serving(f"unix:{address}"):
            await eventually(lambda: again.plane.heard.connections)
            assert (await again.get("/a")).status_code == 200
            await again.plane.settle(*again.basics(upstream.port))
            assert await _updates(envoy) == updates
            await again.plane.settle(*again.basics(upstream.port, greeting="again"))
            assert (await again.get("/a")).headers["x-greeting"] == "again"


async def _updates(envoy: RunningEnvoy) -> Sequence[str]:
    return (await envoy.admin("/stats?filter=update_success")).splitlines()


async def test_a_cluster_without_endpoints_does_not_delay_the_start(house: House) -> None:
    async with asyncio.timeout(10):
        await house.plane.settle(cluster("a"), lua(GREETING), routes("a"), listener(house.socket))
        await house.envoy.ready()
    assert (await house.get("/a")).status_code == 503


async def test_an_empty_snapshot_makes_envoy_ready(house: House) -> None:
    await house.plane.settle()
    await house.envoy.ready()

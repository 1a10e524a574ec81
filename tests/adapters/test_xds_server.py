"""The aggregated discovery service, spoken to by plain gRPC clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy.service.discovery.v3 import discovery_pb2
from prometheus_client import CollectorRegistry

from aoai_operator.adapters.grpc_server import serving
from aoai_operator.adapters.xds_cache import SnapshotCache
from aoai_operator.adapters.xds_resources import pack
from aoai_operator.adapters.xds_server import XdsServer
from aoai_operator.core.envoy.snapshot import Resource, Snapshot, TypeUrl
from aoai_operator.core.proxies import ProxyStates
from aoai_operator.metrics import Metrics
from support.waiting import eventually

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"


def cluster(name: str, *, size: int = 0) -> tuple[TypeUrl, Resource]:
    return TypeUrl.CLUSTER, Resource(name, {"name": name, "alt_stat_name": "x" * size})


class Client:
    """One stream to the server."""

    def __init__(self, channel: grpc.aio.Channel, node: str = "e", gateway: str = "g") -> None:
        call: Any = channel.stream_stream(
            METHOD,
            request_serializer=discovery_pb2.DeltaDiscoveryRequest.SerializeToString,
            response_deserializer=discovery_pb2.DeltaDiscoveryResponse.FromString,
        )
        self.stream: Any = call()
        self._node = {"id": node, "cluster": gateway}

    async def send(self, url: str = TypeUrl.CLUSTER, *names: str, **fields: Any) -> None:
        message = discovery_pb2.DeltaDiscoveryRequest(
            node=self._node, type_url=url, resource_names_subscribe=names, **fields
        )
        await self.stream.write(message)

    async def read(self) -> Any:
        return await asyncio.wait_for(self.stream.read(), 10)

    async def take(self) -> list[str]:
        """Read a response, acknowledge it, and return the names in it."""
        response = await self.read()
        await self.send(response.type_url, response_nonce=response.nonce)
        return [r.name for r in response.resources]


class Bench:
    """A server and what it observed."""

    def __init__(self) -> None:
        self.cache = SnapshotCache(pack)
        self.states = ProxyStates()
        self.registry = CollectorRegistry()
        self.server = XdsServer(self.cache, (self.states, Metrics(self.registry)), warming=0.05)
        self.snapshot = Snapshot.of(())

    def publish(self, *resources: tuple[TypeUrl, Resource], gateway: str = "g") -> None:
        self.snapshot = Snapshot.of(resources)
        self.cache.publish(gateway, self.snapshot)

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, {"gateway": "g", **labels}) or 0

    @property
    def connected(self) -> int:
        return self.states.programming("g", self.snapshot, "").connected


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
async def address(bench: Bench) -> AsyncIterator[str]:
    async with serving("127.0.0.1:0", [bench.server.handler()]) as port:
        yield f"127.0.0.1:{port}"


@pytest.fixture
async def channel(address: str) -> AsyncIterator[grpc.aio.Channel]:
    async with dialled(address) as channel:
        yield channel


@asynccontextmanager
async def dialled(address: str) -> AsyncIterator[grpc.aio.Channel]:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield channel


async def test_responses_carry_names_versions_and_bodies(bench: Bench, channel: grpc.aio.Channel) -> None:
    bench.publish(cluster("a"))
    client = Client(channel)
    await client.send()
    response = await client.read()
    [resource] = response.resources
    assert (response.type_url, resource.name) == (TypeUrl.CLUSTER, "a")
    assert resource.version == bench.snapshot.resources[TypeUrl.CLUSTER]["a"].version
    assert resource.resource.type_url == TypeUrl.CLUSTER
    assert response.system_version_info == bench.snapshot.version
    assert response.nonce


async def test_nothing_is_said_before_anything_is_known(bench: Bench, channel: grpc.aio.Channel) -> None:
    client = Client(channel)
    await client.send(TypeUrl.CLUSTER, initial_resource_versions={"a": "1"})
    await eventually(lambda: bench.connected)
    bench.publish(cluster("b"), gateway="another")
    bench.publish(cluster("b"))
    assert await client.take() == ["b"]


async def test_a_burst_becomes_one_response(bench: Bench, channel: grpc.aio.Channel) -> None:
    bench.publish(cluster("a"))
    client = Client(channel)
    await client.send()
    assert await client.take() == ["a"]
    for size in range(20):
        bench.publish(cluster("a"), cluster("b", size=size))
    await client.take()
    bench.publish(cluster("a"), cluster("b", size=19), cluster("last"))
    assert await client.take() == ["last"]


async def test_a_refusal_reaches_states_and_metrics(bench: Bench, channel: grpc.aio.Channel) -> None:
    bench.publish(cluster("a"))
    client = Client(channel)
    await client.send()
    response = await client.read()
    await client.send(response_nonce=response.nonce, error_detail={"code": 3, "message": "bad a"})
    await eventually(lambda: bench.states.programming("g", bench.snapshot, "").refusal == "bad a")
    assert bench.count("aoai_xds_answers_total", proxy="e", type="cluster", answer="nack") == 1
    bench.publish(cluster("a", size=1))
    await client.take()
    await eventually(lambda: bench.count("aoai_xds_answers_total", proxy="e", type="cluster", answer="ack") == 1)
    assert bench.states.programming("g", bench.snapshot, "").refusal is None


async def test_a_proxy_that_does_not_read_stops_no_other(bench: Bench, address: str, channel: grpc.aio.Channel) -> None:
    big = [cluster(f"c{i}", size=1 << 20) for i in range(8)]
    bench.publish(*big)
    async with dialled(address) as other:
        slow, quick = Client(other, "slow"), Client(channel, "quick")
        for client in (slow, quick):
            await client.send()
        assert len(await quick.take()) == 8
        for size in range(3):
            bench.publish(*big, cluster("x", size=size))
            assert await quick.take() == ["x"]
        slow.stream.cancel()
        await eventually(lambda: bench.connected == 1)


async def test_routes_are_held_back_for_a_while_only(bench: Bench, channel: grpc.aio.Channel) -> None:
    eds = {"name": "a", "type": "EDS", "eds_cluster_config": {"eds_config": {"ads": {}}}}
    bench.publish((TypeUrl.CLUSTER, Resource("a", eds)), (TypeUrl.ROUTE, Resource("r", {"name": "r"})))
    client = Client(channel)
    await client.send()
    assert await client.take() == ["a"]
    await client.send(TypeUrl.ROUTE, "r")
    assert await client.take() == ["r"]


async def test_a_type_that_we_do_not_serve_is_left_unanswered(bench: Bench, channel: grpc.aio.Channel) -> None:
    bench.publish(cluster("a"))
    client = Client(channel)
    await client.send("type.googleapis.com/envoy.service.runtime.v3.Runtime", "x")
    await client.send()
    assert await client.take() == ["a"]


async def test_a_proxy_must_say_who_it_is(channel: grpc.aio.Channel) -> None:
    client = Client(channel, node="")
    await client.send()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_stream_without_a_request_is_no_proxy(bench: Bench, channel: grpc.aio.Channel) -> None:
    client = Client(channel)
    await client.stream.done_writing()
    assert not await client.read()
    assert bench.connected == 0


async def test_connections_are_counted_in_and_out(bench: Bench, channel: grpc.aio.Channel) -> None:
    client = Client(channel)
    await client.send()
    await eventually(lambda: bench.connected == 1)
    assert bench.count("aoai_connected_proxies") == 1
    await client.stream.done_writing()
    await eventually(lambda: bench.connected == 0)
    assert bench.count("aoai_connected_proxies") == 0


async def test_it_serves_on_a_unix_socket(bench: Bench, tmp_path: Path) -> None:
    bench.publish(cluster("a"))
    address = f"unix:{tmp_path / 'xds.sock'}"
    async with serving(address, [bench.server.handler()]), dialled(address) as channel:
        client = Client(channel)
        await client.send()
        assert await client.take() == ["a"]


async def test_a_taken_port_is_an_error(bench: Bench, address: str) -> None:
    with pytest.raises(OSError, match="cannot serve gRPC on 127"):
        async with serving(address, [bench.server.handler()]):
            pass

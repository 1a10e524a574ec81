"""Envoys' ports with every proof that a client may show: a real gRPC server, and clients of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from envoy.service.discovery.v3 import discovery_pb2

from aoai_operator.adapters.grpc_server import TlsPorts, serving_tls
from aoai_operator.adapters.identity import Identities
from aoai_operator.adapters.xds_cache import SnapshotCache
from aoai_operator.adapters.xds_resources import pack
from aoai_operator.adapters.xds_server import XdsServer
from aoai_operator.core.audience import Audience, Placement
from aoai_operator.core.envoy.snapshot import Resource, Snapshot, TypeUrl
from aoai_operator.core.identity import Peer, PeerKind
from aoai_operator.core.pki import KeyPair, bundle
from aoai_operator.core.proxies import ProxyStates
from aoai_operator.ports import ReviewError, TokenReviewer
from support.pki import SERVER_NAME, Pki

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
GATEWAY = Audience("default", Placement.GATEWAY)
SIDECAR = Audience("default", Placement.SIDECAR, "search")


@dataclass
class Bench:
    """A server with the resources of two gateways, and what happened to it."""

    pki: Pki = field(default_factory=Pki)
    users: dict[str, str] = field(default_factory=lambda: {"good": "system:serviceaccount:search:api"})
    reviewed: list[str] = field(default_factory=list)
    opened: list[Audience] = field(default_factory=list)
    later: timedelta = timedelta(0)
    states: ProxyStates = field(default_factory=ProxyStates)
    peers: list[Peer] = field(default_factory=list)
    reviewer: TokenReviewer | None = None
    patience: float = 10

    def __post_init__(self) -> None:
        self.cache = SnapshotCache(pack)
        self.identities = Identities(review=self.reviewer or self.review, now=lambda: datetime.now(UTC) + self.later)
        for audience in (GATEWAY, SIDECAR, Audience("other", Placement.GATEWAY), Audience("default", Placement.POD)):
            self.publish(audience)
        self.server = XdsServer(
            self.cache,
            [self.states],
            identify=self.identities.audience,
            opened=self.opened.append,
            patience=self.patience,
        )
        self.certificate = self.pki.served()

    def publish(self, audience: Audience) -> None:
        resource = Resource(str(audience), {"name": str(audience)})
        self.cache.publish(str(audience), Snapshot.of([(TypeUrl.CLUSTER, resource)]))

    async def review(self, token: str, _caller: str) -> str | None:
        self.reviewed.append(token)
        if token == "unknown":
            raise ReviewError("the API server is away")
        return self.users.get(token)

    def peers_only(self) -> grpc.GenericRpcHandler[Any, Any]:
        """Return a service that only the operator may call."""

        async def call(request: bytes, context: Any) -> bytes:
            self.peers.append(await self.identities.admit(context, {PeerKind.OPERATOR}))
            return b"ok"

        return grpc.method_handlers_generic_handler("peers", {"Call": grpc.unary_unary_rpc_method_handler(call)})


@asynccontextmanager
async def served(bench: Bench, **options: Any) -> AsyncIterator[TlsPorts]:
    handlers = [bench.server.handler(), bench.peers_only()]
    async with serving_tls(
        handlers, certificate=bench.certificate, certificates="127.0.0.1:0", tokens="127.0.0.1:0", **options
    ) as ports:
        yield ports


@asynccontextmanager
async def dialled(bench: Bench, port: int | None, pair: KeyPair | None = None) -> AsyncIterator[grpc.aio.Channel]:
    credentials = grpc.ssl_channel_credentials(
        bundle(bench.pki.trusted), pair.key if pair else None, pair.certificate.pem if pair else None
    )
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.ssl_target_name_override", SERVER_NAME)]
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as channel:
        yield channel


def stream(channel: grpc.aio.Channel, token: str | None = None) -> Any:
    call: Any = channel.stream_stream(
        METHOD,
        request_serializer=discovery_pb2.DeltaDiscoveryRequest.SerializeToString,
        response_deserializer=discovery_pb2.DeltaDiscoveryResponse.FromString,
    )
    return call(metadata=[("authorization", f"Bearer {token}")] if token is not None else [])


async def learnt(channel: grpc.aio.Channel, *, token: str | None = None, gateway: str = "default") -> list[str]:
    """Open a stream and return the names of what comes first."""
    call = stream(channel, token)
    await call.write(
        discovery_pb2.DeltaDiscoveryRequest(node={"id": "pod-1", "cluster": gateway}, type_url=TypeUrl.CLUSTER)
    )
    response = await asyncio.wait_for(call.read(), 10)
    return [resource.name for resource in response.resources]


async def refusal(channel: grpc.aio.Channel, **claims: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await learnt(channel, **claims)
    return caught.value.code(), caught.value.details() or ""


async def called(channel: grpc.aio.Channel) -> Any:
    """Call the service that is for peers only."""
    call: Any = channel.unary_unary("/peers/Call", request_serializer=bytes, response_deserializer=bytes)
    return await asyncio.wait_for(call(b""), 10)

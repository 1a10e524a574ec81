"""Who may have what: gRPC clients with every kind of proof, against the real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy.service.discovery.v3 import discovery_pb2
from structlog.testing import capture_logs

from aoai_operator.adapters.grpc_server import ServerCertificate, TlsPorts, serving, serving_tls
from aoai_operator.adapters.identity import Identities
from aoai_operator.adapters.xds_server import XdsServer
from aoai_operator.core.envoy.snapshot import Resource, Snapshot, TypeUrl
from aoai_operator.core.identity import Peer, PeerKind
from aoai_operator.core.pki import OPERATOR_ID
from support.identity import GATEWAY, SIDECAR, Bench, called, dialled, learnt, refusal, served, stream
from support.pki import Pki
from support.waiting import eventually


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    with capture_logs() as captured:
        yield captured


@pytest.fixture
async def ports(bench: Bench) -> AsyncIterator[TlsPorts]:
    async with served(bench) as ports:
        yield ports


async def test_a_gateways_certificate_gets_its_gateway(bench: Bench, ports: TlsPorts) -> None:
    async with dialled(bench, ports.certificates, bench.pki.gateway()) as channel:
        assert await learnt(channel) == ["default/gateway"]
        assert bench.opened == [GATEWAY]


async def test_a_certificate_says_nothing_of_another_gateway(bench: Bench, ports: TlsPorts, logs: list[Any]) -> None:
    async with dialled(bench, ports.certificates, bench.pki.gateway("other")) as channel:
        code, message = await refusal(channel)
    assert (code, message) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "its certificate is for the gateway 'other', not for 'default'",
    )
    [line] = [line for line in logs if line["event"] == "refused"]
    assert (line["peer"], line["proxy"], line["gateway"], line["why"]) == ("gateway other", "pod-1", "default", message)
    assert line["address"].startswith("ipv4:127.0.0.1:")
    assert not bench.opened


@pytest.mark.parametrize("kind", ["none", "expired", "foreign", "server's own authority is no leaf"])
async def test_without_a_good_certificate_there_is_no_connection(bench: Bench, ports: TlsPorts, kind: str) -> None:
    pair = {
        "none": None,
        "expired": bench.pki.expired(),
        "foreign": Pki().gateway(),
        "server's own authority is no leaf": bench.pki.authority,
    }[kind]
    async with dialled(bench, ports.certificates, pair) as channel:
        code, _ = await refusal(channel)
    assert code is grpc.StatusCode.UNAVAILABLE
    assert not bench.opened


async def test_a_certificate_that_ends_after_the_handshake_is_refused(bench: Bench, ports: TlsPorts) -> None:
    bench.later = timedelta(days=3)
    async with dialled(bench, ports.certificates, bench.pki.gateway()) as channel:
        code, message = await refusal(channel)
    assert (code, message) == (
        grpc.StatusCode.UNAUTHENTICATED,
        "the client certificate is over, or not valid yet",
    )


@pytest.mark.parametrize("uri", ["spiffe://aoai.dev/gateway/a/b", "spiffe://elsewhere/gateway/default", OPERATOR_ID])
async def test_other_certificates_of_the_authority_are_no_proxies(bench: Bench, ports: TlsPorts, uri: str) -> None:
    async with dialled(bench, ports.certificates, bench.pki.other(uri)) as channel:
        code, _ = await refusal(channel)
    assert code in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}
    assert not bench.opened


async def test_a_token_gets_what_its_namespace_may_have(bench: Bench, ports: TlsPorts) -> None:
    async with dialled(bench, ports.tokens) as channel:
        assert await learnt(channel, token="good") == ["default/sidecar/search"]
    assert bench.opened == [SIDECAR]


@pytest.mark.parametrize("token", ["bad", "", "x" * 20_000, None])
async def test_other_tokens_get_nothing(bench: Bench, ports: TlsPorts, token: str | None) -> None:
    async with dialled(bench, ports.tokens) as channel:
        code, _ = await refusal(channel, token=token)
    assert code in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert not bench.opened


@pytest.mark.parametrize("user", ["jane", "system:serviceaccount:search", "system:node:n1", ""])
async def test_only_service_accounts_are_proxies(bench: Bench, ports: TlsPorts, user: str) -> None:
    bench.users["good"] = user
    async with dialled(bench, ports.tokens) as channel:
        code, _ = await refusal(channel, token="good")
    assert code is grpc.StatusCode.UNAUTHENTICATED


async def test_a_claim_that_is_no_name_is_refused(bench: Bench, ports: TlsPorts) -> None:
    async with dialled(bench, ports.tokens) as channel:
        code, message = await refusal(channel, token="good", gateway="other/gateway")
    assert (code, message) == (grpc.StatusCode.PERMISSION_DENIED, "node.cluster is no name of a gateway")


async def test_while_tokens_cannot_be_judged_proxies_wait(bench: Bench, ports: TlsPorts) -> None:
    async with dialled(bench, ports.tokens) as channel:
        code, _ = await refusal(channel, token="unknown")
        assert code is grpc.StatusCode.UNAVAILABLE
        await refusal(channel, token="unknown")
    assert bench.reviewed == ["unknown", "unknown"]


async def test_tokens_are_not_accepted_where_there_are_no_sidecars(bench: Bench) -> None:
    bench.server = XdsServer(bench.cache, [], identify=Identities().audience)
    async with served(bench) as ports, dialled(bench, ports.tokens) as channel:
        code, message = await refusal(channel, token="good")
    assert (code, message) == (grpc.StatusCode.UNAUTHENTICATED, "service-account tokens are not accepted here")


async def test_a_token_is_never_logged(bench: Bench, ports: TlsPorts, logs: list[Any]) -> None:
    async with dialled(bench, ports.tokens) as channel:
        await refusal(channel, token="s3cret")
        await refusal(channel, token="unknown")
    assert "s3cret" not in repr(logs)


async def test_equal_names_in_two_audiences_are_two_proxies(bench: Bench, ports: TlsPorts) -> None:
    async with (
        dialled(bench, ports.certificates, bench.pki.gateway()) as one,
        dialled(bench, ports.tokens) as two,
    ):
        await learnt(one)
        await learnt(two, token="good")
        for audience in (GATEWAY, SIDECAR):
            snapshot = Snapshot.of([(TypeUrl.CLUSTER, Resource(str(audience), {"name": str(audience)}))])
            assert bench.states.programming(str(audience), snapshot, "").connected == 1


async def test_who_reaches_the_pods_socket_is_the_pods_proxy(bench: Bench, tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 'xds'}"
    async with serving(address, [bench.server.handler()]), grpc.aio.insecure_channel(address) as channel:
        assert await learnt(channel) == ["default/pod"]


async def test_who_comes_without_tls_is_nobody(bench: Bench) -> None:
    async with (
        serving("127.0.0.1:0", [bench.server.handler()]) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        code, message = await refusal(channel, token="good")
    assert (code, message) == (grpc.StatusCode.UNAUTHENTICATED, "the connection is not encrypted")


async def test_only_the_operator_is_a_peer(bench: Bench, ports: TlsPorts) -> None:
    async with dialled(bench, ports.certificates, bench.pki.server()) as channel:
        assert await called(channel) == b"ok"
    assert bench.peers == [Peer(PeerKind.OPERATOR)]
    async with dialled(bench, ports.certificates, bench.pki.gateway()) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="this is not for a gateway") as caught:
            await called(channel)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_new_server_certificate_and_new_trust_count_at_once(bench: Bench, ports: TlsPorts) -> None:
    old = bench.pki.gateway()
    async with dialled(bench, ports.certificates, old) as channel:
        call = stream(channel)
        await call.write(
            discovery_pb2.DeltaDiscoveryRequest(node={"id": "a", "cluster": "default"}, type_url=TypeUrl.CLUSTER)
        )
        await call.read()
        bench.pki = Pki()
        bench.certificate.renew(bench.pki.server(), bench.pki.trusted)
        async with dialled(bench, ports.certificates, bench.pki.gateway()) as new:
            assert await learnt(new) == ["default/gateway"]
        async with dialled(bench, ports.certificates, old) as gone:
            code, _ = await refusal(gone)
            assert code is grpc.StatusCode.UNAVAILABLE
        bench.cache.publish(str(GATEWAY), Snapshot.of([(TypeUrl.CLUSTER, Resource("new", {"name": "new"}))]))
        await call.write(discovery_pb2.DeltaDiscoveryRequest(type_url=TypeUrl.CLUSTER, response_nonce="1"))
        response = await asyncio.wait_for(call.read(), 10)
        assert [one.name for one in response.resources] == ["new"]


async def test_a_connection_ends_after_its_time(bench: Bench) -> None:
    async with served(bench, lifetime=0.1) as ports, dialled(bench, ports.tokens) as channel:
        call = stream(channel, "good")
        await call.write(
            discovery_pb2.DeltaDiscoveryRequest(node={"id": "a", "cluster": "default"}, type_url=TypeUrl.CLUSTER)
        )
        await call.read()
        await eventually(call.done, what="the stream is over")
        assert await learnt(channel, token="good") == ["default/sidecar/search"]


async def test_a_taken_port_is_an_error(bench: Bench, ports: TlsPorts) -> None:
    taken = f"127.0.0.1:{ports.certificates}"
    certificate = ServerCertificate(bench.pki.server(), bench.pki.trusted)
    with pytest.raises(OSError, match="cannot serve gRPC on 127"):
        async with serving_tls([], certificate=certificate, certificates=taken, tokens=None):
            pass

"""A server that proxies must prove themselves to, and real Envoys with what they prove it by."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc
import httpx

from aoai_operator.adapters.grpc_server import TlsPorts, serving_tls
from aoai_operator.adapters.identity import Identities
from aoai_operator.adapters.xds_cache import SnapshotCache
from aoai_operator.adapters.xds_resources import pack
from aoai_operator.adapters.xds_server import XdsServer
from aoai_operator.core.audience import Audience, Placement
from aoai_operator.core.envoy.accesslogs import GATEWAY_METADATA, access_log
from aoai_operator.core.envoy.bootstrap import MutualTls, TcpAddress, Token
from aoai_operator.core.envoy.control_plane import sds_files
from aoai_operator.core.envoy.settings import GatewaySettings
from aoai_operator.core.envoy.snapshot import Resource, Snapshot, TypeUrl
from aoai_operator.core.pki import KeyPair
from aoai_operator.core.proxies import Proxy
from support.pki import SERVER_NAME, Pki
from support.waiting import eventually

HTTP_FILTERS = "type.googleapis.com/envoy.extensions.filters."
GATEWAY = Audience("default", Placement.GATEWAY)
OTHER = Audience("other", Placement.GATEWAY)
SIDECAR = Audience("default", Placement.SIDECAR, "search")
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Never used. To make httpx's own takes so long that a load would leave the server no time."""
Access = TypeVar("Access", MutualTls, Token)


def resources(socket: Path, text: str, gateway: str) -> list[tuple[TypeUrl, Resource]]:
    """Return a gateway that answers each request with a text, and logs it to the control plane."""
    settings = GatewaySettings(gateway=gateway, listen_host="", listen_port=0, access_log=None)
    manager = {
        "@type": HTTP_FILTERS + "network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "access_log": [access_log(settings, "line")],
        "rds": {"route_config_name": "routes", "config_source": {"ads": {}, "resource_api_version": "V3"}},
        "http_filters": [{"name": "router", "typed_config": {"@type": HTTP_FILTERS + "http.router.v3.Router"}}],
    }
    chains = [{"filters": [{"name": "http", "typed_config": manager}]}]
    listener = {"name": "in", "address": {"pipe": {"path": str(socket)}}, "filter_chains": chains}
    reply = {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": text}}}
    hosts = [{"name": "all", "domains": ["*"], "routes": [reply]}]
    return [
        (TypeUrl.LISTENER, Resource("in", listener)),
        (TypeUrl.ROUTE, Resource("routes", {"name": "routes", "virtual_hosts": hosts})),
    ]


class House:
    """A server by TLS, and the volumes of the pods that dial it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.pki = Pki()
        self.certificate = self.pki.served()
        self.users = {"token-1": "system:serviceaccount:search:api", "token-2": "system:serviceaccount:search:api"}
        self.tokens: list[str] = []
        self.shown: list[bytes] = []
        self.came: list[Audience] = []
        self.logged: list[Audience] = []
        self.ports = TlsPorts(0, 0)
        self._cache = SnapshotCache(pack)
        self._identities = Identities(review=self._review)
        self.server = XdsServer(self._cache, [], identify=self._identify)
        for audience in (GATEWAY, OTHER, SIDECAR):
            self.publish(audience, str(audience))

    def publish(self, audience: Audience, text: str) -> None:
        self._cache.publish(str(audience), Snapshot.of(resources(self.socket(audience), text, audience.gateway)))

    def socket(self, audience: Audience) -> Path:
        return self.directory / str(audience).replace("/", "-")

    async def _review(self, token: str, _caller: str) -> str | None:
        self.tokens.append(token)
        return self.users.get(token)

    async def _identify(self, context: Any, claimed: Proxy) -> Audience:
        self.shown += context.auth_context().get("x509_pem_cert", [])
        audience = await self._identities.audience(context, claimed)
        self.came.append(audience)
        return audience

    def logs(self) -> grpc.GenericRpcHandler[Any, Any]:
        """Return a logs service that keeps who sent a log."""

        async def export(request: bytes, context: Any) -> bytes:
            gateway = dict(context.invocation_metadata())[GATEWAY_METADATA]
            self.logged.append(await self._identities.audience(context, Proxy("", gateway)))
            return b""

        handlers = {"Export": grpc.unary_unary_rpc_method_handler(export)}
        return grpc.method_handlers_generic_handler("opentelemetry.proto.collector.logs.v1.LogsService", handlers)

    def volume(self, name: str, pair: KeyPair | None = None, *, token: str | None = None) -> Path:
        """Write a pod's volume, or update it."""
        self.pki.volume(self.directory / name, pair, token=token)
        return self.directory / name

    def mutual(self, name: str, pair: KeyPair, *, host: str = "127.0.0.1") -> MutualTls:
        """Return how a proxy with a certificate comes here."""
        volume = str(self.volume(name, pair))
        address = TcpAddress(host, self.ports.certificates)
        return self._with_files(MutualTls(address, SERVER_NAME, certificates=volume, sds=f"{volume}-sds"))

    def token(self, name: str, token: str | None) -> Token:
        """Return how a proxy with a token comes here."""
        volume = str(self.volume(name, token=token))
        address = TcpAddress("127.0.0.1", self.ports.tokens or 0)
        return self._with_files(Token(address, SERVER_NAME, trust=volume, token=f"{volume}/token", sds=f"{volume}-sds"))

    def _with_files(self, access: Access) -> Access:
        Path(access.sds).mkdir()
        for name, content in sds_files(access).items():
            (Path(access.sds) / name).write_text(json.dumps(content))
        return access

    async def get(self, audience: Audience) -> str:
        """Ask the gateway, once."""
        transport = httpx.AsyncHTTPTransport(uds=str(self.socket(audience)), verify=NO_TLS)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            return (await client.get("/")).raise_for_status().text

    async def says(self, audience: Audience, text: str) -> None:
        """Wait until the gateway says what was published."""

        async def does() -> bool:
            try:
                return await self.get(audience) == text
            except httpx.TransportError:
                return False

        await eventually(does, what=f"{audience} says {text}")

    async def carries(self, audience: Audience, text: str) -> None:
        """Publish a change, and wait until it has arrived."""
        self.publish(audience, text)
        await self.says(audience, text)

    @asynccontextmanager
    async def load(self, audience: Audience) -> AsyncIterator[None]:
        """Ask all the time while the block runs; each request must succeed."""
        over, answered = asyncio.Event(), 0

        async def ask() -> None:
            nonlocal answered
            while not over.is_set():
                await self.get(audience)
                answered += 1
                # The load's rate: the server lives in the same process.
                await asyncio.sleep(0.01)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(ask())
            try:
                yield
            finally:
                over.set()
        assert answered


@asynccontextmanager
async def running(house: House, *, lifetime: float = 3600) -> AsyncIterator[House]:
    async with serving_tls(
        [house.server.handler(), house.logs()],
        certificate=house.certificate,
        certificates="127.0.0.1:0",
        tokens="127.0.0.1:0",
        lifetime=lifetime,
    ) as house.ports:
        yield house

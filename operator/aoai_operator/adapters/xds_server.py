"""The aggregated discovery service, incremental (delta) form only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
import structlog
from envoy.service.discovery.v3 import discovery_pb2

from aoai_operator.core.audience import Audience
from aoai_operator.core.envoy.delta import Acked, Outcome, Request, Response
from aoai_operator.core.envoy.snapshot import TypeUrl
from aoai_operator.core.envoy.stream import DeltaStream
from aoai_operator.core.proxies import Proxy
from aoai_operator.ports import Identify, SnapshotSource, XdsObserver

_SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
_COALESCE = 0.02
_WARMING = 5.0
_PATIENCE = 10.0

_log = structlog.get_logger("xds")


class XdsServer:
    """Tells each connected Envoy what changed, in make-before-break order.

    Every stream compares what its Envoy holds with the current snapshot and sends the difference, one response a
    type at a time. So a slow Envoy delays nobody, and skips what is out of date when it is ready for more.
    """

    def __init__(
        self,
        source: SnapshotSource,
        observers: Sequence[XdsObserver],
        *,
        identify: Identify | None = None,
        opened: Callable[[Audience], None] = lambda _: None,
        coalesce: float = _COALESCE,
        warming: float = _WARMING,
        patience: float = _PATIENCE,
    ) -> None:
        """Take what to serve and whom to tell.

        Args:
            source: the snapshots.
            observers: hear of connections, ACKs and NACKs.
            identify: finds out the audience of each proxy, whose text is then its gateway for the source and the
                observers; None: on a private socket, where what a proxy claims is believed.
            opened: hears the audience of each proxy that connects, before the source is asked for it.
            coalesce: seconds in which several changes of a gateway become one.
            warming: seconds after which new routes are sent although Envoy has not warmed their clusters.
            patience: seconds for which a stream may say nothing at its beginning; nobody knows who that is.
        """
        self._source = source
        self._observers = observers
        self._identify = identify
        self._opened = opened
        self._coalesce = coalesce
        self._warming = warming
        self._patience = patience
        self._streams: dict[str, set[_Connection]] = {}
        self._due: set[str] = set()
        source.watch(self._changed)

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """Return the service, to be put on a server."""
        method = grpc.stream_stream_rpc_method_handler(
            self._stream,
            request_deserializer=discovery_pb2.DeltaDiscoveryRequest.FromString,
            response_serializer=discovery_pb2.DeltaDiscoveryResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(_SERVICE, {"DeltaAggregatedResources": method})

    def _changed(self, gateway: str) -> None:
        if gateway in self._streams and gateway not in self._due:
            self._due.add(gateway)
            asyncio.get_running_loop().call_later(self._coalesce, self._wake, gateway)

    def _wake(self, gateway: str) -> None:
        self._due.discard(gateway)
        for connection in self._streams.get(gateway, ()):
            connection.wake.set()

    async def _stream(self, requests: AsyncIterator[Any], context: Any) -> None:
        try:
            async with asyncio.timeout(self._patience):
                first = await anext(requests, None)
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "nothing was asked for")
            return
        if first is None:
            return
        if not (first.node.id and first.node.cluster):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "node.id and node.cluster must be set")
        proxy = await self._known(Proxy(first.node.id, first.node.cluster), context)
        connection = _Connection(proxy, self._source, self._observers, self._warming)
        streams = self._streams.setdefault(proxy.gateway, set())
        streams.add(connection)
        for observer in self._observers:
            observer.connected(proxy)
        _log.info("an Envoy connected", proxy=proxy.id, gateway=proxy.gateway)
        try:
            connection.receive(first)
            await connection.run(requests, context)
        finally:
            streams.discard(connection)
            if not streams:
                self._streams.pop(proxy.gateway, None)
            for observer in self._observers:
                observer.disconnected(proxy)
            _log.info("an Envoy disconnected", proxy=proxy.id, gateway=proxy.gateway)

    async def _known(self, claimed: Proxy, context: Any) -> Proxy:
        if self._identify is None:
            return claimed
        audience = await self._identify(context, claimed)
        self._opened(audience)
        return Proxy(claimed.id, gateway=str(audience))


class _Connection:
    """One stream of one Envoy."""

    def __init__(self, proxy: Proxy, source: SnapshotSource, observers: Sequence[XdsObserver], warming: float) -> None:
        self._proxy = proxy
        self._source = source
        self._observers = observers
        self._warming = warming
        self._state = DeltaStream()
        self._settled = ""
        self.wake = asyncio.Event()

    async def run(self, requests: AsyncIterator[Any], context: Any) -> None:
        """Send until the Envoy ends the stream."""
        reader = asyncio.create_task(self._read(requests))
        try:
            while not reader.done():
                await self._send(context)
                await self._next_reason()
            await reader
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(self, requests: AsyncIterator[Any]) -> None:
        try:
            async for request in requests:
                self.receive(request)
        finally:
            self.wake.set()

    async def _next_reason(self) -> None:
        try:
            async with asyncio.timeout(self._warming if self._state.holding_back else None):
                await self.wake.wait()
        except TimeoutError:
            self._state.stop_waiting()
        self.wake.clear()

    async def _send(self, context: Any) -> None:
        while (snapshot := self._source.current(self._proxy.gateway)) is not None:
            response = self._state.next_response(snapshot)
            if response is None:
                if snapshot.version != self._settled and self._state.settled(snapshot):
                    self._settled = snapshot.version
                    for observer in self._observers:
                        observer.settled(self._proxy, snapshot.version)
                return
            await context.write(_encode(response, snapshot.version))

    def receive(self, message: Any) -> None:
        """Take a request; one for a type that we do not serve stays unanswered."""
        try:
            type_url = TypeUrl(message.type_url)
        except ValueError:
            return
        request = Request(
            type_url=type_url,
            subscribe=tuple(message.resource_names_subscribe),
            unsubscribe=tuple(message.resource_names_unsubscribe),
            initial_versions=dict(message.initial_resource_versions),
            nonce=message.response_nonce,
            error=message.error_detail.message if message.HasField("error_detail") else None,
        )
        for outcome in self._state.receive(request):
            self._tell(outcome)
        self.wake.set()

    def _tell(self, outcome: Outcome) -> None:
        for observer in self._observers:
            if isinstance(outcome, Acked):
                observer.acked(self._proxy, outcome.type_url, outcome.versions)
            else:
                observer.nacked(self._proxy, outcome.type_url, outcome.versions, outcome.message)


def _encode(response: Response, version: str) -> Any:
    message = discovery_pb2.DeltaDiscoveryResponse(
        type_url=response.type_url,
        nonce=response.nonce,
        system_version_info=version,
        removed_resources=response.removed,
    )
    for resource in response.resources:
        item = message.resources.add(name=resource.name, version=resource.version)
        item.resource.type_url = response.type_url
        item.resource.value = resource.value
    return message

"""The control plane: snapshots of gateways in, and what their Envoys say about them out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import structlog

from aoai_operator.adapters.grpc_server import serving
from aoai_operator.adapters.xds_cache import SnapshotCache
from aoai_operator.adapters.xds_resources import pack
from aoai_operator.adapters.xds_server import XdsServer
from aoai_operator.core.audience import Audience
from aoai_operator.core.envoy.snapshot import Snapshot, TypeUrl
from aoai_operator.core.proxies import Proxy, ProxyStates
from aoai_operator.core.world import Programming
from aoai_operator.ports import Identify, XdsObserver

_log = structlog.get_logger("xds")


class Gateway:
    """The Envoys of one gateway, by the name that they are known by in the xDS server. Made by ControlPlane.add."""

    def __init__(
        self,
        name: str,
        *,
        cache: SnapshotCache,
        states: ProxyStates,
        refused: Callable[[TypeUrl, str, str, str], None],
        settled: Callable[[str], None],
    ) -> None:
        self.name = name
        self._cache = cache
        self._states = states
        self._refused = refused
        self._settled = settled
        self._snapshot = Snapshot.of(())

    def prepare(self, snapshot: Snapshot) -> None:
        """Encode what is new in a snapshot ahead of `publish`; from any thread."""
        self._cache.prepare(self.name, snapshot)

    def publish(self, snapshot: Snapshot) -> None:
        """Make a snapshot current."""
        self._snapshot = snapshot
        for bad in self._cache.publish(self.name, snapshot):
            self._refused(bad.type_url, bad.name, bad.version, bad.message)

    @property
    def connected(self) -> int:
        """How many Envoys are connected."""
        return self._states.connected_to(self.name)

    def programming(self, owner: str) -> Programming:
        """Return how far the Envoys are with the present resources of a pool, "namespace/name"."""
        return self._states.programming(self.name, self._snapshot, owner)

    def tell_refused(self, type_url: TypeUrl, versions: Mapping[str, str], message: str) -> None:
        """Pass a NACK on."""
        for name, version in versions.items():
            self._refused(type_url, name, version, message)

    def tell_progress(self) -> None:
        """Pass on that an Envoy came, went, or accepted a snapshot, once all of them hold the present one."""
        if self._states.all_settled(self.name, self._snapshot.version):
            self._settled(self._snapshot.version)


class ControlPlane:
    """Serves the snapshots of gateways by delta ADS. Used from one event loop."""

    def __init__(
        self,
        *,
        changed: Callable[[], None],
        meters: XdsObserver,
        identify: Identify | None = None,
        opened: Callable[[Audience], None] = lambda _: None,
    ) -> None:
        """Take whom to tell.

        Args:
            changed: hears that what some gateway's `programming` says may have changed.
            meters: counts ACKs, NACKs and connections.
            identify, opened: see XdsServer.
        """
        self._changed = changed
        self._gateways: dict[str, Gateway] = {}
        self._cache = SnapshotCache(pack)
        self._states = ProxyStates()
        self.server = XdsServer(self._cache, (self._states, meters, _Relay(self)), identify=identify, opened=opened)

    def add(
        self,
        name: str,
        *,
        refused: Callable[[TypeUrl, str, str, str], None],
        settled: Callable[[str], None],
    ) -> Gateway:
        """Add a gateway.

        Args:
            name: what its Envoys are known by in the xDS server.
            refused: hears of each resource that an Envoy refuses, or that cannot even be encoded: type, name, version
                and the reason in Envoy's words, which may quote secrets.
            settled: hears the version of a snapshot once every connected Envoy has accepted it.
        """
        gateway = Gateway(name, cache=self._cache, states=self._states, refused=refused, settled=settled)
        self._gateways[name] = gateway
        return gateway

    def remove(self, name: str) -> None:
        """Forget a gateway of which no Envoy is connected."""
        self._gateways.pop(name, None)
        self._cache.forget(name)

    @asynccontextmanager
    async def serving(self, address: str) -> AsyncIterator[int]:
        """Serve at an address while the block runs; see grpc_server.serving."""
        async with serving(address, [self.server.handler()]) as port:
            yield port

    def tell_changed(self, name: str) -> None:
        """Pass on that an Envoy of a gateway came, went, or accepted a snapshot."""
        gateway = self._gateways.get(name)
        if gateway is None:
            _log.warning("an Envoy of another gateway is connected", gateway=name)
            return
        gateway.tell_progress()
        self._changed()

    def tell_refused(self, name: str, type_url: TypeUrl, versions: Mapping[str, str], message: str) -> None:
        """Pass a NACK on."""
        if name in self._gateways:
            self._gateways[name].tell_refused(type_url, versions, message)


class _Relay:
    """Hears the xDS server after ProxyStates did, and tells the control plane."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    def connected(self, proxy: Proxy) -> None:
        self._plane.tell_changed(proxy.gateway)

    def disconnected(self, proxy: Proxy) -> None:
        self._plane.tell_changed(proxy.gateway)

    def acked(self, proxy: Proxy, type_url: TypeUrl, versions: Mapping[str, str]) -> None:
        """Say nothing: what counts is when all is accepted."""

    def nacked(self, proxy: Proxy, type_url: TypeUrl, versions: Mapping[str, str], message: str) -> None:
        self._plane.tell_refused(proxy.gateway, type_url, versions, message)

    def settled(self, proxy: Proxy, version: str) -> None:  # noqa: ARG002 - the port's
        self._plane.tell_changed(proxy.gateway)

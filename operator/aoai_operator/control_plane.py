"""The control plane of one gateway: a snapshot in, and what its Envoys say about it out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import structlog

from aoai_operator.adapters.grpc_server import serving
from aoai_operator.adapters.xds_cache import SnapshotCache
from aoai_operator.adapters.xds_resources import pack
from aoai_operator.adapters.xds_server import XdsServer
from aoai_operator.core.envoy.snapshot import Snapshot, TypeUrl
from aoai_operator.core.proxies import Proxy, ProxyStates
from aoai_operator.core.world import Programming
from aoai_operator.ports import XdsObserver

_log = structlog.get_logger("xds")


class ControlPlane:
    """Serves snapshots by delta ADS. Used from one event loop."""

    def __init__(
        self,
        gateway: str,
        *,
        refused: Callable[[TypeUrl, str, str, str], None],
        settled: Callable[[str], None],
        changed: Callable[[], None],
        meters: XdsObserver,
    ) -> None:
        """Take whom to tell.

        Args:
            gateway: the `node.cluster` of its Envoys.
            refused: hears of each resource that an Envoy refuses, or that cannot even be encoded: type, name, version
                and the reason in Envoy's words, which may quote secrets.
            settled: hears the version of a snapshot once every connected Envoy has accepted it.
            changed: hears that `programming` changed.
            meters: counts ACKs, NACKs and connections.
        """
        self.gateway = gateway
        self._refused = refused
        self._all_settled = settled
        self._changed = changed
        self._snapshot = Snapshot.of(())
        self._cache = SnapshotCache(pack)
        self._states = ProxyStates()
        self._server = XdsServer(self._cache, (self._states, meters, _Relay(self)))

    @asynccontextmanager
    async def serving(self, address: str) -> AsyncIterator[int]:
        """Serve at an address while the block runs; see grpc_server.serving."""
        async with serving(address, [self._server.handler()]) as port:
            yield port

    def publish(self, snapshot: Snapshot) -> None:
        """Make a snapshot current."""
        self._snapshot = snapshot
        for bad in self._cache.publish(self.gateway, snapshot):
            self._refused(bad.type_url, bad.name, bad.version, bad.message)

    def programming(self, owner: str) -> Programming:
        """Return how far the Envoys are with the present resources of a pool, "namespace/name"."""
        return self._states.programming(self.gateway, self._snapshot, owner)

    def tell_refused(self, type_url: TypeUrl, versions: Mapping[str, str], message: str) -> None:
        """Pass a NACK on."""
        for name, version in versions.items():
            self._refused(type_url, name, version, message)

    def tell_changed(self, gateway: str) -> None:
        """Pass on that a proxy of a gateway came, went, or accepted a snapshot."""
        if gateway != self.gateway:
            _log.warning("an Envoy of another gateway is connected", gateway=gateway)
            return
        if self._states.all_settled(gateway, self._snapshot.version):
            self._all_settled(self._snapshot.version)
        self._changed()


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
        if proxy.gateway == self._plane.gateway:
            self._plane.tell_refused(type_url, versions, message)

    def settled(self, proxy: Proxy, version: str) -> None:  # noqa: ARG002 - the port's
        self._plane.tell_changed(proxy.gateway)

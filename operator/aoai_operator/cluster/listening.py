"""Where proxies and other replicas are served: by a socket in the pod, and by TLS once there is a certificate."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any, TypeAlias

import grpc

from aoai_operator.adapters.grpc_server import ServerCertificate, serving, serving_tls
from aoai_operator.adapters.peers import PeerTls
from aoai_operator.cluster.writer import ARRIVING
from aoai_operator.core.pki import Certificate, KeyPair
from aoai_operator.runners.certificates import server_name
from aoai_operator.settings import ClusterSettings

Services: TypeAlias = "Sequence[grpc.GenericRpcHandler[Any, Any]]"


class Listening:
    """The listeners of one replica, and its certificate."""

    def __init__(self, settings: ClusterSettings) -> None:
        """Take where they are."""
        self._settings = settings
        self.open = asyncio.Event()
        """Set once they all are there."""
        self.arrived = asyncio.Event()
        """Set when the Envoys that there are have had the time to come."""
        self.tls: PeerTls | None = None
        """By what this replica proves itself to another one; None as long as it has nothing."""
        self._certificate: ServerCertificate | None = None
        self._certified = asyncio.Event()

    def certified(self, pair: KeyPair, trusted: tuple[Certificate, ...]) -> datetime:
        """Take the certificate, and whom it trusts, from the next handshake on; return when it ends."""
        self.tls = PeerTls(pair, trusted, server_name(self._settings.namespace, self._settings.name))
        if self._certificate is None:
            self._certificate = ServerCertificate(pair, trusted)
            self._certified.set()
        else:
            self._certificate.renew(pair, trusted)
        return pair.certificate.not_after

    async def serve(self, *, in_pod: Services, by_tls: Services) -> None:
        """Serve until cancelled.

        Raises:
            OSError: an address cannot be bound.
        """
        async with AsyncExitStack() as stack:
            if directory := self._settings.pod_directory:
                await stack.enter_async_context(serving(f"unix:{directory / 'operator.sock'}", in_pod))
            await self._certified.wait()
            await self._serve_by_tls(stack, by_tls)
            self.open.set()
            await asyncio.sleep(ARRIVING)
            self.arrived.set()
            await asyncio.Event().wait()

    async def _serve_by_tls(self, stack: AsyncExitStack, services: Services) -> None:
        if self._certificate is None:
            raise AssertionError("a certificate is there")
        tokens = self._settings.token_listen
        await stack.enter_async_context(
            serving_tls(
                services,
                certificate=self._certificate,
                certificates=str(self._settings.xds_listen),
                tokens=str(tokens) if tokens else None,
                lifetime=self._settings.connection_age,
            )
        )

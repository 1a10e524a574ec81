"""The gRPC server that Envoy dials."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from aoai_operator.core.pki import Certificate, KeyPair, bundle

_OPTIONS = (
    # Ask every 10 s whether a silent proxy still lives; a dead one is dropped 5 s later.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Envoy asks the same of us; more often than gRPC's default tolerates.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.max_send_message_length", -1),
    # With it, a second server on a port would silently take half of the connections instead of failing.
    ("grpc.so_reuseport", 0),
)
_LARGEST, _LARGEST_UNPROVEN = 16 << 20, 4 << 20
"""A client's largest message in bytes, which is read before it is known who sends it; and without a certificate."""
_CALLS = 4096
"""Calls at one time where clients need no certificate. A sidecar has one, and one more for some moments."""
_LIFETIME = 3600.0
_GRACE = 1.0
"""Seconds in which calls may end by themselves once the connection is to end; a stream never does."""


@asynccontextmanager
async def serving(address: str, handlers: Sequence[grpc.GenericRpcHandler[Any, Any]]) -> AsyncIterator[int]:
    """Serve while the block runs; its value is the port, for port 0 the one that was free, for a Unix socket 1.

    Without TLS: for loopback, and Unix sockets in private directories.

    Args:
        address: "host:port", with an IPv6 address in brackets, or "unix:/path".
        handlers: the services.

    Raises:
        OSError: the address cannot be bound.
    """
    server = grpc.aio.server(options=(*_OPTIONS, _receiving(_LARGEST)))
    server.add_generic_rpc_handlers(tuple(handlers))
    port = _bound(address, lambda: server.add_insecure_port(address))
    async with _running(server):
        yield port


class ServerCertificate:
    """The server's certificate, and the CAs that it trusts in clients. A new one counts from the next handshake on."""

    def __init__(self, pair: KeyPair, trusted: tuple[Certificate, ...]) -> None:
        """Take the first."""
        self._current = _configuration(pair, trusted)

    def renew(self, pair: KeyPair, trusted: tuple[Certificate, ...]) -> None:
        """Take the next. Connections that are open stay as they are."""
        self._current = _configuration(pair, trusted)

    def credentials(self, *, client_certificates: bool) -> grpc.ServerCredentials:
        """Return credentials for a port that requires certificates of its clients, or asks for none.

        gRPC's Python API has no third way, to ask without requiring.
        """
        used = self._current

        def fetch() -> Any:
            # Called at each handshake, by threads of gRPC's own; None means that nothing changed.
            nonlocal used
            if used is self._current:
                return None
            used = self._current
            return used

        return grpc.dynamic_ssl_server_credentials(used, fetch, client_certificates)


@dataclass(frozen=True, slots=True)
class TlsPorts:
    """The ports that are served, when 0 was asked for the ones that were free."""

    certificates: int
    """Clients must have a certificate."""
    tokens: int | None
    """Clients have a token."""


@asynccontextmanager
async def serving_tls(
    handlers: Sequence[grpc.GenericRpcHandler[Any, Any]],
    *,
    certificate: ServerCertificate,
    certificates: str,
    tokens: str | None,
    lifetime: float = _LIFETIME,
    calls: int = _CALLS,
) -> AsyncIterator[TlsPorts]:
    """Serve by TLS while the block runs. Who a client is, and what it may do, is for the services to find out.

    The ports have a server each, so that whoever floods the one for tokens leaves the other one alone.

    Args:
        handlers: the services.
        certificate: the server's.
        certificates: "host:port" for clients with a certificate; others fail in the handshake.
        tokens: "host:port" for clients that prove who they are by a token; None: there are none.
        lifetime: seconds, about, after which a connection is ended, with its streams, so that its client proves
            anew who it is, and learns of a server that was added.
        calls: how many there may be at one time at the port for tokens; more are refused (RESOURCE_EXHAUSTED).

    Raises:
        OSError: an address cannot be bound.
    """
    age = (
        ("grpc.max_connection_age_ms", int(lifetime * 1000)),
        ("grpc.max_connection_age_grace_ms", int(_GRACE * 1000)),
    )

    @asynccontextmanager
    async def port(address: str, largest: int, calls: int | None, *, proven: bool) -> AsyncIterator[int]:
        options = (*_OPTIONS, *age, _receiving(largest))
        server = grpc.aio.server(options=options, maximum_concurrent_rpcs=calls)
        server.add_generic_rpc_handlers(tuple(handlers))
        credentials = certificate.credentials(client_certificates=proven)
        bound = _bound(address, lambda: server.add_secure_port(address, credentials))
        async with _running(server):
            yield bound

    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(port(certificates, _LARGEST, None, proven=True))
        other = port(tokens, _LARGEST_UNPROVEN, calls, proven=False) if tokens else None
        yield TlsPorts(one, await stack.enter_async_context(other) if other else None)


@asynccontextmanager
async def _running(server: grpc.aio.Server) -> AsyncIterator[None]:
    await server.start()
    try:
        yield
    finally:
        await server.stop(None)


def _receiving(largest: int) -> tuple[str, int]:
    return "grpc.max_receive_message_length", largest


def _bound(address: str, bind: Callable[[], int]) -> int:
    try:
        return bind()
    except RuntimeError as error:
        raise OSError(f"cannot serve gRPC on {address}") from error


def _configuration(pair: KeyPair, trusted: tuple[Certificate, ...]) -> Any:
    return grpc.ssl_server_certificate_configuration(
        [(pair.key, pair.certificate.pem)], root_certificates=bundle(trusted)
    )

"""The gRPC server that Envoy dials."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc

_OPTIONS = (
    # Ask every 10 s whether a silent proxy still lives; a dead one is dropped 5 s later.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Envoy asks the same of us; more often than gRPC's default tolerates.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", -1),
    # With it, a second server on a port would silently take half of the connections instead of failing.
    ("grpc.so_reuseport", 0),
)


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
    server = grpc.aio.server(options=_OPTIONS)
    server.add_generic_rpc_handlers(tuple(handlers))
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"cannot serve gRPC on {address}") from error
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)

"""The one gRPC server that Envoy dials: xDS and the access log are services on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc

_OPTIONS = (
    # Ask every 10 s whether a silent proxy still lives; a dead one is dropped 5 s later.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.max_send_message_length", -1),
    # Two servers on one port would share connections silently: a taken port must be an error.
    ("grpc.so_reuseport", 0),
)


@dataclass(frozen=True, slots=True)
class GrpcServer:
    """A running server. `port` is the bound one, 0 on a Unix socket."""

    port: int
    _server: grpc.aio.Server

    async def stop(self, grace: float = 1.0) -> None:
        """Take no new calls and end the running ones after `grace` seconds."""
        await self._server.stop(grace)


async def serve(host: str, port: int, handlers: Sequence[grpc.GenericRpcHandler[Any, Any]]) -> GrpcServer:
    """Serve on a TCP address; port 0 takes a free one. Without TLS: for loopback."""
    return await _serve(f"{host}:{port}", handlers)


async def serve_unix(path: str, handlers: Sequence[grpc.GenericRpcHandler[Any, Any]]) -> GrpcServer:
    """Serve on a Unix socket at `path`."""
    server = await _serve(f"unix:{path}", handlers)
    return GrpcServer(0, server._server)


async def _serve(address: str, handlers: Sequence[grpc.GenericRpcHandler[Any, Any]]) -> GrpcServer:
    server = grpc.aio.server(options=_OPTIONS)
    server.add_generic_rpc_handlers(tuple(handlers))
    port = server.add_insecure_port(address)
    await server.start()
    return GrpcServer(port, server)

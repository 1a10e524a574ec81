"""Keeps the gateway's TCP port for Envoy: free at the start, and still ours while an Envoy that died comes back."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def reserved_port(host: str, port: int) -> Iterator[int]:
    """Hold the port while the block runs; its value is the port, for `port` 0 one that was free.

    Envoy listens with SO_REUSEPORT, so two gateways on one port would both start, and share the connections at
    random. Hence it is bound without that option first, which fails if anybody listens, and then held with it: a
    socket that is bound but does not listen gets no connections, and keeps others from taking the port.

    Raises:
        OSError: somebody listens there, or the address is not this machine's.
    """
    with _bound(host, port, shared=False) as probe:
        port = probe.getsockname()[1]
    with _bound(host, port, shared=True):
        yield port


def _bound(host: str, port: int, *, shared: bool) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound

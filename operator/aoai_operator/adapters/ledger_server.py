"""Answers what proxies ask the ledger: one line there and one back, over HTTP/1.1, which is what Envoy's Lua can call.

Envoy is the only client, and asks for each request of a tenant that is near its limits; so this is no web server, but
the few dozen lines of RFC 9112 that Envoy uses: no chunks, no pipelining that would need to be answered out of order.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import structlog

Answerer = Callable[[str], str]
"""Answers one line. Raises ValueError where it cannot be read."""

_MOST_BYTES = 64 << 10
"""Of one ask; ours have a few hundred."""

_log = structlog.get_logger("ledger")


@asynccontextmanager
async def serve_ledger(path: Path, answer: Answerer) -> AsyncIterator[None]:
    """Serve at a Unix socket while the block runs; connections that are open then are closed.

    Raises:
        OSError: the socket cannot be made.
    """
    open_ones: set[asyncio.Transport] = set()
    server = await asyncio.get_running_loop().create_unix_server(lambda: _Connection(answer, open_ones), path)
    try:
        yield
    finally:
        server.close()
        for transport in open_ones:
            transport.close()


class _Connection(asyncio.Protocol):
    """One connection of Envoy's: asks one after the other."""

    def __init__(self, answer: Answerer, open_ones: set[asyncio.Transport]) -> None:
        self._answer = answer
        self._open = open_ones
        self._received = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._open.add(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's
        self._open.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (body := self._next()) is not None:
            self._transport.write(self._reply(body))

    def _next(self) -> bytes | None:
        """Take the next whole request off what was received, and return its body."""
        end = self._received.find(b"\r\n\r\n")
        size = _content_length(self._received[:end]) if end >= 0 else 0
        if max(len(self._received), size) > _MOST_BYTES:
            self._transport.write(_response("413 Content Too Large", b""))
            self._transport.close()
            self._received = b""
            return None
        whole = end + 4 + size
        if end < 0 or len(self._received) < whole:
            return None
        body, self._received = self._received[end + 4 : whole], self._received[whole:]
        return body

    def _reply(self, body: bytes) -> bytes:
        try:
            return _response("200 OK", self._answer(body.decode()).encode())
        except ValueError:
            return _response("400 Bad Request", b"")
        except Exception:  # noqa: BLE001 - one ask must not end the others, and Envoy knows what to do without an answer
            _log.exception("an ask of a proxy could not be answered")
            return _response("500 Internal Server Error", b"")


def _content_length(head: bytes) -> int:
    lower = head.lower()
    at = lower.find(b"\r\ncontent-length:")
    if at < 0:
        return 0
    value = lower[at + 17 :].split(b"\r\n", 1)[0].strip()
    return int(value) if value.isdigit() else 0


def _response(status: str, body: bytes) -> bytes:
    return b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n%s" % (status.encode(), len(body), body)

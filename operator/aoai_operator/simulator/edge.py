"""The network edge of a region: sockets, TLS and HTTP by aiohttp. Every decision is made in ``region``."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Callable

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from aoai_operator.simulator.accounting import Incoming
from aoai_operator.simulator.faults import Blackhole, CutStream, Down, Flapping, Reset
from aoai_operator.simulator.region import RegionState, Reply

_MAX_BODY = 64 * 1024 * 1024
_LINGER_ZERO = struct.pack("ii", 1, 0)
_BEFORE_RST_SECONDS = 0.02
"""Lets what was sent be read first: a reset may discard what the peer has not read yet."""


class RegionServer:
    """Listens for one region, and stops listening when a fault says so.

    The socket is accepted from by hand, so that opening and closing it takes effect at once, without awaiting.
    """

    def __init__(self, state: RegionState, clock: Callable[[], float]) -> None:
        self._state = state
        self._clock = clock
        self._http: web.Server | None = None
        self._listener: socket.socket | None = None
        self._guard: socket.socket | None = None
        self._tls: ssl.SSLContext | None = None
        self._flapping: asyncio.Task[None] | None = None
        self._accepting: set[asyncio.Task[None]] = set()
        self._transports: set[asyncio.Transport] = set()
        self._all_closed = asyncio.Event()
        self.port = state.settings.port
        self.accepted = 0
        self.handshake_failures = 0
        self.server_names: list[str] = []

    @property
    def url(self) -> str:
        """The address of the region, without a path."""
        scheme = "https" if self._state.settings.certfile else "http"
        return f"{scheme}://{self._state.settings.host}:{self.port}"

    @property
    def listening(self) -> bool:
        """Whether connections are accepted."""
        return self._listener is not None

    @property
    def open_connections(self) -> int:
        """Connections that are open now."""
        return len(self._transports)

    def start(self) -> None:
        """Listen. Raises OSError when the port is taken, and ssl.SSLError or OSError on an unusable certificate."""
        self._tls = self._tls_context()
        self._http = web.Server(self._handle, request_factory=_request, handler_cancellation=True)
        self.apply_faults()

    async def stop(self) -> None:
        """Stop listening and drop every connection."""
        self._stop_flapping()
        self._close()
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        if self._http is not None:
            await self._http.shutdown(0)
        self._abort_connections()
        if self._transports:
            self._all_closed.clear()
            await self._all_closed.wait()

    def apply_faults(self) -> None:
        """Bring the socket in line with the region's faults."""
        self._stop_flapping()
        faults = [active.fault for active in self._state.faults]
        flapping = next((f for f in faults if isinstance(f, Flapping)), None)
        if any(isinstance(f, Down) for f in faults):
            self._go_down()
        elif flapping is not None:
            self._flapping = asyncio.create_task(self._flap(flapping))
        else:
            self._listen()

    async def _flap(self, fault: Flapping) -> None:
        while True:
            self._go_down()
            await asyncio.sleep(fault.down_seconds)
            self._listen()
            await asyncio.sleep(fault.up_seconds)

    def _stop_flapping(self) -> None:
        if self._flapping is not None:
            self._flapping.cancel()
            self._flapping = None

    def _listen(self) -> None:
        if self._listener is not None:
            return
        if self._guard is not None:
            self._guard.close()
            self._guard = None
        self._listener = self._bind()
        self._listener.listen(2048)
        asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    def _go_down(self) -> None:
        if self._guard is None:
            self._close()
            self._guard = self._bind()
        self._abort_connections()

    def _close(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
        if self._guard is not None:
            self._guard.close()
        self._listener = self._guard = None

    def _accept(self, listener: socket.socket) -> None:
        """Take in all connections that wait."""
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.setblocking(False)
            self.accepted += 1
            if any(isinstance(a.fault, Reset) and a.fault.at_accept for a in self._state.faults):
                _linger_zero(connection)
                connection.close()
                continue
            task = asyncio.create_task(self._connect(connection))
            self._accepting.add(task)
            task.add_done_callback(self._accepting.discard)

    async def _connect(self, connection: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection, ssl=self._tls)
        except (OSError, ssl.SSLError):
            self.handshake_failures += 1
            connection.close()

    def _bind(self) -> socket.socket:
        """A bound socket. One that does not listen refuses connections, and keeps the port from others meanwhile."""
        host = self._state.settings.host
        bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        bound.setblocking(False)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host, self.port))
        except OSError:
            bound.close()
            raise
        self.port = int(bound.getsockname()[1])
        return bound

    def _abort_connections(self) -> None:
        for transport in list(self._transports):
            _reset(transport)

    def _tls_context(self) -> ssl.SSLContext | None:
        settings = self._state.settings
        if settings.certfile is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(settings.certfile, settings.keyfile)
        context.sni_callback = self._note_server_name
        return context

    def _note_server_name(self, _: ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> None:
        self.server_names.append(name or "")
        del self.server_names[:-100]

    def _protocol(self) -> asyncio.Protocol:
        assert self._http is not None  # noqa: S101 - set by start(), before the socket exists
        return _Connection(self._http, self._opened, self._closed)

    def _opened(self, transport: asyncio.Transport) -> None:
        self._transports.add(transport)

    def _closed(self, transport: asyncio.Transport) -> None:
        self._transports.discard(transport)
        if not self._transports:
            self._all_closed.set()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        state = self._state
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return web.Response(status=413, text="Request Entity Too Large")
        seen = Incoming(
            request.method,
            request.rel_url.raw_path,
            request.query_string,
            tuple((n.decode("latin-1").lower(), v.decode("utf-8", "replace")) for n, v in request.raw_headers),
            body,
        )
        reply = state.receive(seen, self._clock())
        response, done = web.StreamResponse(), False
        try:
            with contextlib.suppress(ConnectionError):  # the client has left: what is returned goes nowhere
                response, done = await self._send(request, reply)
        finally:
            if done:
                state.finished(reply, self._clock())
            else:
                state.abandoned(reply)
        return response

    async def _send(self, request: web.BaseRequest, reply: Reply) -> tuple[web.StreamResponse, bool]:
        """Carry a reply out; the second value says whether it reached its end."""
        if reply.delay > 0:
            await asyncio.sleep(reply.delay)
        if reply.wire is not None:
            await self._play(request, reply.wire)
            return web.StreamResponse(), False
        if reply.events is not None:
            return await self._stream(request, reply, reply.events)
        response = web.Response(status=reply.status, headers=reply.headers, body=reply.body)
        await response.prepare(request)
        await response.write_eof()
        return response, True

    async def _play(self, request: web.BaseRequest, fault: Reset | Blackhole) -> None:
        """A fault instead of an answer."""
        if isinstance(fault, Blackhole):
            await _forever()
        elif request.transport is not None:
            _reset(request.transport)

    async def _stream(
        self, request: web.BaseRequest, reply: Reply, events: list[bytes]
    ) -> tuple[web.StreamResponse, bool]:
        """Send the events one by one; the second value says whether the stream ended as it should."""
        response = web.StreamResponse(status=reply.status, headers=reply.headers)
        response.enable_chunked_encoding()
        await response.prepare(request)
        ending = reply.ending
        for event in events if ending is None else events[: ending.after]:
            await response.write(event)
            if reply.event_delay > 0:
                await asyncio.sleep(reply.event_delay)
        if ending is None or (isinstance(ending, CutStream) and ending.how == "clean"):
            await response.write_eof()
            return response, ending is None
        if not isinstance(ending, CutStream):
            await _forever()
        elif request.transport is not None:
            if ending.how == "rst":
                await asyncio.sleep(_BEFORE_RST_SECONDS)
                _reset(request.transport)
            else:
                request.transport.close()
        return response, False


class _Connection(RequestHandler):
    """An HTTP connection which the region can drop."""

    __slots__ = ("_on_close", "_on_open", "_open")

    def __init__(
        self,
        manager: web.Server,
        on_open: Callable[[asyncio.Transport], None],
        on_close: Callable[[asyncio.Transport], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(manager, loop=loop, access_log=None, auto_decompress=False, max_headers=1024)  # type: ignore[arg-type]
        self._on_open = on_open
        self._on_close = on_close
        self._open: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if isinstance(transport, asyncio.Transport):
            self._open = transport
            self._on_open(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._open is not None:
            self._on_close(self._open)
        super().connection_lost(exc)


def _linger_zero(connection: socket.socket) -> None:
    """Let closing send RST instead of FIN."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)


def _reset(transport: asyncio.Transport) -> None:
    """Drop a connection at once, with RST, whatever is unsent."""
    raw = transport.get_extra_info("socket")
    if raw is not None:
        _linger_zero(raw)
    transport.abort()


async def _forever() -> None:
    await asyncio.Event().wait()


def _request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: RequestHandler,
    writer: AbstractStreamWriter,
    task: asyncio.Task[None],
) -> web.BaseRequest:
    """A request with room for a large body: aiohttp's own limit is 1 MiB."""
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=_MAX_BODY)

"""Stands in for kube-proxy: one address in front of several pods, connection by connection."""

from __future__ import annotations

import asyncio
import itertools
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

Backends = Callable[[], Sequence[tuple[str, int]]]


@asynccontextmanager
async def forwarding(backends: Backends, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Forward TCP from a free port of 127.0.0.1, its value, to one of the backends that there are then.

    As with a Service, a connection stays with its backend, and one that cannot be reached is not asked twice. `tls`
    ends here.
    """
    turn = itertools.count()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        try:
            await _serve(reader, writer, backends(), next(turn))
        except asyncio.CancelledError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _serve(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, backends: Sequence[tuple[str, int]], turn: int
) -> None:
    for offset in range(len(backends)):
        host, port = backends[(turn + offset) % len(backends)]
        try:
            there_reader, there_writer = await asyncio.open_connection(host, port)
        except OSError:
            continue
        try:
            await asyncio.gather(_pump(reader, there_writer), _pump(there_reader, writer))
        finally:
            there_writer.close()
        return


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()

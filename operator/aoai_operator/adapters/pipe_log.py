"""Reads Envoy's access log from a named pipe, as it is written, and hands it on in batches.

A pipe costs Envoy a third of what its gRPC access log costs (docs/performance.md). Envoy opens it for reading and
writing, so neither side waits for the other; without a reader Envoy drops what does not fit.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from aoai_operator.core.accesslog import parse_lines
from aoai_operator.ports import LogSink

_CAPACITY = 1 << 20
"""Bytes that the pipe holds while the loop is busy: some 4,000 lines. Linux allows 1 MiB without privileges."""
_CHUNK = 1 << 18


@asynccontextmanager
async def access_log(path: Path, sink: LogSink, *, keep: bool = False) -> AsyncIterator[None]:
    """Make the pipe at `path` and read it for the time of the block.

    Args:
        path: where.
        sink: gets the lines.
        keep: whether the pipe outlives us, since its Envoy does, and goes on writing into the one that it has open. One
            that is there already is then used.
    """
    try:
        os.mkfifo(path, 0o600)
    except FileExistsError:
        if not (keep and stat.S_ISFIFO(os.stat(path).st_mode)):
            raise
    # Open for writing as well: otherwise the pipe ends whenever Envoy restarts.
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    with suppress(OSError):  # The default of 64 KiB serves as well, only with less to spare.
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _CAPACITY)
    reader = _Reader(descriptor, sink)
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, reader.read)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
        reader.read()
        os.close(descriptor)
        if not keep:
            os.unlink(path)


class _Reader:
    """Cuts the bytes into lines, keeping an incomplete one for the next read."""

    def __init__(self, descriptor: int, sink: LogSink) -> None:
        self._descriptor = descriptor
        self._sink = sink
        self._rest = b""

    def read(self) -> None:
        """Read what there is, once, and hand it on."""
        try:
            chunk = os.read(self._descriptor, _CHUNK)
        except BlockingIOError:
            return
        whole, line_break, rest = (self._rest + chunk).rpartition(b"\n")
        self._rest = rest
        if not line_break:
            return
        attempts, answers = parse_lines(whole.decode("utf-8", "replace").split("\n"))
        # Attempts first: they change where the next requests go.
        if attempts:
            self._sink.attempts(attempts)
        if answers:
            self._sink.answers(answers)

"""The access log's pipe: lines in, batches out, whatever the writer does."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from aoai_operator.adapters.pipe_log import access_log
from aoai_operator.core.accesslog import Answer, Attempt

ATTEMPT = b"attempt\tai/chat|0|any|gpt-4o\teast\td\tr\t429\t-\t1500\t-\n"


class Sink:
    def __init__(self) -> None:
        self.taken: list[Attempt] = []
        self.news = asyncio.Event()

    def answers(self, batch: Sequence[Answer]) -> None:
        raise AssertionError(batch)

    def attempts(self, batch: Sequence[Attempt]) -> None:
        self.taken += batch
        self.news.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.taken) < count:
                self.news.clear()
                await self.news.wait()


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    finally:
        os.close(descriptor)


async def test_lines_come_whole_however_they_were_written(tmp_path: Path) -> None:
    sink, path = Sink(), tmp_path / "log"
    async with access_log(path, sink):
        await asyncio.to_thread(_write, path, ATTEMPT[:7])
        await asyncio.to_thread(_write, path, ATTEMPT[7:] + ATTEMPT * 2 + b"garbage\n\xff\xfe\n" + ATTEMPT)
        await sink.until(4)
    assert len(sink.taken) == 4


async def test_a_writer_that_ends_and_another_that_comes(tmp_path: Path) -> None:
    sink, path = Sink(), tmp_path / "log"
    async with access_log(path, sink):
        for count in (1, 2, 3):
            await asyncio.to_thread(_write, path, ATTEMPT)
            await sink.until(count)


async def test_more_than_the_pipe_holds(tmp_path: Path) -> None:
    sink, path = Sink(), tmp_path / "log"
    lines = 60_000
    async with access_log(path, sink):
        await asyncio.to_thread(_write, path, ATTEMPT * lines)
        await sink.until(lines)
    assert not path.exists()

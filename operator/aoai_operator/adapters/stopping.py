"""Being told to stop: SIGTERM, SIGINT or SIGHUP once to end in order, a second time to end at once."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Stop:
    """What was asked of us so far."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    hurry: asyncio.Event = field(default_factory=asyncio.Event)

    def ask(self) -> None:
        """Ask to stop; a second time, to hurry."""
        if self.asked.is_set():
            self.hurry.set()
        self.asked.set()


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Take the signals for the time of the block, in the main thread's running loop."""
    loop = asyncio.get_running_loop()
    stop = Stop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop.ask)
    try:
        yield stop
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


async def until(event: asyncio.Event, tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Wait until the event is set or all tasks have ended; what a task raises is raised here, at once."""
    waiting = asyncio.create_task(event.wait())
    pending = set(tasks)
    try:
        while pending:
            done, _ = await asyncio.wait({waiting, *pending}, return_when=asyncio.FIRST_COMPLETED)
            if waiting in done:
                return
            for task in done:
                task.result()
            pending -= done
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

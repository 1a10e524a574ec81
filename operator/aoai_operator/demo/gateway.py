"""`aoai-operator local` as a child process: the same command that a user would type."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aoai_operator.adapters import tether
from aoai_operator.demo.counting import states

_PROGRAM = Path(sys.executable).with_name("aoai-operator")
_READY_WITHIN = 60.0
_END_WITHIN = 20.0
_LOG_TAIL = 5


class GatewayError(Exception):
    """The gateway did not start, or ended by itself. The message has the last of its log."""


class Gateway:
    """A running gateway; `async with` starts it, waits until it is ready, and ends it."""

    def __init__(self, manifests: Path, *, log: Path, port: int, changed: Callable[[str], None]) -> None:
        """Take where things are.

        Args:
            manifests: the directory of the manifests.
            log: the file for its log.
            port: where it listens on 127.0.0.1; 0: any free port.
            changed: is told, in one line, of each change of a state.
        """
        self.command = ("local", str(manifests), "--listen", f"127.0.0.1:{port}", "--metrics", "127.0.0.1:0")
        self.states: dict[tuple[str, str], str] = {}
        """The state of each (endpoint, deployment), as its metrics said last."""
        self.told: set[tuple[str, str]] = set()
        """Every (endpoint, state) whose beginning it told."""
        self._log = log
        self._changed = changed
        self._ready: dict[str, Any] | None = None
        self._was_ready = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return self._ready["address"] if self._ready else ""

    @property
    def metrics_url(self) -> str:
        """The address of its metrics."""
        return f"{self._ready['metrics']}/metrics" if self._ready else ""

    @property
    def alive(self) -> bool:
        """Tell whether it runs."""
        return self._process is not None and self._process.returncode is None

    async def look(self) -> None:
        """Read the states again; those of before stay while they cannot be read."""
        self.states = await states(self.metrics_url) or self.states

    async def ended(self) -> None:
        """Wait until it ends by itself."""
        if self._process is not None:
            await self._process.wait()

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    def failure(self) -> GatewayError:
        """Return why it is not alive, as far as its log tells."""
        tail = self._log.read_text(errors="replace").splitlines()[-_LOG_TAIL:] if self._log.exists() else []
        return GatewayError("\n".join(["the gateway ended by itself; the last of its log:", *tail]))

    async def _start(self) -> None:
        with self._log.open("wb") as log:
            # The child must not outlive us, however we end; and Ctrl-C is ours alone, to end things in order.
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-ISE",
                tether.__file__,
                str(os.getpid()),
                str(_PROGRAM),
                *self.command,
                *("--output", "json"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                process_group=0,
                limit=1 << 20,
            )
        assert self._process.stdout is not None  # noqa: S101 - asked for above
        self._reader = asyncio.create_task(self._read(self._process.stdout))
        try:
            await asyncio.wait_for(self._was_ready.wait(), _READY_WITHIN)
        except TimeoutError:
            raise GatewayError(f"the gateway was not ready within {_READY_WITHIN:.0f} s") from None
        if self._ready is None:
            raise self.failure()

    async def _read(self, output: asyncio.StreamReader) -> None:
        async for line in output:
            with contextlib.suppress(ValueError):
                self._take(json.loads(line))
        self._was_ready.set()

    def _take(self, event: Mapping[str, Any]) -> None:
        if event.get("event") == "ready":
            self._ready = dict(event)
            self._was_ready.set()
        elif event.get("event") == "transition" and event.get("kind") == "endpoint":
            _, _, host = event["name"].partition(" ")
            endpoint, _, _ = host.partition("/")
            self.told.add((endpoint, event["value"]))
            until = f", {event['message']}" if event["message"] else ""
            self._changed(f"{host}: {event['value']} ({event['reason']}{until})")

    async def _stop(self) -> None:
        process = self._process
        if process is None:
            return
        for end in (process.terminate, process.kill):
            with contextlib.suppress(ProcessLookupError):
                end()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), _END_WITHIN)
                break
        if self._reader is not None:
            await self._reader

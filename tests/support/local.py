"""`aoai-operator local` as a real process, with its real Envoy, for tests."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from openai import AsyncAzureOpenAI, AsyncOpenAI

from support.manifests import TENANT_KEY
from support.waiting import eventually

_PROGRAM = Path(sys.executable).with_name("aoai-operator")
_FILE = "manifests.yaml"


class LocalGateway:
    """A running gateway; `async with` starts it, waits until it is ready, and ends it.

    `manifests` is one YAML text, or several by file name. `check_exit` False: the test ends it in its own way.
    """

    def __init__(
        self,
        manifests: str | Mapping[str, str],
        *,
        arguments: Sequence[str] = (),
        listen: str = "127.0.0.1:0",
        wait: bool = True,
    ) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="aoai-test-")
        self.directory = Path(self._directory.name)
        self._arguments = arguments
        self._listen = listen
        self._wait = wait
        self.events: list[dict[str, Any]] = []
        """What it printed on standard output, one JSON object a line."""
        self.logs: list[dict[str, Any]] = []
        """What it logged on standard error, one JSON object a line."""
        self.process: asyncio.subprocess.Process
        self._readers: list[asyncio.Task[None]] = []
        for name, text in ({_FILE: manifests} if isinstance(manifests, str) else manifests).items():
            self.write(text, name)

    def write(self, text: str, name: str = _FILE) -> None:
        """Replace a manifest file as editors do: write another, and rename it."""
        fresh = self.directory / f".{name}.new"
        fresh.write_text(text)
        fresh.rename(self.directory / name)

    async def __aenter__(self) -> Self:
        self.process = await asyncio.create_subprocess_exec(
            _PROGRAM,
            "local",
            str(self.directory),
            *("--listen", self._listen, "--metrics", "127.0.0.1:0", "--concurrency", "1"),
            *("--output", "json", "--log-format", "json", "--log-level", "info"),
            *self._arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 22,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._readers = [
            asyncio.create_task(_read(self.process.stdout, self.events)),
            asyncio.create_task(_read(self.process.stderr, self.logs)),
        ]
        if self._wait:
            try:
                await eventually(
                    lambda: self.events_of("ready") or self.process.returncode is not None, what="it is ready"
                )
                assert self.events_of("ready"), f"it ended before it was ready: {self.events} {self.logs}"
            except BaseException:
                await self.stop()
                raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            for entry in [*self.events, *self.logs]:
                print(entry)
        await self.stop()

    async def stop(self) -> int:
        """End it as a service manager would, and return its exit code."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await self.ended()

    async def ended(self) -> int:
        """Wait for its end, and return its exit code."""
        try:
            code = await asyncio.wait_for(self.process.wait(), 30)
        except TimeoutError:
            self.process.kill()
            raise
        await asyncio.gather(*self._readers)
        self._directory.cleanup()
        return code

    def events_of(self, event: str) -> list[dict[str, Any]]:
        """Return the printed objects of one kind: "ready", "transition", "broken" or "mended"."""
        return [e for e in self.events if e.get("event") == event]

    @property
    def ready(self) -> dict[str, Any]:
        """What it printed when it was ready."""
        return self.events_of("ready")[0]

    @property
    def url(self) -> str:
        """The gateway's address."""
        return str(self.ready["address"])

    @property
    def metrics_url(self) -> str:
        """The address of the operator's own /metrics and /healthz."""
        return str(self.ready["metrics"])

    @property
    def envoy_pid(self) -> int | None:
        """The process id of the Envoy that runs now."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for child in children:
            with suppress(FileNotFoundError):
                if os.readlink(f"/proc/{child}/exe").endswith("envoy"):
                    return int(child)
        return None

    async def admin(self, path: str, method: str = "GET") -> str:
        """Ask Envoy's admin interface."""
        transport = httpx.AsyncHTTPTransport(uds=self.ready["admin"])
        async with httpx.AsyncClient(transport=transport, base_url="http://envoy") as client:
            return (await client.request(method, path)).raise_for_status().text

    async def metrics(self) -> str:
        """Return the operator's metrics."""
        async with httpx.AsyncClient() as client:
            return (await client.get(f"{self.metrics_url}/metrics")).raise_for_status().text

    def client(self, *, pool: str = "ai/chat", key: str = TENANT_KEY, **options: Any) -> AsyncOpenAI:
        """Return the SDK's client for the v1 API. Without retries of its own, so that tests see every answer."""
        return AsyncOpenAI(base_url=f"{self.url}/{pool}/openai/v1", api_key=key, **{"max_retries": 0, **options})

    def azure_client(self, *, pool: str = "ai/chat", key: str = TENANT_KEY, **options: Any) -> AsyncAzureOpenAI:
        """Return the SDK's client for the API by deployment."""
        settings = {"max_retries": 0, "api_version": "2024-10-21", **options}
        return AsyncAzureOpenAI(azure_endpoint=f"{self.url}/{pool}", api_key=key, **settings)


async def _read(stream: asyncio.StreamReader, into: list[dict[str, Any]]) -> None:
    async for line in stream:
        text = line.decode()
        try:
            value = json.loads(text)
        except ValueError:
            value = None
        into.append(value if isinstance(value, dict) else {"event": text.rstrip()})

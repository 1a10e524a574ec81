"""A real Envoy as a child of the test."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from aoai_operator.adapters.envoy_process import find_envoy
from support.waiting import eventually

Json = dict[str, Any]


class RunningEnvoy:
    """`async with` starts it, waits until its admin interface answers, and kills it at the end.

    `bootstrap` is completed by an admin interface on a Unix socket. `log` has its log so far.
    """

    def __init__(self, bootstrap: Json, *, level: str = "warning") -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="envoy-")
        self.directory = Path(self._directory.name)
        self._socket = self.directory / "admin.sock"
        self._file = self.directory / "bootstrap.json"
        self._file.write_text(json.dumps({**bootstrap, "admin": {"address": {"pipe": {"path": str(self._socket)}}}}))
        self._level = level
        self._process: asyncio.subprocess.Process
        self._log = self.directory / "envoy.log"

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            find_envoy(None),
            *("-c", str(self._file), "--concurrency", "1", "--use-dynamic-base-id", "--disable-hot-restart"),
            *("--log-level", self._level, "--log-path", str(self._log)),
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await eventually(self._answers, what="envoy's admin interface answers")
        except BaseException:
            await self._kill()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            print(self.log)
        await self._kill()

    @property
    def log(self) -> str:
        """What it logged."""
        return self._log.read_text() if self._log.exists() else ""

    async def ready(self) -> None:
        """Wait until it has all of its first configuration."""

        async def is_ready() -> bool:
            return (await self._get("/ready")).status_code == 200

        await eventually(is_ready)

    async def admin(self, path: str) -> str:
        """Ask its admin interface."""
        return (await self._get(path)).raise_for_status().text

    async def stat(self, name: str) -> int:
        """Return a counter or gauge, 0 for one that was never touched."""
        line = await self.admin(f"/stats?filter=^{name}$")
        return int(line.rpartition(": ")[2] or 0)

    async def _get(self, path: str) -> httpx.Response:
        transport = httpx.AsyncHTTPTransport(uds=str(self._socket))
        async with httpx.AsyncClient(transport=transport, base_url="http://envoy") as client:
            return await client.get(path)

    async def _answers(self) -> bool:
        assert self._process.returncode is None, self.log
        try:
            await self._get("/ready")
        except httpx.TransportError:
            return False
        return True

    async def _kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        self._directory.cleanup()

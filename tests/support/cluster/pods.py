"""Processes of this machine in the place of pods."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from support.cluster.client import Json
from support.cluster.process import Part

PROGRAM = Path(sys.executable).with_name("aoai-operator")


class Pod:
    """One process in the place of a pod.

    Attributes:
        name: the pod's name.
        ip: its address.
        part: its process.
    """

    def __init__(self, name: str, ip: str) -> None:
        """Take its name and address."""
        self.name = name
        self.ip = ip
        self.part: Part

    async def _answers(self, url: str) -> bool:
        try:
            async with httpx.AsyncClient(trust_env=False) as client:
                return (await client.get(url)).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False


class OperatorPod(Pod):
    """A replica of the operator."""

    @property
    def url(self) -> str:
        """Where /healthz, /readyz and /metrics are."""
        return f"http://{self.ip}:8081"

    async def ready(self) -> bool:
        """Whether it says that it is ready."""
        return await self._answers(f"{self.url}/readyz")

    async def metrics(self) -> str:
        """What /metrics says."""
        async with httpx.AsyncClient(trust_env=False) as client:
            return (await client.get(f"{self.url}/metrics")).text

    def logs(self) -> list[dict[str, Any]]:
        """Its log lines."""
        lines = self.part.log_file.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


class GatewayPod(Pod):
    """An Envoy of the gateway."""

    def __init__(self, name: str, ip: str, admin: int, *, container: Json, grace: float = 30) -> None:
        """Take the port of its admin interface, the container's spec, and the pod's grace period as well."""
        super().__init__(name, ip)
        self._admin = admin
        self._container = container
        self._grace = grace

    async def admin(self, path: str) -> str:
        """Ask its admin interface."""
        async with httpx.AsyncClient(trust_env=False) as client:
            return (await client.get(f"http://127.0.0.1:{self._admin}{path}")).text

    async def live(self) -> bool:
        """Whether its process answers, with or without a configuration."""
        return await self._answers(f"http://127.0.0.1:{self._admin}/ready") or bool(await self._ready_text())

    async def terminate(self) -> None:
        """End it as a kubelet does: the hook first, then SIGTERM, and SIGKILL when the grace period is over.

        Raises:
            AssertionError: it was killed; or the hook failed.
        """
        try:
            async with asyncio.timeout(self._grace):
                if hook := self._container.get("lifecycle", {}).get("preStop"):
                    await self._run_hook(hook["exec"]["command"])
                await self.part.stop()
        except TimeoutError:
            await self.part.kill()
            raise AssertionError(f"{self.name} was killed: its grace period was over") from None

    async def _run_hook(self, command: Sequence[str]) -> None:
        program, *arguments = (text.replace(":9901", f":{self._admin}") for text in command)
        assert program == PROGRAM.name
        hook = await asyncio.create_subprocess_exec(PROGRAM, *arguments, stderr=asyncio.subprocess.PIPE)
        try:
            _, told = await hook.communicate()
        finally:
            if hook.returncode is None:
                hook.kill()
                await hook.wait()
        assert (hook.returncode, told) == (0, b""), told.decode()

    async def _ready_text(self) -> str:
        try:
            return await self.admin("/ready")
        except httpx.TransportError:
            return ""

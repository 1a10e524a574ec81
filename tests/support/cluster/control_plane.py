"""A real Kubernetes control plane on this machine, without containers: `async with ControlPlane() as plane`."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from support.cluster.audit import Audit
from support.cluster.client import Client, Json
from support.cluster.parts import ADMIN, Addresses, Files, command_lines, health_urls
from support.cluster.process import Part
from support.cluster.toolchain import tools

_ZONES = 3


class ControlPlane(Client):
    """etcd, kube-apiserver, kube-controller-manager, kube-scheduler, and kwok, which plays the nodes.

    RBAC decides, every call is in the audit log, TLS is verified, pods are admitted as on a cluster. No container
    runs: kwok says of every pod on its nodes that it is ready.

    Attributes:
        etcd, apiserver, controllers, scheduler, kwok: its processes.
        audit: the audit log.
        directory: where all of it is kept, gone at the end.
    """

    def __init__(self, *, nodes: int = 3) -> None:
        """Take how many nodes there are; they are spread over three zones."""
        self._nodes = nodes
        programs = tools()
        self._exit = contextlib.ExitStack()
        self.directory = Path(self._exit.enter_context(tempfile.TemporaryDirectory(prefix="control-plane-")))
        addresses = self._exit.enter_context(Addresses.reserved())
        files = Files(self.directory, addresses.server)
        super().__init__(
            server=addresses.server,
            ca_file=files.ca,
            kubeconfig=files.kubeconfigs[ADMIN],
            token=files.tokens[ADMIN],
            tools=programs,
            directory=self.directory,
        )
        self.audit = Audit(files.audit_log)
        self._starts: list[int] = []
        commands = command_lines(programs, files, addresses)
        health = health_urls(addresses)
        self.etcd, self.apiserver, self.controllers, self.scheduler, self.kwok = self.parts = [
            Part(
                name,
                command,
                directory=self.directory,
                ready=_answering(health[name], self._trust) if name in health else self._nodes_are_ready,
            )
            for name, command in commands.items()
        ]

    async def __aenter__(self) -> Self:
        try:
            await self.etcd.start()
            await self.apiserver.start()
            for number in range(self._nodes):
                (await self.request("POST", "/api/v1/nodes", json=_node(number))).raise_for_status()
            await self._start_agents()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def heal(self) -> None:
        """Start what a test stopped or killed, and see to it that nothing of that is felt by the next test.

        The controllers, the scheduler and kwok ask a server that was away less and less often, up to 30 s apart, and
        remember it for minutes: after such a test they start afresh.
        """
        for part in (self.etcd, self.apiserver):
            if not part.running:
                await part.start()
        if [part.starts for part in self.parts] != self._starts or not all(part.running for part in self._agents):
            await asyncio.gather(*(part.kill() for part in self._agents))
            await self._start_agents()

    def logs(self) -> str:
        """The end of each process's log."""
        return "\n".join(f"--- {part.name}\n{part.log}" for part in self.parts)

    @property
    def _agents(self) -> tuple[Part, ...]:
        return (self.controllers, self.scheduler, self.kwok)

    async def _start_agents(self) -> None:
        await asyncio.gather(*(part.start() for part in self._agents))
        self._starts = [part.starts for part in self.parts]

    async def _end(self) -> None:
        for part in reversed(self.parts):
            await part.kill()
        self._exit.close()

    async def _nodes_are_ready(self) -> bool:
        nodes = await self.get("v1/nodes")
        return nodes is not None and all(
            any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions", []))
            for node in nodes["items"]
        )


def _answering(url: str, trust: ssl.SSLContext) -> Callable[[], Awaitable[bool]]:
    async def answers() -> bool:
        try:
            async with httpx.AsyncClient(verify=trust, trust_env=False) as client:
                return (await client.get(url)).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    return answers


def _node(number: int) -> Json:
    name = f"node-{number}"
    labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
    labels["topology.kubernetes.io/zone"] = f"zone-{number % _ZONES}"
    return {"metadata": {"name": name, "labels": labels}}

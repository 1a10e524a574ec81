"""The data plane alone: the real Envoy on translate()'s snapshot by the real xDS server, without the loops.

What Envoy does by itself shows best when nothing else steers it: no probe, no throttle, unless a test says `observe`.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
from openai import AsyncAzureOpenAI, AsyncOpenAI

from aoai_operator.adapters.envoy_process import EnvoyOptions, EnvoyProcess, find_envoy
from aoai_operator.adapters.grpc_server import serving
from aoai_operator.adapters.listening import reserved_port
from aoai_operator.adapters.manifests import read_manifests
from aoai_operator.adapters.otlp_log import LogServer
from aoai_operator.adapters.pipe_log import access_log
from aoai_operator.adapters.xds_cache import SnapshotCache
from aoai_operator.adapters.xds_resources import pack
from aoai_operator.adapters.xds_server import XdsServer
from aoai_operator.core.accesslog import Answer, Attempt
from aoai_operator.core.compiler import compile_world
from aoai_operator.core.envoy.bootstrap import UnixAddress, bootstrap
from aoai_operator.core.envoy.settings import GatewaySettings
from aoai_operator.core.envoy.snapshot import TypeUrl
from aoai_operator.core.envoy.translate import translate
from aoai_operator.core.names import HostKey
from aoai_operator.core.observed import HostState, Overrides
from aoai_operator.core.proxies import Proxy
from aoai_operator.local_resources import world_of
from aoai_operator.settings import system_trust
from support.manifests import TENANT_KEY
from support.waiting import eventually


class DataPlane:
    """A running Envoy with the pools of some manifests; `async with` starts it and waits until it serves."""

    def __init__(
        self,
        manifests: str,
        *,
        trusted_ca: Path | None = None,
        overrides: Overrides | None = None,
        logs: LogServer | None = None,
        https: bool = False,
    ) -> None:
        """Take the manifests; `logs` gets the access log by OpenTelemetry, instead of the pipe."""
        self._https = https
        self._manifests = manifests
        self._logs = logs
        self._trusted_ca = trusted_ca or system_trust()
        self._stack = AsyncExitStack()
        self.control = AsyncExitStack()
        """What Envoy dials; closing it takes the control plane away."""
        self._cache = SnapshotCache(pack)
        self._overrides = overrides or Overrides()
        self._settled = ""
        self.answers_log: list[Answer] = []
        """The access log's answers, in the order of their ends."""
        self.attempts_log: list[Attempt] = []
        """The access log's failed attempts."""
        self.refused: list[str] = []
        """What Envoy said of resources that it refused."""

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                faults = await self.stats("lua.errors")
                assert not any(faults.values()), f"our Lua failed: {faults}"
        finally:
            await self._stack.aclose()

    async def _start(self) -> None:
        self.directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="aoai-test-")))
        self._port = self._stack.enter_context(reserved_port("127.0.0.1", 0))
        tls_port = self._stack.enter_context(reserved_port("127.0.0.1", 0)) if self._https else None
        self._settings = GatewaySettings(
            gateway="default",
            listen_host="127.0.0.1",
            listen_port=self._port,
            access_log=None if self._logs else str(self.directory / "log"),
            trusted_ca=str(self._trusted_ca),
            tls_port=tls_port,
        )
        await self._stack.enter_async_context(access_log(self.directory / "log", self))
        handlers = [XdsServer(self._cache, [self]).handler(), *([self._logs.handler()] if self._logs else [])]
        await self._stack.enter_async_context(self.control)
        await self.control.enter_async_context(serving(f"unix:{self.directory / 'xds'}", handlers))
        envoy = EnvoyProcess(
            EnvoyOptions(
                binary=find_envoy(None),
                directory=self.directory,
                bootstrap=bootstrap(
                    node_id="test",
                    gateway="default",
                    control_plane=UnixAddress(str(self.directory / "xds")),
                    admin=UnixAddress(str(self.directory / "admin")),
                ),
                admin_socket=self.directory / "admin",
                concurrency=1,
                drain_seconds=1,
            )
        )
        running = asyncio.create_task(envoy.run())
        self._stack.push_async_callback(_cancelled, running)
        await self.apply(self._manifests)

    async def apply(self, manifests: str, overrides: Overrides | None = None) -> None:
        """Make these manifests, and these observations, the ones in force; return when Envoy has taken them."""
        file = self.directory / "manifests.yaml"
        file.write_text(manifests)
        found = read_manifests([file])
        assert not found.faults, found.faults
        world = world_of(found)
        compiled = compile_world(world)
        assert not compiled.findings, compiled.findings
        self._manifests = manifests
        self._overrides = self._overrides if overrides is None else overrides
        tables = list(compiled.tables.values())
        snapshot = translate(tables, world.secrets, self._overrides, self._settings)
        bad = self._cache.publish("default", snapshot)
        assert not bad, bad
        await eventually(lambda: self._settled == snapshot.version or self.refused, what="Envoy has the snapshot")
        assert not self.refused, self.refused

    async def observe(self, hosts: Mapping[HostKey, HostState]) -> None:
        """Make these the states of the hosts, all others being unknown."""
        await self.apply(self._manifests, replace(self._overrides, hosts=hosts))

    def answers(self, batch: Sequence[Answer]) -> None:
        """Take lines of the access log (ports.LogSink)."""
        self.answers_log += batch

    def attempts(self, batch: Sequence[Attempt]) -> None:
        """Take lines of the access log (ports.LogSink)."""
        self.attempts_log += batch

    def connected(self, proxy: Proxy) -> None:
        """Nothing to do (ports.XdsObserver)."""

    def disconnected(self, proxy: Proxy) -> None:
        """Nothing to do (ports.XdsObserver)."""

    def acked(self, proxy: Proxy, type_url: TypeUrl, versions: Mapping[str, str]) -> None:
        """Nothing to do (ports.XdsObserver)."""

    def nacked(self, proxy: Proxy, type_url: TypeUrl, versions: Mapping[str, str], message: str) -> None:  # noqa: ARG002
        """Keep a refusal (ports.XdsObserver)."""
        self.refused.append(f"{type_url.name} {', '.join(versions)}: {message}")

    def settled(self, proxy: Proxy, version: str) -> None:  # noqa: ARG002
        """Keep the version (ports.XdsObserver)."""
        self._settled = version

    @property
    def url(self) -> str:
        """The gateway's address."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def address(self) -> tuple[str, int]:
        """The gateway's address, for sockets."""
        return "127.0.0.1", urlsplit(self.url).port or 0

    @property
    def tls_port(self) -> int:
        """The port of its HTTPS listener, 0 for none."""
        return self._settings.tls_port or 0

    async def admin(self, path: str) -> str:
        """Ask Envoy's admin interface."""
        transport = httpx.AsyncHTTPTransport(uds=str(self.directory / "admin"))
        async with httpx.AsyncClient(transport=transport, base_url="http://envoy") as client:
            return (await client.get(path)).raise_for_status().text

    async def stats(self, pattern: str) -> dict[str, int]:
        """Return Envoy's counters and gauges whose names match a regular expression."""
        found = json.loads(await self.admin(f"/stats?format=json&filter={pattern}"))["stats"]
        return {one["name"]: one["value"] for one in found if "value" in one}

    def client(self, *, pool: str = "ai/chat", key: str = TENANT_KEY, **options: Any) -> AsyncOpenAI:
        """Return the SDK's client for the v1 API. Without retries of its own, so that tests see every answer."""
        return AsyncOpenAI(base_url=f"{self.url}/{pool}/openai/v1", api_key=key, **{"max_retries": 0, **options})

    def azure_client(self, *, pool: str = "ai/chat", key: str = TENANT_KEY, **options: Any) -> AsyncAzureOpenAI:
        """Return the SDK's client for the API by deployment."""
        settings = {"max_retries": 0, "api_version": "2024-10-21", **options}
        return AsyncAzureOpenAI(azure_endpoint=f"{self.url}/{pool}", api_key=key, **settings)

    def http(self, *, key: str = TENANT_KEY, **options: Any) -> httpx.AsyncClient:
        """Return a client that knows nothing of OpenAI, for what its SDK would not send."""
        headers = {"api-key": key, **options.pop("headers", {})}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=30, **options)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

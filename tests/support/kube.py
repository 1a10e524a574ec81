"""What the tests of the Kubernetes adapters share: a client, objects, and a client that can be cut off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx

from aoai_operator.core.api import API_VERSION
from aoai_operator.core.names import PoolKey
from aoai_operator.ports import JsonObject, KubeApi, KubeError, Resource
from support.cluster.control_plane import ControlPlane

CRDS = Path(__file__).parents[2] / "crds"

T = TypeVar("T")


def pool(name: str, namespace: str, **metadata: Any) -> JsonObject:
    """Return the smallest pool."""
    endpoint = {
        "name": "a",
        "url": "https://a.openai.azure.com",
        "auth": {"apiKey": {"secretRef": {"name": "key"}}},
        "deployments": [{"name": "gpt", "model": "gpt-4o"}],
    }
    return {
        "apiVersion": API_VERSION,
        "kind": "AOAIBackendPool",
        "metadata": {"name": name, "namespace": namespace, **metadata},
        "spec": {"models": [{"name": "gpt-4o"}], "endpoints": [endpoint]},
    }


def config_map(name: str, namespace: str, *, labels: dict[str, str] | None = None, **data: str) -> JsonObject:
    """Return a ConfigMap."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace, "labels": labels or {}},
        "data": data,
    }


async def forget(plane: ControlPlane) -> None:
    """Have the API server forget all versions but the present one: who goes on from an older one gets a 410."""
    listed = await plane.get("v1/namespaces")
    assert listed is not None
    (etcd,) = [a.partition("=")[2] for a in plane.etcd._command if a.startswith("--listen-client-urls=")]
    async with httpx.AsyncClient(trust_env=False) as client:
        body = {"revision": listed["metadata"]["resourceVersion"], "physical": True}
        (await client.post(f"{etcd}/v3/kv/compaction", json=body)).raise_for_status()
    # What etcd has forgotten, the server still has in memory.
    await plane.apiserver.kill()
    await plane.apiserver.start()


class Line:
    """Implements `KubeApi` by another one, over a line that can be cut.

    Attributes:
        refused: every call fails at once.
        silent: calls are sent, and their answers never come; those under way as well.
        calls: what was asked for.
    """

    def __init__(self, api: KubeApi) -> None:
        """Take the API server."""
        self._api = api
        self.refused = False
        self.silent = False
        self.calls: list[tuple[str, str]] = []

    async def list(self, resource: Resource, namespace: str | None = None, labels: str = "") -> tuple[JsonObject, ...]:
        """List."""
        return await self._over("list", namespace or "", self._api.list(resource, namespace, labels))

    async def get(self, resource: Resource, key: PoolKey) -> JsonObject | None:
        """Get."""
        return await self._over("get", key.name, self._api.get(resource, key))

    async def apply(self, resource: Resource, body: JsonObject, *, status: bool = False, part: str = "") -> JsonObject:
        """Apply."""
        applied = self._api.apply(resource, body, status=status, part=part)
        return await self._over("apply", body["metadata"]["name"], applied)

    async def create(self, resource: Resource, body: JsonObject) -> JsonObject:
        """Create."""
        return await self._over("create", str(body.get("metadata", {}).get("name")), self._api.create(resource, body))

    async def replace(self, resource: Resource, body: JsonObject) -> JsonObject:
        """Replace."""
        return await self._over("replace", body["metadata"]["name"], self._api.replace(resource, body))

    async def delete(self, resource: Resource, key: PoolKey) -> None:
        """Delete."""
        await self._over("delete", key.name, self._api.delete(resource, key))

    async def serves(self, resource: Resource) -> bool:
        """Ask for a kind."""
        return await self._over("serves", resource.plural, self._api.serves(resource))

    async def _over(self, verb: str, name: str, call: Coroutine[Any, Any, T]) -> T:
        self.calls.append((verb, name))
        if self.refused:
            call.close()
            raise KubeError(0, "Unreachable", "the line is cut")
        answer = await call
        if self.silent:
            await asyncio.Event().wait()
        return answer


class Forwarder:
    """A TCP proxy before a server, which can be cut: `async with Forwarder(port) as line`."""

    def __init__(self, port: int) -> None:
        """Take the server's port on this machine."""
        self.port = 0
        self._to = port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self.mend()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()

    async def mend(self) -> None:
        """Take connections, at the same port each time."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """End all connections, and refuse others."""
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        writers = [writer]
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to)
            writers.append(far_writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, far_writer))
                group.create_task(_copy(far_reader, writer))
        except* OSError:
            pass
        finally:
            for each in writers:
                each.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    raise ConnectionResetError


@asynccontextmanager
async def running(*jobs: Coroutine[Any, Any, None]) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Run jobs while the block runs; one that fails fails the test."""
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        yield tasks
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError, Exception):
                await task

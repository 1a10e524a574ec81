"""A whole installation for a test: the chart's operator and Envoys, simulated regions, a pool and a tenant."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

from openai import AsyncAzureOpenAI

from aoai_operator.simulator import Deployment, Region, Simulator
from support.cluster.client import Json
from support.cluster.control_plane import ControlPlane
from support.cluster.release import Release
from support.manifests import TENANT_KEY, pool_manifest

CRDS = Path(__file__).parents[3] / "crds"
POOLS, QUOTAS = "aoai.dev/v1alpha1/aoaibackendpools", "aoai.dev/v1alpha1/tenantquotas"


class House:
    """One release in a namespace of its own, which is the only one that it watches.

    Attributes:
        plane, release, namespace: the cluster, the chart, and where it is installed.
        azure: two regions, east and west, each with the model gpt-4o.
    """

    def __init__(self, plane: ControlPlane, namespace: str, *, values: Json | None = None) -> None:
        """Take the cluster, the namespace and the chart's values."""
        self.plane = plane
        self.namespace = namespace
        watched = {"crds": {"enabled": False}, "watchNamespaces": [namespace]}
        self.release = Release(plane, namespace, values={**watched, **(values or {})})
        self.azure = Simulator(
            [Region(name=name, deployments=(Deployment(name="gpt-4o", model="gpt-4o"),)) for name in ("east", "west")]
        )
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await self.plane.apply(CRDS)
            await stack.enter_async_context(self.azure)
            await stack.enter_async_context(self.release)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is not None:
            for title, log in self.logs():
                error.add_note(f"{title}:\n{log}")
        dead = {name: pod.part for name, pod in self.release.gateways.items() if pod.part.died}
        await self._stack.aclose()
        # A client's retries may hide it.
        assert not dead, "\n".join(f"{name} {part.state}:\n{part.log}" for name, part in dead.items())

    def logs(self) -> list[tuple[str, str]]:
        """Return the end of the log of each operator and Envoy, after what says whose it is."""
        pods = {**self.release.operators, **self.release.gateways}
        return [(f"the end of the log of {name}, which {pod.part.state}", pod.part.log) for name, pod in pods.items()]

    async def apply_pool(self, name: str = "chat", **options: Any) -> None:
        """Apply a pool over the regions, its Secrets and its tenant, as `pool_manifest` makes them."""
        await self.plane.apply(pool_manifest(self.azure, name=name, namespace=self.namespace, **options))

    async def pool_is(self, condition: str, status: str = "True", *, name: str = "chat", within: float = 60) -> Json:
        """Wait until a condition of a pool, of its present generation, has a status; return the pool."""

        def as_wished(pool: Json) -> bool:
            found = {c["type"]: c for c in pool.get("status", {}).get("conditions", ())}
            known = found.get(condition)
            fresh = pool.get("status", {}).get("observedGeneration") == pool["metadata"]["generation"]
            return fresh and known is not None and known["status"] == status

        return await self.plane.wait_for(as_wished, POOLS, name, namespace=self.namespace, within=within)

    async def pool(self, name: str = "chat") -> Json:
        """Read a pool."""
        found = await self.plane.get(POOLS, name, namespace=self.namespace)
        assert found is not None
        return found

    def client(self, name: str = "chat", *, gateway: str = "", **options: Any) -> AsyncAzureOpenAI:
        """Return the SDK's client of a pool, as its tenant; `gateway`: its URL where it is not the release's own."""
        return AsyncAzureOpenAI(
            azure_endpoint=f"{gateway or self.release.url}/{self.namespace}/{name}",
            api_key=TENANT_KEY,
            api_version="2024-10-21",
            **options,
        )

"""The examples, as they are but for their regions' addresses, serve the SDK."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path

import yaml
from openai import AsyncAzureOpenAI

from aoai_operator.simulator import Deployment, Region, Simulator
from support.calls import ask, requests
from support.cluster.client import Json
from support.cluster.control_plane import ControlPlane
from support.cluster.house import House

EXAMPLES = Path(__file__).parents[2] / "examples"
FOLDERS = ("smallest", "two-tenants", "ptu-first")
NAMESPACES = ("ai", "reports")


class Example:
    """A folder of examples: its objects, and regions that are as its pool says."""

    def __init__(self, folder: str) -> None:
        files = sorted((EXAMPLES / folder).glob("*.yaml"))
        self.documents: list[Json] = [d for f in files for d in yaml.safe_load_all(f.read_text(encoding="utf-8"))]
        (self.pool,) = self._of("AOAIBackendPool")
        self.azure = Simulator([self._region(endpoint) for endpoint in self.pool["spec"]["endpoints"]])

    def _of(self, kind: str) -> list[Json]:
        return [d for d in self.documents if d["kind"] == kind]

    def _region(self, endpoint: Json) -> Region:
        key = self._value("ai", endpoint["auth"]["apiKey"]["secretRef"])
        deployments = [Deployment(name=d["name"], model=d["model"]) for d in endpoint["deployments"]]
        return Region(name=endpoint["name"], key=key, deployments=deployments)

    def _value(self, namespace: str, ref: Json) -> str:
        (found,) = (
            d["stringData"]
            for d in self._of("Secret")
            if (d["metadata"]["namespace"], d["metadata"]["name"]) == (namespace, ref["name"])
        )
        return str(found[ref.get("key", "api-key")])

    def simulated(self) -> list[Json]:
        """Return the objects, with the addresses of the regions that run here."""
        for endpoint in self.pool["spec"]["endpoints"]:
            endpoint["url"] = self.azure.regions[endpoint["name"]].url
        return self.documents

    def calls(self) -> Iterable[tuple[str, str]]:
        """Return each key of each tenant, with a model that the tenant may use."""
        for tenant in self._of("TenantQuota"):
            models = tenant["spec"].get("models") or [self.pool["spec"]["models"][0]["name"]]
            for identity in tenant["spec"]["identities"]:
                yield self._value(tenant["metadata"]["namespace"], identity["apiKey"]["secretRef"]), models[0]


async def test_serves_every_tenant(plane: ControlPlane, namespace: str) -> None:
    examples = {folder: Example(folder) for folder in FOLDERS}
    for name in NAMESPACES:
        await plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    async with AsyncExitStack() as stack:
        for example in examples.values():
            await stack.enter_async_context(example.azure)
        house = await stack.enter_async_context(House(plane, namespace, values={"watchNamespaces": [*NAMESPACES]}))
        documents = [d for example in examples.values() for d in example.simulated()]
        await house.release.start_operator()
        await house.release.start_gateway()
        await plane.apply(*documents)
        kept = yaml.safe_dump_all(documents)
        stack.push_async_callback(plane.kubectl, "delete", "-f", "-", stdin=kept)
        for example in examples.values():
            name = example.pool["metadata"]["name"]
            await plane.kubectl("wait", f"abp/{name}", "-n", "ai", "--for=condition=Ready", "--timeout=60s")
            for key, model in example.calls():
                async with AsyncAzureOpenAI(
                    azure_endpoint=f"{house.release.url}/ai/{name}", api_key=key, api_version="2024-10-21"
                ) as client:
                    assert await ask(client, model)
        used = [record.deployment for record in requests(examples["ptu-first"].azure) if record.deployment]
        assert used == ["gpt-4o-ptu"]

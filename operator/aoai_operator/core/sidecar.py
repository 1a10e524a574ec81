"""Puts an Envoy beside an application: a workload's object in, the same with a sidecar out. Pure.

The sidecar is a native one: an init container that is restarted (Kubernetes 1.29 on). It starts before the
application and, as the kubelet ends it after the application, needs no preStop hook: a drain of its own would begin
with the end of the pod, and refuse the application's last requests.

All files of the sidecar are in one projected volume: the bootstrap and what it names lie in annotations of the pod,
which the kubelet writes as files, beside the operator's CA and the service-account token. So the application's
namespace needs no object of ours but the ConfigMap with the CA, which the operator makes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from aoai_operator.core.envoy.bootstrap import TcpAddress, Token, bootstrap
from aoai_operator.core.envoy.control_plane import TRUST_FILE, sds_files
from aoai_operator.core.envoy.ready import ready_listener
from aoai_operator.core.envoy.snapshot import Json
from aoai_operator.core.names import PoolKey

PORT = 18080
"""Where it serves on loopback. Not 8080, where applications listen, and would hinder it or be hindered."""
READY_PORT = 18081
CONTROL_PLANE_PORT = 18001
CONTAINER = "aoai-gateway"
DIRECTORY = "/etc/aoai"
TOKEN_AUDIENCE = "aoai.dev"  # noqa: S105
ENDPOINT = "AZURE_OPENAI_ENDPOINT"
"""What AzureOpenAI of the SDK reads. OPENAI_BASE_URL is left alone: an application may also talk to OpenAI itself."""

TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "Pod": (),
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "ReplicationController": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}
"""Where the pod is in each kind of workload."""
_GROUPS = {"Pod": "v1", "ReplicationController": "v1", "Job": "batch/v1", "CronJob": "batch/v1"}

_BOOTSTRAP = "bootstrap.json"
_ANNOTATION = "sidecar.aoai.dev/"


class InjectError(Exception):
    """An object cannot be given a sidecar; `field` is the path in it, and the message a sentence."""

    def __init__(self, field: str, message: str) -> None:
        """Take both."""
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """What is put beside an application.

    Attributes:
        gateway: the gateway whose pools it serves.
        operator_namespace: where the operator runs.
        name: the operator's release, the first part of the names of its Service and ConfigMap.
        image: the operator's image, in which Envoy is.
        port: where it serves on loopback; the operator must say the same.
        ready_port: where the kubelet asks whether it is ready.
        control_plane_port: of the operator's Service, for proxies with a token.
        pool: the pool whose address applications are given; None: the gateway's.
    """

    gateway: str
    operator_namespace: str
    name: str
    image: str
    port: int
    ready_port: int
    control_plane_port: int
    pool: PoolKey | None = None

    @property
    def url(self) -> str:
        """The address for applications."""
        return f"http://127.0.0.1:{self.port}" + (f"/{self.pool}" if self.pool else "")

    def access(self) -> Token:
        """Return how its Envoy reaches the operator."""
        host = f"{self.name}-xds.{self.operator_namespace}.svc"
        return Token(
            TcpAddress(host, self.control_plane_port),
            server_name=host,
            trust=DIRECTORY,
            token=f"{DIRECTORY}/token",
            sds=DIRECTORY,
        )

    def bootstrap(self) -> Json:
        """Return its Envoy's bootstrap; the name of the Envoy comes by --service-node."""
        admin = TcpAddress("127.0.0.1", 9901)
        static = bootstrap(
            node_id="", gateway=self.gateway, control_plane=self.access(), admin=admin, max_connections=10_000
        )
        first = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
        listen = TcpAddress("0.0.0.0", self.ready_port)  # noqa: S104
        return {
            **static,
            # It is not ready before its configuration has come, however long that takes.
            "dynamic_resources": {**static["dynamic_resources"], "lds_config": first, "cds_config": first},
            "static_resources": {**static["static_resources"], "listeners": [ready_listener(listen)]},
        }


def inject(data: Any, sidecar: Sidecar) -> Any:
    """Return an object with the sidecar in its pods; a List with it in each of its workloads; others as they are.

    A pod that has it already gets it anew: twice is as once.

    Raises:
        InjectError: it is a workload whose pods cannot be read.
    """
    if not isinstance(data, dict):
        raise InjectError("", "is no Kubernetes object")
    kind = str(data.get("kind"))
    if kind == "List" or (kind.endswith("List") and kind[:-4] in TEMPLATES):
        return {**data, "items": [_item(item, n, sidecar) for n, item in enumerate(_list(data, "items", "items"))]}
    if kind not in TEMPLATES or data.get("apiVersion") != _GROUPS.get(kind, "apps/v1"):
        return data
    changed = deepcopy(data)
    template: Any = changed
    for depth, name in enumerate(TEMPLATES[kind], start=1):
        template = template.get(name)
        if not isinstance(template, dict):
            raise InjectError(".".join(TEMPLATES[kind][:depth]), "is missing, or no map")
    _inject_pod(template, ".".join(TEMPLATES[kind]), sidecar)
    return changed


def _item(item: Any, number: int, sidecar: Sidecar) -> Any:
    try:
        return inject(item, sidecar)
    except InjectError as error:
        at = f"items[{number}]"
        raise InjectError(f"{at}.{error.field}" if error.field else at, str(error)) from None


def _inject_pod(pod: dict[str, Any], at: str, sidecar: Sidecar) -> None:
    prefix = f"{at}." if at else ""
    spec = pod.get("spec")
    if not isinstance(spec, dict):
        raise InjectError(f"{prefix}spec", "is missing, or no map")
    where = f"{prefix}spec"
    containers = _list(spec, "containers", f"{where}.containers")
    if not containers:
        raise InjectError(f"{where}.containers", "has no container")
    if spec.get("hostNetwork") is True:
        raise InjectError(f"{where}.hostNetwork", "is true: the sidecar would serve every process of the node")
    if any(container.get("name") == CONTAINER for container in containers):
        raise InjectError(f"{where}.containers", f"has a container {CONTAINER}, the name of the sidecar")
    before = _list(spec, "initContainers", f"{where}.initContainers")
    again = any(container.get("name") == CONTAINER for container in before)
    spec["initContainers"] = _with(before, _container(sidecar))
    for application in containers:
        at = f"{where}.containers[{application.get('name', '')}]"
        _point_at(application, sidecar.url, at, again=again)
    spec["volumes"] = _with(_list(spec, "volumes", f"{where}.volumes"), _volume(sidecar), first=False)
    metadata = pod.setdefault("metadata", {})
    if metadata is None:
        metadata = pod["metadata"] = {}
    annotations = metadata.get("annotations") or {} if isinstance(metadata, dict) else None
    if not isinstance(annotations, dict):
        raise InjectError(f"{prefix}metadata.annotations", "is no map")
    metadata["annotations"] = {**annotations, **_annotations(sidecar)}


def _list(data: Mapping[str, Any], name: str, at: str) -> list[dict[str, Any]]:
    found = data.get(name)
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise InjectError(at, "is no list of maps")
    return found


def _with(found: Sequence[Json], one: Json, *, first: bool = True) -> list[Json]:
    """Return a list with an item in the place of its namesake, or else at one end."""
    if any(other.get("name") == one["name"] for other in found):
        return [one if other.get("name") == one["name"] else other for other in found]
    return [one, *found] if first else [*found, one]


def _point_at(container: dict[str, Any], url: str, at: str, *, again: bool) -> None:
    """Set the endpoint, unless the application sets it; `again`: an address on loopback is one that we set before."""
    environment = _list(container, "env", f"{at}.env")
    ours = {"name": ENDPOINT, "value": url}
    theirs = next((entry for entry in environment if entry.get("name") == ENDPOINT), None)
    if theirs is None:
        # First: $(AZURE_OPENAI_ENDPOINT) is expanded only in what comes after it.
        container["env"] = [ours, *environment]
    elif again and str(theirs.get("value", "")).startswith("http://127.0.0.1:"):
        container["env"] = [ours if entry is theirs else entry for entry in environment]


def _annotations(sidecar: Sidecar) -> dict[str, str]:
    files = {_BOOTSTRAP: sidecar.bootstrap(), **sds_files(sidecar.access())}
    return {
        _ANNOTATION + name: json.dumps(content, separators=(",", ":"), sort_keys=True)
        for name, content in sorted(files.items())
    }


def _volume(sidecar: Sidecar) -> Json:
    items = [
        {"path": name, "fieldRef": {"fieldPath": f"metadata.annotations['{_ANNOTATION}{name}']"}}
        for name in (_BOOTSTRAP, TRUST_FILE)
    ]
    return {
        "name": CONTAINER,
        "projected": {
            "sources": [
                {"downwardAPI": {"items": items}},
                {"configMap": {"name": f"{sidecar.name}-trust", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {
                    "serviceAccountToken": {
                        "path": "token",
                        "audience": TOKEN_AUDIENCE,
                        "expirationSeconds": 3600,
                    }
                },
            ]
        },
    }


def _container(sidecar: Sidecar) -> Json:
    ready = {"httpGet": {"path": "/ready", "port": sidecar.ready_port}}
    return {
        "name": CONTAINER,
        "image": sidecar.image,
        "restartPolicy": "Always",
        "command": ["envoy"],
        "args": [
            *("--config-path", f"{DIRECTORY}/{_BOOTSTRAP}"),
            *("--service-node", "$(POD_NAME)"),
            *("--concurrency", "2"),
            *("--log-level", "warning"),
            "--disable-hot-restart",
            "--skip-deprecated-logs",
        ],
        "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "ports": [{"name": "aoai-ready", "containerPort": sidecar.ready_port}],
        # The application starts when this has succeeded once: its first request finds the gateway there.
        "startupProbe": {**ready, "periodSeconds": 1, "failureThreshold": 120},
        "readinessProbe": {**ready, "periodSeconds": 10, "failureThreshold": 3},
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [{"name": CONTAINER, "mountPath": DIRECTORY, "readOnly": True}],
    }

"""The chart: what it takes from the code (definitions, bootstraps of Envoy), and what helm makes of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import yaml

from aoai_operator.core.envoy.bootstrap import bootstrap
from aoai_operator.core.envoy.control_plane import MutualTls, TcpAddress, UnixAddress, sds_files
from aoai_operator.core.envoy.snapshot import Json
from aoai_operator.crds import rendered
from support.cluster import commands
from support.cluster.toolchain import tools

CHART = Path(__file__).parents[2] / "charts" / "aoai-operator"
FILES = CHART / "files"

_MAX_CONNECTIONS = 999_999_001
_MAX_HEAP_BYTES = 999_999_002
_TEMPLATES = {
    str(_MAX_CONNECTIONS): "{{ .Values.gateway.maxConnections }}",
    str(_MAX_HEAP_BYTES): '{{ include "aoai-operator.maxHeapBytes" . }}',
    "XDS-HOST": '{{ include "aoai-operator.xdsHost" . }}',
    "GATEWAY-NAME": "{{ .Values.gateway.name }}",
}
"""What stands in the files in place of a value, by a value that occurs nowhere else."""


def gateway_files(*, host: str, gateway: str, max_connections: int, max_heap_bytes: int) -> Mapping[str, Json]:
    """Return the files of an Envoy in a pod of its own, by name. Envoy's id is given on its command line."""
    access = MutualTls(TcpAddress(host, 18000), server_name=host, certificates="/etc/aoai/tls", sds="/etc/envoy")
    start = bootstrap(
        node_id="",
        gateway=gateway,
        control_plane=access,
        admin=TcpAddress("127.0.0.1", 9901),
        max_connections=max_connections,
        max_heap_bytes=max_heap_bytes,
    )
    return {"bootstrap.json": start, **sds_files(access)}


def operator_pod_files(*, gateway: str, max_connections: int, max_heap_bytes: int) -> Mapping[str, Json]:
    """Return the files of an Envoy beside the operator, by name."""
    start = bootstrap(
        node_id="",
        gateway=gateway,
        control_plane=UnixAddress("/run/aoai/operator.sock"),
        admin=TcpAddress("127.0.0.1", 9901),
        max_connections=max_connections,
        max_heap_bytes=max_heap_bytes,
    )
    return {"bootstrap.json": start}


def chart_files() -> Mapping[Path, str]:
    """Return the text of every file of the chart that is written from the code, by path."""
    bounds = {"max_connections": _MAX_CONNECTIONS, "max_heap_bytes": _MAX_HEAP_BYTES}
    gateway = gateway_files(host="XDS-HOST", gateway="GATEWAY-NAME", **bounds)
    beside = operator_pod_files(gateway="GATEWAY-NAME", **bounds)
    return {
        **{FILES / "crds" / name: text for name, text in rendered().items()},
        **{FILES / "gateway" / name: _template(content) for name, content in gateway.items()},
        **{FILES / "operator-pod" / name: _template(content) for name, content in beside.items()},
    }


def _template(content: Json) -> str:
    text = json.dumps(content, indent=2)
    for value, template in _TEMPLATES.items():
        text = text.replace(value, template)
    return text + "\n"


class Helm:
    """The real helm, without a cluster."""

    def __init__(self, home: Path) -> None:
        """Take where it may keep files."""
        self._environment = commands.environment(home, home / "no-kubeconfig")

    async def run(self, *arguments: str) -> str:
        """Run it and return what it printed.

        Raises:
            CommandFailedError: it failed.
        """
        return await commands.run(tools()["helm"], *arguments, environment=self._environment)

    async def template(self, *arguments: str, release: str = "aoai-operator", namespace: str = "aoai-system") -> str:
        """Render the chart, with more arguments such as `--values FILE`."""
        return await self.run("template", release, str(CHART), "--namespace", namespace, *arguments)

    async def objects(self, *arguments: str, release: str = "aoai-operator") -> dict[tuple[str, str], Json]:
        """Render the chart and return the objects by kind and name; of several of one name, one."""
        objects = (o for o in yaml.safe_load_all(await self.template(*arguments, release=release)) if o)
        return {(o["kind"], o["metadata"]["name"]): o for o in objects}


def arguments_of(deployment: Json, container: str) -> list[str]:
    """Return the command line of a container, as the manifest has it: with $(POD_NAME) and the like."""
    containers = deployment["spec"]["template"]["spec"]["containers"]
    (found,) = (c for c in containers if c["name"] == container)
    return [*found["command"], *found["args"]]

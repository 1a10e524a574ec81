"""The commands for Envoys that run elsewhere: inject, bootstrap, drain."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, TextIO

import typer

from aoai_operator.adapters.draining import drain as drain_envoy
from aoai_operator.command_line import WRONG_MANIFESTS, fail, seconds
from aoai_operator.core.envoy.bootstrap import MutualTls, TcpAddress, bootstrap
from aoai_operator.core.envoy.control_plane import sds_files
from aoai_operator.core.envoy.snapshot import Json
from aoai_operator.core.names import PoolKey
from aoai_operator.core.sidecar import CONTROL_PLANE_PORT, PORT, READY_PORT, Sidecar
from aoai_operator.injecting import InjectFailedError, inject_all

_IMAGE = f"ghcr.io/aoai-operator/aoai-operator:{version('aoai-operator')}"


class Form(StrEnum):
    """How manifests are written."""

    YAML = "yaml"


class Remote(StrEnum):
    """Where an Envoy runs that is not beside the operator."""

    GATEWAY = "gateway"
    SIDECAR = "sidecar"


def _pool(text: str) -> PoolKey:
    key = PoolKey.of(text)
    if not (key.namespace and key.name) or "/" in key.name:
        raise typer.BadParameter(f"{text!r} is not NAMESPACE/NAME, such as ai/chat")
    return key


Gateway = Annotated[str, typer.Option("--gateway", help="The gateway whose pools it serves.")]
OperatorNamespace = Annotated[
    str, typer.Option("--operator-namespace", metavar="NAMESPACE", help="Where the operator runs.")
]
Release = Annotated[str, typer.Option("--name", help="The operator's release: how its Service and Secrets begin.")]
Port = Annotated[int, typer.Option("--port", min=1, max=65535, help="Where it serves on 127.0.0.1; as the operator.")]

INJECT_EXAMPLES = """Examples:

  kubectl get deployment api -o yaml | aoai-operator inject --pool ai/chat | kubectl apply -f -

  aoai-operator inject deployment.yaml --pool ai/chat --operator-namespace aoai-system

  kustomize build . | aoai-operator inject --pool ai/chat

Containers get AZURE_OPENAI_ENDPOINT unless they set it themselves; for the v1 API, set OPENAI_BASE_URL to
$(AZURE_OPENAI_ENDPOINT)/openai/v1. The pool must say spec.gateway.sidecars: Allowed. Needs Kubernetes 1.29 or newer.
Running it twice is as running it once. Documents keep their order; comments are lost. Ends with 1 when a workload
cannot be read.
"""


def inject(
    files: Annotated[
        list[typer.FileText] | None,
        typer.Argument(metavar="FILE...", help="Manifests. Default, and -: standard input."),
    ] = None,
    *,
    pool: Annotated[
        PoolKey | None,
        typer.Option(
            "--pool", metavar="NAMESPACE/NAME", parser=_pool, help="The pool that applications get the address of."
        ),
    ] = None,
    gateway: Gateway = "default",
    operator_namespace: OperatorNamespace = "aoai-system",
    name: Release = "aoai-operator",
    image: Annotated[str, typer.Option("--image", help="The operator's image; Envoy is in it.")] = _IMAGE,
    port: Port = PORT,
    output: Annotated[Form, typer.Option("--output", help="How manifests are written.")] = Form.YAML,  # noqa: ARG001
) -> None:
    """Put an Envoy beside the application of each workload: YAML in, YAML out. Other objects pass as they are."""
    sidecar = Sidecar(
        gateway=gateway,
        operator_namespace=operator_namespace,
        name=name,
        image=image,
        port=port,
        ready_port=READY_PORT,
        control_plane_port=CONTROL_PLANE_PORT,
        pool=pool,
    )
    try:
        typer.echo(inject_all(_texts(files), sidecar), nl=False)
    except InjectFailedError as error:
        fail(str(error), WRONG_MANIFESTS)


def _texts(files: list[typer.FileText] | None) -> Iterator[tuple[str, str]]:
    sources: Sequence[TextIO] = files or [sys.stdin]
    for file in sources:
        name = "standard input" if file.name in ("-", "<stdin>") else file.name
        try:
            yield name, file.read()
        except UnicodeDecodeError:
            raise InjectFailedError(f"{name}: is not UTF-8") from None


BOOTSTRAP_EXAMPLES = """Examples:

  aoai-operator bootstrap --placement gateway --operator-namespace aoai-system

  aoai-operator bootstrap --placement sidecar --write /etc/aoai

A gateway's Envoy expects its certificate in /etc/aoai/tls, and the files of --write in /etc/envoy. A sidecar's expects
everything in /etc/aoai: these files, the operator's ca.crt, and its token. Each is started with --service-node.
"""


def bootstrap_command(
    *,
    placement: Annotated[Remote, typer.Option("--placement", help="Where the Envoy runs.")],
    gateway: Gateway = "default",
    operator_namespace: OperatorNamespace = "aoai-system",
    name: Release = "aoai-operator",
    write: Annotated[
        Path | None,
        typer.Option("--write", metavar="DIR", file_okay=False, help="Write it there, with the files that it names."),
    ] = None,
) -> None:
    """Print the file that an Envoy outside the operator's pod starts from."""
    files = _bootstrap_files(placement, gateway=gateway, namespace=operator_namespace, name=name)
    if write is None:
        typer.echo(_json(files["bootstrap.json"]), nl=False)
        return
    write.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        (write / file).write_text(_json(content), encoding="utf-8")
        typer.echo(write / file)


def _bootstrap_files(placement: Remote, *, gateway: str, namespace: str, name: str) -> Mapping[str, Json]:
    if placement is Remote.SIDECAR:
        sidecar = Sidecar(
            gateway=gateway,
            operator_namespace=namespace,
            name=name,
            image=_IMAGE,
            port=PORT,
            ready_port=READY_PORT,
            control_plane_port=CONTROL_PLANE_PORT,
        )
        return {"bootstrap.json": sidecar.bootstrap(), **sds_files(sidecar.access())}
    host = f"{name}-xds.{namespace}.svc"
    access = MutualTls(TcpAddress(host, 18000), server_name=host, certificates="/etc/aoai/tls", sds="/etc/envoy")
    admin = TcpAddress("127.0.0.1", 9901)
    made = bootstrap(node_id="", gateway=gateway, control_plane=access, admin=admin)
    return {"bootstrap.json": made, **sds_files(access)}


def _json(content: Json) -> str:
    return json.dumps(content, indent=2) + "\n"


DRAIN_EXAMPLES = """Examples:

  aoai-operator drain --admin 127.0.0.1:9901 --within 300s

  aoai-operator drain --admin unix:/run/aoai/envoy.sock --at-least 0s

For a preStop hook: always ends with 0, also when there is no Envoy.
"""


def drain(
    *,
    admin: Annotated[
        str, typer.Option("--admin", metavar="HOST:PORT|unix:PATH", help="Where Envoy's admin interface listens.")
    ] = "127.0.0.1:9901",
    within: Annotated[
        float, typer.Option("--within", metavar="DURATION", parser=seconds, help="How long to wait at most.")
    ] = "300s",  # type: ignore[assignment]
    at_least: Annotated[
        float,
        typer.Option(
            "--at-least",
            metavar="DURATION",
            parser=seconds,
            help="How long to wait at least: until everybody knows that this pod is to end.",
        ),
    ] = "5s",  # type: ignore[assignment]
) -> None:
    """Have an Envoy send its clients elsewhere, and wait until no request is under way."""
    found = asyncio.run(drain_envoy(admin, at_least=at_least, within=within))
    if not found.found:
        typer.echo(f"no Envoy answers at {admin}: there is nothing to drain", err=True)
    elif found.left:
        typer.echo(f"time is up: {found.left} requests are still under way", err=True)


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command(epilog=INJECT_EXAMPLES)(inject)
    app.command("bootstrap", epilog=BOOTSTRAP_EXAMPLES)(bootstrap_command)
    app.command(epilog=DRAIN_EXAMPLES)(drain)

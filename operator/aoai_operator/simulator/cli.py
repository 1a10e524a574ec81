"""``aoai-operator simulate``: simulated regions in the foreground, and commands that break and mend them."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
import yaml
from aiohttp import web

from aoai_operator.simulator.admin import Admin
from aoai_operator.simulator.config import DEFAULT_REGIONS, ConfigError, parse_region, read_file
from aoai_operator.simulator.faults import FAULTS
from aoai_operator.simulator.model import Region
from aoai_operator.simulator.simulator import RunningRegion, Simulator

_ADMIN = "http://127.0.0.1:9900"
_KINDS = ", ".join(str(fault.model_fields["kind"].default) for fault in FAULTS)
_EXAMPLES = """Examples:

  aoai-operator simulate

  aoai-operator simulate --region eastus=120000 --region westus3=20000 --port 9001

  aoai-operator simulate --config regions.yaml

  aoai-operator simulate fault eastus down

  aoai-operator simulate fault eastus throttle retry_after_ms=5000

  aoai-operator simulate heal eastus
"""

app = typer.Typer(
    help="Simulated Azure OpenAI regions: limits, latency, token accounting, faults.",
    epilog=_EXAMPLES,
    invoke_without_command=True,
    no_args_is_help=False,
)

_AdminUrl = Annotated[str, typer.Option("--admin-url", help="Admin API of the running simulator.")]


@app.callback()
def simulate(
    context: typer.Context,
    *,
    region: Annotated[
        list[str] | None,
        typer.Option("--region", metavar="NAME=TPM", help="A region and its tokens a minute; may be repeated."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="YAML file with regions, instead of --region.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="First port; 0 lets the system choose.")] = 9001,
    admin: Annotated[int, typer.Option(min=0, max=65535, help="Port of the admin API on 127.0.0.1.")] = 9900,
) -> None:
    """Serve the regions until SIGINT or SIGTERM."""
    if context.invoked_subcommand is not None:
        return
    try:
        asyncio.run(_serve(_place(_regions(region, config), host, port), admin))
    except (OSError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


def _regions(options: Sequence[str] | None, config: Path | None) -> list[Region]:
    if config is None:
        return [parse_region(text) for text in options or DEFAULT_REGIONS]
    if options:
        raise ConfigError("give --region or --config, not both")
    return read_file(config)


def _place(regions: Sequence[Region], host: str, port: int) -> list[Region]:
    """Give a port to every region without one: consecutive ones from ``port``."""
    placed = []
    for region in regions:
        chosen = region.port or port
        port = port + 1 if port and not region.port else port
        placed.append(replace(region, port=chosen, host=host))
    return placed


async def _serve(regions: Sequence[Region], admin_port: int) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    simulator = Simulator(regions)
    runner = web.AppRunner(Admin(simulator).application(), access_log=None)
    async with simulator:
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", admin_port)
            await site.start()
            typer.echo(_greeting(simulator, f"http://127.0.0.1:{runner.addresses[0][1]}"))
            await stopped.wait()
        finally:
            await runner.cleanup()


def _greeting(simulator: Simulator, admin: str) -> str:
    lines = ["Simulated regions:"]
    for region in simulator.regions.values():
        names = ", ".join(region.deployments)
        lines.append(f"  {region.name:<16} {region.url}   api-key {region.key}   {names}")
    first = next(iter(simulator.regions.values()))
    lines += ["", "Try:", *_calls(first), "", "Break and mend:"]
    lines += [
        f"  aoai-operator simulate fault {first.name} throttle retry_after_ms=5000 --admin-url {admin}",
        f"  aoai-operator simulate heal {first.name} --admin-url {admin}",
        f"  curl -s {admin}/_sim/regions",
        "",
        "Ready. Stop with Ctrl-C.",
    ]
    return "\n".join(lines)


def _calls(region: RunningRegion) -> list[str]:
    state = next((s for s in region.deployments.values() if s.settings.kind == "chat"), None)
    if state is None:
        return [f"  curl -s {region.url}/openai/v1/models -H 'api-key: {region.key}'"]
    name = state.settings.name
    body = json.dumps({"model": name, "messages": [{"role": "user", "content": "Hello"}]})
    common = f"-H 'api-key: {region.key}' -H 'content-type: application/json' -d '{body}'"
    old = f"{region.url}/openai/deployments/{name}/chat/completions?api-version=2024-10-21"
    return [f"  curl -s {region.url}/openai/v1/chat/completions {common}", f"  curl -s '{old}' {common}"]


@app.command(epilog=f"Kinds: {_KINDS}. Their settings are in docs/simulator.md.")
def fault(
    region: Annotated[str, typer.Argument(help="Name of the region.")],
    kind: Annotated[str, typer.Argument(help="Kind of the fault.")],
    settings: Annotated[list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="Its settings.")] = None,
    admin_url: _AdminUrl = _ADMIN,
) -> None:
    """Break a region of the running simulator."""
    body: dict[str, Any] = {"kind": kind}
    for setting in settings or []:
        name, equals, value = setting.partition("=")
        if not equals:
            raise typer.BadParameter(f"{setting!r}: write NAME=VALUE")
        body[name] = yaml.safe_load(value)
    _show(_ask("POST", f"{admin_url}/_sim/regions/{region}/faults", json=body))


@app.command()
def heal(
    region: Annotated[str, typer.Argument(help="Name of the region.")],
    kind: Annotated[str | None, typer.Argument(help="Only this kind of fault.")] = None,
    deployment: Annotated[str | None, typer.Option(help="Only the fault of this deployment.")] = None,
    admin_url: _AdminUrl = _ADMIN,
) -> None:
    """Mend a region of the running simulator."""
    given = {name: value for name, value in (("kind", kind), ("deployment", deployment)) if value is not None}
    _show(_ask("DELETE", f"{admin_url}/_sim/regions/{region}/faults", params=given))


@app.command()
def status(admin_url: _AdminUrl = _ADMIN) -> None:
    """Show the regions of the running simulator and what they counted."""
    for region in _ask("GET", f"{admin_url}/_sim/regions"):
        _show(region)


def _ask(method: str, url: str, **content: Any) -> Any:
    try:
        answer = httpx.request(method, url, timeout=5.0, trust_env=False, **content)
    except httpx.HTTPError as error:
        typer.echo(f"error: no simulator answers at {url}: {error}", err=True)
        raise typer.Exit(1) from error
    if answer.is_error:
        typer.echo(f"error: {answer.text}", err=True)
        raise typer.Exit(1)
    return answer.json()


def _show(region: dict[str, Any]) -> None:
    counts = region["counts"]
    faults = ", ".join(json.dumps(found) for found in region["faults"]) or "no fault"
    state = "listening" if region["listening"] else "down"
    typer.echo(
        f"{region['name']:<16} {region['url']} {state}, {counts['attempts']} requests, {counts['served']} served, "
        f"{counts['throttled']} throttled, {faults}"
    )

"""The command line: arguments in, exit codes out (see command_line)."""

from __future__ import annotations

import asyncio
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated

import structlog
import typer

from aoai_operator import crds as definitions
from aoai_operator import offline, proxies_cli
from aoai_operator.adapters import logs
from aoai_operator.adapters.envoy_process import EnvoyMissingError
from aoai_operator.cluster.cli import EXAMPLES as RUN_EXAMPLES
from aoai_operator.cluster.cli import run
from aoai_operator.command_line import CLAIM_FAILED, FAILED, INTERRUPTED, USAGE, WRONG_MANIFESTS, fail, token_host
from aoai_operator.core.envoy.settings import GatewaySettings
from aoai_operator.local import NothingToServeError, StartError, run_local
from aoai_operator.rendering import NoSuchPoolError, render
from aoai_operator.settings import (
    HostPort,
    LocalSettings,
    LogFormat,
    LogLevel,
    OutputFormat,
    default_concurrency,
    half_of_memory,
    system_trust,
)
from aoai_operator.simulator.cli import app as simulate

app = typer.Typer(
    name="aoai-operator",
    help="One balanced, governed address for regional Azure OpenAI endpoints.",
    no_args_is_help=True,
    # Else "[redacted]" in a help text would be taken for markup, and vanish.
    rich_markup_mode=None,
    # A traceback with local variables would print credentials.
    pretty_exceptions_show_locals=False,
)
app.add_typer(simulate, name="simulate")
proxies_cli.add_to(app)
app.command("run", epilog=RUN_EXAMPLES)(run)

Paths = Annotated[
    list[Path],
    typer.Argument(
        metavar="PATH...",
        help="Manifests: YAML or JSON files, or directories of them.",
        exists=True,
        readable=True,
    ),
]
Listen = Annotated[
    HostPort,
    typer.Option("--listen", metavar="HOST:PORT", parser=HostPort.parse, help="Where the gateway answers."),
]
ListenTls = Annotated[
    HostPort | None,
    typer.Option(
        "--listen-tls",
        metavar="HOST:PORT",
        parser=HostPort.parse,
        help="Where pools with spec.gateway.tls answer, by HTTPS. Default: nowhere; they answer by HTTP.",
    ),
]
CaFile = Annotated[
    Path | None,
    typer.Option(
        "--ca-file",
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="PEM file of the CAs that sign the endpoints' certificates. Default: those of this machine.",
    ),
]
TokenHosts = Annotated[
    list[str] | None,
    typer.Option(
        "--token-host",
        metavar="DOMAIN",
        parser=token_host,
        help="Trust this domain with tokens of Entra ID, besides Azure's own; may be repeated.",
    ),
]
Gateway = Annotated[str, typer.Option("--gateway", help="Only pools with this spec.gateway.name are served.")]
Output = Annotated[OutputFormat, typer.Option("--output", help="How results are printed.")]

_LOCAL_EXAMPLES = """Examples:

  aoai-operator local pool.yaml tenants.yaml secrets.yaml

  aoai-operator local examples/ --listen 127.0.0.1:8080 --log-level info

Ends with 0 on SIGTERM or Ctrl-C, after requests under way have finished; a second one ends it at once. Ends with 1 when
the manifests are wrong at the start, with 2 when it cannot start (port in use, no Envoy, a CA file without
certificates), with 3 when it failed.
"""


@app.command(epilog=_LOCAL_EXAMPLES)
def local(
    paths: Paths,
    *,
    listen: Listen = "127.0.0.1:8080",  # type: ignore[assignment]
    listen_tls: ListenTls = None,
    metrics: Annotated[
        HostPort | None,
        typer.Option(
            "--metrics",
            metavar="HOST:PORT",
            parser=HostPort.parse,
            help="Where the operator's own /metrics and /healthz answer. Default: nowhere.",
        ),
    ] = None,
    concurrency: Annotated[
        int,
        typer.Option("--concurrency", min=1, max=256, help="Worker threads of Envoy.", show_default="cores, max. 4"),
    ] = default_concurrency(),
    envoy: Annotated[
        str | None,
        typer.Option("--envoy", metavar="PATH", help="Envoy to run. Default: the one that was installed with this."),
    ] = None,
    ca_file: CaFile = None,
    state: Annotated[
        Path | None,
        typer.Option(
            "--state",
            metavar="DIR",
            file_okay=False,
            help="Where what tenants used is kept, so that a restart goes on from there. Default: it is forgotten.",
        ),
    ] = None,
    token_hosts: TokenHosts = None,
    gateway: Gateway = "default",
    output: Output = OutputFormat.TEXT,
    log_format: Annotated[LogFormat, typer.Option("--log-format", help="How log lines look.")] = LogFormat.TEXT,
    log_level: Annotated[LogLevel, typer.Option("--log-level", help="Least important lines shown.")] = LogLevel.WARNING,
) -> None:
    """Serve pools from files, with a real Envoy, without a cluster. Files are watched: an edit takes effect at once."""
    logs.configure(json=log_format is LogFormat.JSON, level=log_level.value)
    settings = LocalSettings(
        paths=tuple(paths),
        listen=listen,
        listen_tls=listen_tls,
        metrics=metrics,
        concurrency=concurrency,
        envoy=envoy,
        ca_file=ca_file,
        state=state,
        token_hosts=tuple(token_hosts or ()),
        gateway=gateway,
        output=output,
        max_heap_bytes=half_of_memory(),
    )
    try:
        asyncio.run(run_local(settings))
    except NothingToServeError as error:
        fail(str(error), WRONG_MANIFESTS)
    except (StartError, EnvoyMissingError) as error:
        fail(str(error), USAGE)
    except Exception as error:  # noqa: BLE001 - whatever it was, the exit code tells it from a wrong use
        structlog.get_logger("local").exception("failed")
        fail(f"failed while running: {error}", FAILED)


_CHECK_EXAMPLES = """Examples:

  aoai-operator check manifests/

  aoai-operator check pool.yaml --output json | jq '.faults[]'

Ends with 1 when anything is wrong.
"""


@app.command(epilog=_CHECK_EXAMPLES)
def check(paths: Paths, *, token_hosts: TokenHosts = None, output: Output = OutputFormat.TEXT) -> None:
    """Find what is wrong with manifests: YAML, schema, rules, and what they refer to. Needs no cluster."""
    report = offline.check(paths, token_hosts or ())
    typer.echo(report.json() if output is OutputFormat.JSON else report.text())
    raise typer.Exit(report.exit_code)


_RENDER_EXAMPLES = """Examples:

  aoai-operator render pool.yaml

  aoai-operator render manifests/ --pool ai/chat --envoy
"""


@app.command("render", epilog=_RENDER_EXAMPLES)
def render_command(
    paths: Paths,
    *,
    envoy: Annotated[bool, typer.Option("--envoy", help="The Envoy resources instead of the routing tables.")] = False,
    pool: Annotated[
        str | None, typer.Option("--pool", metavar="NAMESPACE/NAME", help="Only this pool. Default: all.")
    ] = None,
    listen: Listen = "127.0.0.1:8080",  # type: ignore[assignment]
    listen_tls: ListenTls = None,
    gateway: Gateway = "default",
    ca_file: CaFile = None,
    token_hosts: TokenHosts = None,
) -> None:
    """Show what manifests compile to: routing tables, or Envoy resources. Credentials show as [redacted]."""
    try:
        settings = GatewaySettings(
            gateway=gateway,
            listen_host=listen.host,
            listen_port=listen.port,
            tls_host=listen_tls.host if listen_tls else None,
            tls_port=listen_tls.port if listen_tls else None,
            trusted_ca=str(ca_file or system_trust()),
        )
        text = render(paths, envoy=envoy, pool=pool, settings=settings, token_hosts=token_hosts or ())
    except NoSuchPoolError as error:
        fail(str(error), WRONG_MANIFESTS)
    typer.echo(text, nl=False)


_CRDS_EXAMPLES = """Examples:

  aoai-operator crds | kubectl apply -f -

  aoai-operator crds --write crds
"""


@app.command(epilog=_CRDS_EXAMPLES)
def crds(
    *,
    write: Annotated[
        Path | None, typer.Option("--write", metavar="DIR", file_okay=False, help="Write one file a kind instead.")
    ] = None,
) -> None:
    """Print the CustomResourceDefinitions of AOAIBackendPool and TenantQuota."""
    if write is None:
        typer.echo("---\n".join(definitions.rendered().values()), nl=False)
        return
    for path in definitions.write_crds(write):
        typer.echo(path)


_DEMO_EXAMPLES = """Examples:

  aoai-operator demo

  aoai-operator demo --keep --port 8080

Ends with 1 when a claim of the summary does not hold, with 3 when it broke off, with 130 on Ctrl-C before the summary.
"""


@app.command(epilog=_DEMO_EXAMPLES)
def demo(
    *,
    keep: Annotated[bool, typer.Option("--keep", help="Go on after the summary, until Ctrl-C.")] = False,
    seconds: Annotated[
        float, typer.Option("--seconds", min=12, max=600, help="Length of the phases, together, at least.")
    ] = 28,
    output: Output = OutputFormat.TEXT,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Where the gateway listens on 127.0.0.1; 0: any free port.")
    ] = 0,
    attempts: Annotated[int, typer.Option("--attempts", min=1, max=10, hidden=True)] = 3,
) -> None:
    """Watch three unequal simulated regions behind one address being throttled, killed and restored."""
    from aoai_operator import demo as play  # noqa: PLC0415 - the SDK takes a second to import, and only this needs it

    options = play.DemoOptions(keep=keep, seconds=seconds, output=output, port=port, attempts=attempts)
    try:
        holds = asyncio.run(play.run_demo(options))
    except play.DemoError as error:
        fail(str(error), FAILED)
    except asyncio.CancelledError:
        raise typer.Exit(INTERRUPTED) from None
    raise typer.Exit(0 if holds else CLAIM_FAILED)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(installed_version("aoai-operator"))


def main() -> None:
    """Run the command line."""
    app()

"""The command `aoai-operator run`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlsplit

import structlog
import typer

from aoai_operator.adapters import logs
from aoai_operator.command_line import FAILED, USAGE, fail, seconds, token_host
from aoai_operator.core.sidecar import PORT as SIDECAR_PORT
from aoai_operator.settings import ClusterSettings, HostPort, LogFormat, LogLevel, RedisSettings, system_trust

SHORTEST_LEASE = 10
"""Seconds. Of a shorter Lease one slow answer of the API server would cost the leader its office."""

EXAMPLES = """Examples:

  aoai-operator run --namespace aoai-system --watch-namespace ai --watch-namespace search

  aoai-operator run --namespace aoai-system --redis-url rediss://redis.data:6379 --redis-credentials /etc/redis-login

  aoai-operator run --kubeconfig ~/.kube/config --namespace aoai-system --identity laptop --log-format text

Every option can be given by the environment as well, as AOAI_ and its name: AOAI_WATCH_NAMESPACE="ai search". In a
cluster the chart sets all of them. Ends with 0 on SIGTERM, after it gave the Lease back; with 2 when it cannot start as
asked, with 3 when it failed.
"""


_REDIS_PORT = 6379


class RedisUrl(NamedTuple):
    """Where a Redis is."""

    address: HostPort
    tls: bool


def _lease_seconds(text: str) -> float:
    lasting = seconds(text)
    if lasting < SHORTEST_LEASE:
        raise typer.BadParameter(f"{text} is too short to renew a Lease in; give {SHORTEST_LEASE}s or more")
    return lasting


def _age_seconds(text: str) -> float:
    age = seconds(text)
    if age < 1:
        raise typer.BadParameter(f"{text} is too short for an Envoy to be served in; give 1s or more")
    return age


def _gateway_url(text: str) -> str:
    parts = urlsplit(text)
    if text and (parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/")):
        raise typer.BadParameter(f"{text} is no URL of a gateway; write it as http://gateway.aoai.svc:8080")
    return text.rstrip("/")


def _redis(text: str) -> RedisUrl:
    parts = urlsplit(text)
    try:
        host, port = parts.hostname, parts.port or _REDIS_PORT
    except ValueError:
        host, port = None, 0
    if parts.username or parts.password:
        raise typer.BadParameter("credentials do not belong into a URL; give --redis-credentials")
    if parts.scheme not in ("redis", "rediss") or not host or parts.path.strip("/") or parts.query:
        raise typer.BadParameter(f"{text} is no URL of a Redis; write rediss://HOST[:PORT], or redis:// without TLS")
    return RedisUrl(HostPort(host, port), tls=parts.scheme == "rediss")


def _redis_prefix(text: str) -> str:
    if not text or "{" in text or "}" in text:
        raise typer.BadParameter("must be given, without braces: they choose the slot of a Redis Cluster")
    return text


def _option(name: str, help_text: str, **more: Any) -> typer.models.OptionInfo:
    variable = "AOAI_" + name.removeprefix("--").split("/")[0].replace("-", "_").upper()
    found: typer.models.OptionInfo = typer.Option(name, envvar=variable, help=help_text, **more)
    return found


def run(
    *,
    namespace: Annotated[str, _option("--namespace", "The operator's own namespace.")],
    identity: Annotated[str, _option("--identity", "This replica's name: its pod's.")],
    name: Annotated[
        str, _option("--name", "First part of the names of the Lease and the certificates.")
    ] = "aoai-operator",
    address: Annotated[
        str, _option("--address", "HOST:PORT at which the other replicas reach this one's xDS port. Default: not.")
    ] = "",
    watch_namespace: Annotated[
        list[str] | None, _option("--watch-namespace", "Look for pools and tenants here only; may be repeated.")
    ] = None,
    xds_listen: Annotated[
        HostPort,
        _option("--xds-listen", "Where proxies are served, by TLS.", metavar="HOST:PORT", parser=HostPort.parse),
    ] = "0.0.0.0:18000",  # type: ignore[assignment]
    http_listen: Annotated[
        HostPort,
        _option("--http-listen", "/healthz, /readyz, /metrics.", metavar="HOST:PORT", parser=HostPort.parse),
    ] = "0.0.0.0:8081",  # type: ignore[assignment]
    pod_directory: Annotated[
        Path | None,
        _option("--pod-directory", "Directory shared with an Envoy in this pod: our socket, its log. Default: none."),
    ] = None,
    gateway: Annotated[
        list[str] | None, _option("--gateway", "A gateway whose proxies get certificates; may be repeated.")
    ] = None,
    token_listen: Annotated[
        HostPort | None,
        _option(
            "--token-listen",
            "Where proxies in applications' pods are served. Default: nowhere.",
            metavar="HOST:PORT",
            parser=HostPort.parse,
        ),
    ] = None,
    gateway_http: Annotated[
        HostPort,
        _option("--gateway-http", "Where gateways' Envoys listen.", metavar="HOST:PORT", parser=HostPort.parse),
    ] = "0.0.0.0:8080",  # type: ignore[assignment]
    gateway_https: Annotated[
        HostPort,
        _option("--gateway-https", "The same, for HTTPS.", metavar="HOST:PORT", parser=HostPort.parse),
    ] = "0.0.0.0:8443",  # type: ignore[assignment]
    sidecar_http: Annotated[
        HostPort,
        _option("--sidecar-http", "Where sidecars' Envoys listen.", metavar="HOST:PORT", parser=HostPort.parse),
    ] = f"127.0.0.1:{SIDECAR_PORT}",  # type: ignore[assignment]
    gateway_url: Annotated[
        str,
        _option(
            "--gateway-url",
            "Where clients reach the gateway by HTTP, for the Secrets that tenants ask for: http://HOST[:PORT].",
            metavar="URL",
            parser=_gateway_url,
        ),
    ] = "",
    gateway_tls_port: Annotated[
        int, _option("--gateway-tls-port", "The port at which they reach it by HTTPS.", min=1, max=65535)
    ] = 443,
    gateway_workers: Annotated[
        int,
        _option("--gateway-workers", "Threads of a gateway's Envoys together, for quotas that cannot be asked.", min=1),
    ] = 8,
    kubeconfig: Annotated[
        Path | None,
        _option("--kubeconfig", "Credentials. Default: the pod's, else $KUBECONFIG.", exists=True, dir_okay=False),
    ] = None,
    ca_file: Annotated[
        Path | None,
        _option("--ca-file", "PEM file of the CAs of the endpoints' certificates.", exists=True, dir_okay=False),
    ] = None,
    resync: Annotated[
        float, _option("--resync", "How long until everything is read again.", metavar="DURATION", parser=seconds)
    ] = "5m",  # type: ignore[assignment]
    secrets_interval: Annotated[
        float,
        _option("--secrets-interval", "How long until a Secret is read again.", metavar="DURATION", parser=seconds),
    ] = "30s",  # type: ignore[assignment]
    lease_duration: Annotated[
        float,
        _option(
            "--lease-duration",
            "How long a silent leader is believed: 10s or more.",
            metavar="DURATION",
            parser=_lease_seconds,
        ),
    ] = "15s",  # type: ignore[assignment]
    connection_age: Annotated[
        float,
        _option(
            "--connection-age",
            "How long, about, a proxy's connection lasts until it proves itself anew: 1s or more.",
            metavar="DURATION",
            parser=_age_seconds,
        ),
    ] = "1h",  # type: ignore[assignment]
    token_hosts: Annotated[
        list[str] | None,
        _option(
            "--token-host",
            "Trust this domain with tokens of Entra ID, besides Azure's own; may be repeated.",
            metavar="DOMAIN",
            parser=token_host,
        ),
    ] = None,
    redis_url: Annotated[
        RedisUrl | None,
        _option(
            "--redis-url",
            "Count quotas there, and not in the leader's memory: rediss://HOST[:PORT], or redis:// without TLS.",
            metavar="URL",
            parser=_redis,
        ),
    ] = None,
    redis_credentials: Annotated[
        Path | None,
        _option(
            "--redis-credentials",
            "Directory with the files `password` and, for an ACL, `username`.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    redis_ca_file: Annotated[
        Path | None,
        _option("--redis-ca-file", "PEM file of the CAs of Redis's certificate.", exists=True, dir_okay=False),
    ] = None,
    redis_cluster: Annotated[bool, _option("--redis-cluster", "It is a Redis Cluster.")] = False,
    redis_prefix: Annotated[
        str,
        _option("--redis-prefix", "First part of the keys; who has the same counts together.", parser=_redis_prefix),
    ] = "aoai",
    log_format: Annotated[LogFormat, _option("--log-format", "How log lines look.")] = LogFormat.JSON,
    log_level: Annotated[LogLevel, _option("--log-level", "Least important lines shown.")] = LogLevel.INFO,
) -> None:
    """Run the operator in Kubernetes: watch pools and tenants, and drive the Envoys of the gateways."""
    # kopf and the Kubernetes client take a second to import, and only this command needs them.
    from aoai_operator.cluster.app import run_cluster  # noqa: PLC0415
    from aoai_operator.cluster.starting import StartError  # noqa: PLC0415

    if redis_url is None and (redis_credentials or redis_ca_file or redis_cluster):
        fail("--redis-credentials, --redis-ca-file and --redis-cluster say nothing without --redis-url", USAGE)
    logs.configure(json=log_format is LogFormat.JSON, level=log_level.value)
    settings = ClusterSettings(
        namespace=namespace,
        name=name,
        identity=identity,
        address=address,
        watch_namespaces=tuple(watch_namespace or ()),
        xds_listen=xds_listen,
        http_listen=http_listen,
        pod_directory=pod_directory,
        gateways=tuple(gateway or ("default",)),
        token_listen=token_listen,
        gateway_http=gateway_http,
        gateway_https=gateway_https,
        sidecar_http=sidecar_http,
        gateway_url=gateway_url,
        gateway_tls_port=gateway_tls_port,
        quota_workers=gateway_workers,
        kubeconfig=kubeconfig,
        trusted_ca=ca_file or system_trust(),
        resync=resync,
        secrets_interval=secrets_interval,
        lease_duration=lease_duration,
        connection_age=connection_age,
        token_hosts=tuple(token_hosts or ()),
        redis=RedisSettings(
            address=redis_url.address,
            tls=redis_url.tls,
            ca_file=redis_ca_file or system_trust(),
            credentials=redis_credentials,
            cluster=redis_cluster,
            prefix=redis_prefix,
        )
        if redis_url
        else None,
    )
    try:
        asyncio.run(run_cluster(settings))
    except StartError as error:
        fail(str(error), USAGE)
    except Exception as error:  # noqa: BLE001 - whatever it was, the exit code tells it from a wrong use
        structlog.get_logger("run").exception("failed")
        fail(f"failed while running: {error}", FAILED)

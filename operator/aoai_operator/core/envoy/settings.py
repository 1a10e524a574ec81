"""What a gateway's Envoys need to know beyond the routing tables."""

from __future__ import annotations

from dataclasses import dataclass

CONTROL_PLANE = "control-plane"
"""The static cluster of the bootstrap through which Envoy reaches us."""


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """One gateway.

    Attributes:
        gateway: its name, the `spec.gateway.name` of its pools and the `node.cluster` of its Envoys.
        listen_host: the IP address that Envoy listens on.
        listen_port: the TCP port that Envoy listens on.
        tls_port: the TCP port on which Envoy listens for HTTPS; pools with a certificate are then served there and
            nowhere else. None: there is no HTTPS, and they are served with the others.
        tls_host: the IP address for HTTPS; None: `listen_host`.
        ledger: where it asks for quotas: `CONTROL_PLANE`, or the path of a Unix socket on its file system; None:
            nowhere, nothing is limited.
        workers: the threads of the gateway's Envoys together: each has its share while the ledger is away.
        access_log: the named pipe, on Envoy's file system, into which it writes its access log; None: it sends the
            same lines by OpenTelemetry to the control plane, for an Envoy in another pod.
        trusted_ca: a PEM file, on Envoy's file system, of the CAs that sign Azure's certificates. Envoy has no
            default of its own, and refuses to check names without one.
    """

    gateway: str
    listen_host: str
    listen_port: int
    access_log: str | None = "/run/aoai/access.log"
    trusted_ca: str = "/etc/ssl/certs/ca-certificates.crt"
    tls_port: int | None = None
    tls_host: str | None = None
    ledger: str | None = None
    workers: int = 1

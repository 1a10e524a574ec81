"""What the audiences of proxies need: where their Envoys listen and log, and whose pods trust the control plane."""

from __future__ import annotations

from collections.abc import Iterable

from aoai_operator.core.audience import Audience, Placement
from aoai_operator.core.envoy.settings import CONTROL_PLANE, GatewaySettings
from aoai_operator.core.table import RoutingTable
from aoai_operator.settings import ClusterSettings


def gateway_settings(settings: ClusterSettings, audience: Audience) -> GatewaySettings:
    """Return what the Envoys of an audience are told."""
    sidecar = audience.placement is Placement.SIDECAR
    listen = settings.sidecar_http if sidecar else settings.gateway_http
    pipe = settings.pod_directory / "access.log" if settings.pod_directory else None
    return GatewaySettings(
        gateway=audience.gateway,
        listen_host=listen.host,
        listen_port=listen.port,
        tls_host=None if sidecar else settings.gateway_https.host,
        tls_port=None if sidecar else settings.gateway_https.port,
        access_log=str(pipe) if pipe and audience.placement is Placement.POD else None,
        trusted_ca=str(settings.trusted_ca),
        ledger=CONTROL_PLANE,
        workers=settings.quota_workers,
    )


def trusting(settings: ClusterSettings, tables: Iterable[RoutingTable]) -> set[str]:
    """Return the namespaces whose pods may carry pools, and so need the CAs of the control plane."""
    if settings.token_listen is None:
        return set()
    found: set[str] = set()
    for table in tables:
        if table.sidecars:
            found |= {t.namespace for t in table.tenants} if "*" in table.namespaces else set(table.namespaces)
    return found & set(settings.watch_namespaces) if settings.watch_namespaces else found

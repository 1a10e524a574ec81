"""Who a proxy is to the control plane: which gateway's resources it may have, and where it runs."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from aoai_operator.core.table import RoutingTable


class Placement(StrEnum):
    """Where an Envoy runs."""

    POD = "pod"
    """Beside the operator, in one pod or on one machine: reached by a Unix socket, its log comes by a pipe."""
    GATEWAY = "gateway"
    """In a pod of the gateway's own Deployment: mTLS, its log comes by OpenTelemetry."""
    SIDECAR = "sidecar"
    """In an application's pod: as a gateway's, but it gets only the pools that allow sidecars, and its namespace."""


class Audience(NamedTuple):
    """All proxies that get the same resources. Its text is the gateway's name in the xDS server and its caches."""

    gateway: str
    placement: Placement
    namespace: str = ""
    """The application's namespace, for a sidecar; otherwise empty."""

    def __str__(self) -> str:
        return "/".join(part for part in (self.gateway, self.placement.value, self.namespace) if part)

    def sees(self, table: RoutingTable) -> bool:
        """Tell whether its proxies may carry a pool."""
        if table.gateway != self.gateway:
            return False
        if self.placement is not Placement.SIDECAR:
            return True
        return table.sidecars and ("*" in table.namespaces or self.namespace in table.namespaces)

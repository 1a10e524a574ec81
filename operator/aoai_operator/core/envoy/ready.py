"""A listener for the kubelet, which cannot reach the admin interface on loopback: it passes on /ready, and no more."""

from __future__ import annotations

from aoai_operator.core.envoy.config import extension
from aoai_operator.core.envoy.control_plane import Address, TcpAddress
from aoai_operator.core.envoy.snapshot import Json

_ADMIN = "admin"


def ready_resources(*, admin: Address, listen: TcpAddress) -> Json:
    """Return static resources: `GET /ready` at `listen` is 200 once Envoy has its first configuration, else 503."""
    route = {"match": {"path": "/ready"}, "route": {"cluster": _ADMIN, "timeout": "1s"}}
    manager = extension(
        "ready",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="admin.ready",
        route_config={"virtual_hosts": [{"name": "ready", "domains": ["*"], "routes": [route]}]},
        http_filters=[extension("router", "filters.http.router.v3.Router")],
    )
    endpoint = {"endpoint": {"address": admin.to_envoy()}}
    return {
        "listeners": [{"name": "ready", "address": listen.to_envoy(), "filter_chains": [{"filters": [manager]}]}],
        "clusters": [
            {
                "name": _ADMIN,
                "type": "STATIC",
                "connect_timeout": "1s",
                "load_assignment": {"cluster_name": _ADMIN, "endpoints": [{"lb_endpoints": [endpoint]}]},
            }
        ],
    }

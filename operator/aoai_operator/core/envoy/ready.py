"""A listener that tells the kubelet, which cannot reach Envoy's admin interface on loopback, whether Envoy is ready."""

from __future__ import annotations

from aoai_operator.core.envoy.config import extension
from aoai_operator.core.envoy.control_plane import Address
from aoai_operator.core.envoy.snapshot import Json


def ready_listener(listen: Address) -> Json:
    """Return a static listener where `GET /ready` is 200.

    Envoy's workers begin only when the first configuration has come [tried]: before, this answers nothing.
    """
    route = {"match": {"path": "/ready"}, "direct_response": {"status": 200, "body": {"inline_string": "ready\n"}}}
    manager = extension(
        "ready",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="admin.ready",
        route_config={"virtual_hosts": [{"name": "ready", "domains": ["*"], "routes": [route]}]},
        http_filters=[extension("router", "filters.http.router.v3.Router")],
    )
    return {"name": "ready", "address": listen.to_envoy(), "filter_chains": [{"filters": [manager]}]}

"""The static file that an Envoy starts from: who it is, where its control plane is, and what it may use.

Everything else (listeners, routes, clusters, keys) comes by ADS. The same bootstrap serves a child process of
`aoai-operator local` and an Envoy that runs elsewhere.
"""

from __future__ import annotations

from aoai_operator.core.envoy.config import TYPE
from aoai_operator.core.envoy.control_plane import (
    Address,
    ControlPlaneAccess,
    MutualTls,
    TcpAddress,
    Token,
    UnixAddress,
    control_plane_cluster,
)
from aoai_operator.core.envoy.settings import CONTROL_PLANE
from aoai_operator.core.envoy.snapshot import Json

__all__ = ["Address", "MutualTls", "TcpAddress", "Token", "UnixAddress", "bootstrap"]


_RECONNECT: Json = {"retry_back_off": {"base_interval": "0.5s", "max_interval": "5s"}}
"""How long Envoy waits between two tries to open the stream, at most. Its own default goes up to 30 s, and changes
should not wait for that once the control plane is back."""


def bootstrap(
    *,
    node_id: str,
    gateway: str,
    control_plane: ControlPlaneAccess,
    admin: Address,
    max_connections: int = 50_000,
    max_heap_bytes: int | None = None,
) -> Json:
    """Return the bootstrap of one Envoy, as the proto3 JSON of `envoy.config.bootstrap.v3.Bootstrap`.

    Args:
        node_id: the name of this Envoy among the gateway's.
        gateway: the gateway that it belongs to; the control plane reads it as `node.cluster`.
        control_plane: where ADS is served, over HTTP/2, and how this Envoy proves who it is; with TLS it also needs
            the files of control_plane.sds_files.
        admin: where Envoy's admin interface listens; it has no authentication, so loopback or a private Unix socket.
        max_connections: downstream connections above which new ones are refused.
        max_heap_bytes: the memory at which Envoy refuses new requests instead of growing; None for no such bound.
    """
    return {
        "node": {"id": node_id, "cluster": gateway},
        "admin": {"address": admin.to_envoy()},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [{"envoy_grpc": {"cluster_name": CONTROL_PLANE, "retry_policy": _RECONNECT}}],
            },
            "lds_config": {"ads": {}, "resource_api_version": "V3"},
            "cds_config": {"ads": {}, "resource_api_version": "V3"},
        },
        "static_resources": {"clusters": [control_plane_cluster(control_plane)]},
        "overload_manager": _overload_manager(max_connections, max_heap_bytes),
        # The allow-list of request headers is one long expression (headers.py); Envoy's default bound is 100.
        "layered_runtime": {
            "layers": [{"name": "static", "static_layer": {"re2.max_program_size.error_level": 10_000}}]
        },
        # Most of a cluster's statistics are never touched; made on first use, they cost nothing.
        "deferred_stat_options": {"enable_deferred_creation_stats": True},
    }


def _overload_manager(max_connections: int, max_heap_bytes: int | None) -> Json:
    monitors: list[Json] = [
        {
            "name": "envoy.resource_monitors.global_downstream_max_connections",
            "typed_config": {
                "@type": TYPE + "envoy.extensions.resource_monitors.downstream_connections.v3"
                ".DownstreamConnectionsConfig",
                "max_active_downstream_connections": max_connections,
            },
        }
    ]
    if max_heap_bytes is None:
        return {"resource_monitors": monitors}
    heap = "envoy.resource_monitors.fixed_heap"
    monitors.append(
        {
            "name": heap,
            "typed_config": {
                "@type": TYPE + "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
                "max_heap_size_bytes": max_heap_bytes,
            },
        }
    )
    return {
        "refresh_interval": "0.25s",
        "resource_monitors": monitors,
        "actions": [
            {"name": f"envoy.overload_actions.{action}", "triggers": [{"name": heap, "threshold": {"value": share}}]}
            for action, share in (("shrink_heap", 0.9), ("stop_accepting_requests", 0.95))
        ],
    }

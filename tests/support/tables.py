"""Small routing tables for tests of what is observed."""

from __future__ import annotations

from typing import Literal

from aoai_operator.core.names import EndpointKey, HostKey, PoolKey, SecretRef
from aoai_operator.core.table import Endpoint, Failover, Health, Host, Model, RoutingTable, Throttling, Timeouts

CHAT = PoolKey("ai", "chat")


def host_key(endpoint: str, deployment: str = "gpt", pool: PoolKey = CHAT) -> HostKey:
    """Return the key of a host of the pool ai/chat."""
    return HostKey(pool, endpoint, deployment)


def endpoint_key(endpoint: str, pool: PoolKey = CHAT) -> EndpointKey:
    """Return the key of an endpoint of the pool ai/chat."""
    return EndpointKey(pool, endpoint)


def endpoint(name: str, *, host: str = "", port: int = 443, drain: bool = False, usable: bool = True) -> Endpoint:
    """Return an endpoint NAME.example."""
    return Endpoint(
        name=name,
        scheme="https",
        host=host or f"{name}.example",
        port=port,
        region=name,
        priority=0,
        drain=drain,
        credential=SecretRef("ai", "keys", name),
        usable=usable,
    )


def routing_table(
    *endpoints: Endpoint,
    pool: PoolKey = CHAT,
    deployments: tuple[str, ...] = ("gpt",),
    probe: Literal["Models", "Deployment"] | None = "Models",
    interval_ms: int = 10_000,
    throttling: Throttling | None = None,
) -> RoutingTable:
    """Return a table with one model, served by each of the deployments of each endpoint."""
    return RoutingTable(
        namespace=pool.namespace,
        name=pool.name,
        gateway="default",
        hostnames=(),
        strategy="Headroom",
        auth_required=True,
        max_request_bytes=1 << 20,
        max_concurrent_requests=1_000,
        failover=Failover(
            attempts=3, per_try_timeout_ms=60_000, retry_statuses=(429,), retry_connect=True, retry_timeout=True
        ),
        throttling=throttling or Throttling(honor_retry_after=True, max_retry_after_ms=60_000, ramp_up_ms=5_000),
        health=Health(probe=probe, interval_ms=interval_ms, timeout_ms=3_000, unhealthy_after=3, healthy_after=2),
        timeouts=Timeouts(request_ms=600_000, idle_ms=300_000, connect_ms=5_000),
        endpoints=endpoints,
        models=(
            Model(
                name="gpt",
                hosts=tuple(
                    Host(endpoint=e.name, deployment=d, priority=0, weight=1) for e in endpoints for d in deployments
                ),
            ),
        ),
        tenants=(),
    )

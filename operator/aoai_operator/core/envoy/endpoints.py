"""ClusterLoadAssignments: one host for each deployment.

Everything here may change by the second, and nothing else does: an endpoint's health, throttling, ramp and address
reach Envoy by EDS alone.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from aoai_operator.core.envoy.snapshot import Json, Resource
from aoai_operator.core.envoy.topology import Tier, tiers
from aoai_operator.core.lanes import lanes_of
from aoai_operator.core.names import HostKey, cluster_name
from aoai_operator.core.observed import HostState, Overrides, State
from aoai_operator.core.table import Endpoint, Host, Model, RoutingTable

_HEALTH = {
    State.HEALTHY: "HEALTHY",
    State.UNKNOWN: "HEALTHY",
    State.THROTTLED: "UNHEALTHY",
    State.UNHEALTHY: "UNHEALTHY",
    State.DRAINING: "DRAINING",
}


def load_assignments(table: RoutingTable, overrides: Overrides) -> Iterator[Resource]:
    """Yield the load assignment of each of the pool's models, in each lane."""
    for lane in lanes_of(table):
        for model in lane.table.models:
            yield _load_assignment(cluster_name(table.key, model.name, lane.id), lane.table, model, overrides)


def _load_assignment(name: str, table: RoutingTable, model: Model, overrides: Overrides) -> Resource:
    taken: set[tuple[str, int]] = set()
    groups = [
        group
        for priority, tier in enumerate(tiers(table, model))
        for group in _groups(table, tier, priority, overrides, taken)
    ]
    # 140 (Envoy's default) would spill to the next priority as soon as one of two hosts is out.
    body: Json = {"cluster_name": name, "endpoints": groups, "policy": {"overprovisioning_factor": 100_000}}
    return Resource(name, body, owner=str(table.key))


def _groups(
    table: RoutingTable, tier: Tier, priority: int, overrides: Overrides, taken: set[tuple[str, int]]
) -> Iterator[Json]:
    """Yield a locality for each host of a priority.

    Localities carry no weight in our balancing. But a host whose locality changes is a new host to Envoy: so a new
    incarnation, on its return from being out, starts with Envoy's own slow start (`slow_start_config`), from the first
    request on and without one more message from us.
    """
    for host in tier.hosts:
        endpoint = table.endpoint(host.endpoint)
        addresses = _addresses(table, endpoint, overrides)
        if not addresses:
            continue
        state = overrides.host(HostKey(table.key, host.endpoint, host.deployment))
        placed = _host(table, host, endpoint, state, _unique(addresses, endpoint.port, taken))
        yield {
            "locality": {
                "region": endpoint.region,
                "zone": f"{endpoint.name}/{host.deployment}",
                "sub_zone": str(state.incarnation),
            },
            "priority": priority,
            "lb_endpoints": [placed],
        }


def _addresses(table: RoutingTable, endpoint: Endpoint, overrides: Overrides) -> tuple[str, ...]:
    try:
        return (str(ipaddress.ip_address(endpoint.host)),)
    except ValueError:
        return overrides.addresses.get(table.endpoint_key(endpoint.name), ())


Address = tuple[str, bool]
"""An IP address as Envoy writes it, and whether it is an IPv4 address in the clothes of an IPv6 one."""


def _unique(addresses: tuple[str, ...], port: int, taken: set[tuple[str, int]]) -> tuple[Address, ...]:
    """Put an address first that no other host of the cluster begins with.

    Envoy knows a host by its first address, and would silently drop the second deployment of one resource. An IPv4
    address mapped into IPv6, or an IPv6 one with a scope that means nothing there, is another one to Envoy and the same
    to the kernel.
    """
    plain = [(a, False) for a in addresses]
    scopes = ("", *(f"%{n}" for n in range(1, 64)))
    mapped = [(f"{a if ':' in a else '::ffff:' + a}{scope}", ":" not in a) for scope in scopes for a in addresses]
    for first in (*plain, *mapped):
        if (first[0], port) not in taken:
            taken.add((first[0], port))
            return (first, *(a for a in plain if a != first))
    return tuple(plain)


def _host(
    table: RoutingTable, host: Host, endpoint: Endpoint, state: HostState, addresses: tuple[Address, ...]
) -> Json:
    drains = endpoint.drain or host.drain
    health = "DRAINING" if drains else _HEALTH[state.state] if endpoint.usable else "UNHEALTHY"
    where: Json = {"address": _socket(addresses[0], endpoint.port), "hostname": _authority(endpoint)}
    if len(addresses) > 1:
        where["additional_addresses"] = [{"address": _socket(a, endpoint.port)} for a in addresses[1:4]]
    return {
        "endpoint": where,
        "health_status": health,
        "load_balancing_weight": host.weight if table.strategy == "Weighted" else 1,
        "metadata": {
            "filter_metadata": {
                "aoai": {"id": endpoint.name, "deployment": host.deployment, "region": endpoint.region},
                "envoy.transport_socket_match": {"scheme": endpoint.scheme},
            }
        },
    }


def _socket(address: Address, port: int) -> Json:
    text, mapped = address
    return {"socket_address": {"address": text, "port_value": port, **({"ipv4_compat": True} if mapped else {})}}


def _authority(endpoint: Endpoint) -> str:
    """Return what Envoy sends as the Host header and, over TLS, as the server name, where a port would never match."""
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return host if endpoint.scheme == "https" or endpoint.port == 80 else f"{host}:{endpoint.port}"

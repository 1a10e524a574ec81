"""ClusterLoadAssignments: one host for each deployment.

Everything here may change by the second, and nothing else does: an endpoint's health, throttling, ramp and address
reach Envoy by EDS alone.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from aoai_operator.core.envoy.snapshot import Json, Resource
from aoai_operator.core.envoy.topology import Tier, tiers
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
    """Yield the load assignment of each of the pool's models."""
    for model in table.models:
        yield _load_assignment(table, model, overrides)


def _load_assignment(table: RoutingTable, model: Model, overrides: Overrides) -> Resource:
    name = cluster_name(table.key, model.name)
    taken: set[tuple[str, int]] = set()
    groups = [
        {
            "priority": priority,
            "load_balancing_weight": 1,
            "locality": {"sub_zone": str(priority)},
            "lb_endpoints": _hosts(table, tier, overrides, taken),
        }
        for priority, tier in enumerate(tiers(table, model))
    ]
    # 140 (Envoy's default) would spill to the next priority as soon as one of two hosts is out.
    body: Json = {"cluster_name": name, "endpoints": groups, "policy": {"overprovisioning_factor": 100_000}}
    return Resource(name, body, owner=str(table.key))


def _hosts(table: RoutingTable, tier: Tier, overrides: Overrides, taken: set[tuple[str, int]]) -> list[Json]:
    found = []
    for host in tier.hosts:
        endpoint = table.endpoint(host.endpoint)
        addresses = _addresses(table, endpoint, overrides)
        if addresses:
            state = overrides.host(HostKey(table.key, host.endpoint, host.deployment))
            found.append(_host(table, host, endpoint, state, _unique(addresses, endpoint.port, taken)))
    return found


def _addresses(table: RoutingTable, endpoint: Endpoint, overrides: Overrides) -> tuple[str, ...]:
    try:
        return (str(ipaddress.ip_address(endpoint.host.strip("[]"))),)
    except ValueError:
        return overrides.addresses.get(table.endpoint_key(endpoint.name), ())


def _unique(addresses: tuple[str, ...], port: int, taken: set[tuple[str, int]]) -> tuple[str, ...]:
    """Put an address first that no other host of the cluster begins with.

    Envoy knows a host by its first address, and would drop the second deployment of one resource. Where the name has
    one address only, the same address written as IPv4-mapped IPv6 is another one to Envoy, and the same to the kernel.
    """
    mapped = tuple(f"::ffff:{a}" for a in addresses if "." in a and ":" not in a)
    for first in (*addresses, *mapped):
        if (first, port) not in taken:
            taken.add((first, port))
            return (first, *(a for a in addresses if a != first))
    return addresses


def _host(table: RoutingTable, host: Host, endpoint: Endpoint, state: HostState, addresses: tuple[str, ...]) -> Json:
    sick = not endpoint.usable
    health = "DRAINING" if endpoint.drain else "UNHEALTHY" if sick else _HEALTH[state.state]
    where: Json = {"address": _socket(addresses[0], endpoint.port), "hostname": _authority(endpoint)}
    if len(addresses) > 1:
        where["additional_addresses"] = [{"address": _socket(a, endpoint.port)} for a in addresses[1:4]]
    return {
        "endpoint": where,
        "health_status": health,
        "load_balancing_weight": _weight(table, host, state),
        "metadata": {
            "filter_metadata": {
                "aoai": {
                    "id": endpoint.name,
                    "deployment": host.deployment,
                    "region": endpoint.region,
                    "used": _used(state),
                },
                "envoy.transport_socket_match": {"scheme": endpoint.scheme},
            }
        },
    }


def _socket(address: str, port: int) -> Json:
    return {"socket_address": {"address": address, "port_value": port}}


def _authority(endpoint: Endpoint) -> str:
    default = 443 if endpoint.scheme == "https" else 80
    return endpoint.host if endpoint.port == default else f"{endpoint.host}:{endpoint.port}"


def _weight(table: RoutingTable, host: Host, state: HostState) -> int:
    """Return Envoy's weight: hundred times the share, so that a ramp has steps even for a weight of 1."""
    share = host.weight if table.strategy == "Weighted" else 1
    return max(1, round(share * 100 * state.ramp))


def _used(state: HostState) -> str:
    """Return the utilization reported by ORCA: Headroom's weight is the tokens left divided by it."""
    return f"{1 / max(state.ramp, 0.01):.2f}".rstrip("0").rstrip(".")

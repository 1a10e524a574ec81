"""The cluster at which our Lua asks the ledger."""

from __future__ import annotations

from aoai_operator.core.envoy.snapshot import Resource

LEDGER = "ledger"
"""Its name, which lua/quota.lua calls."""

_CONNECTIONS = 8
"""At most, for each worker: a worker that has just started would open one for every request that waits."""
_WAITING = 100_000
"""All may wait: the deadline of a call is what ends it."""


def ledger_cluster(path: str) -> Resource:
    """Return the cluster of a ledger that answers at a Unix socket on Envoy's file system."""
    limits = {"max_connections": _CONNECTIONS, "max_pending_requests": _WAITING, "max_requests": _WAITING}
    endpoint = {"endpoint": {"address": {"pipe": {"path": path}}}}
    body = {
        "name": LEDGER,
        "type": "STATIC",
        "connect_timeout": "0.1s",
        "circuit_breakers": {"thresholds": [limits]},
        "load_assignment": {"cluster_name": LEDGER, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    return Resource(LEDGER, body)

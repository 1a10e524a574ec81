"""The routes of one pool: model -> cluster, with the pool's retries and time-outs; and what the gateway answers itself.

A route's name tells our Lua, and the access log, what the path had said, and which revision of the pool's data its
virtual host carries: "pool|characters before /openai|kind|model|revision", and "|lane" but for the shared one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from aoai_operator.core.envoy.config import duration, extension
from aoai_operator.core.envoy.snapshot import Json
from aoai_operator.core.envoy.topology import Outage, Tier, common_deployment, outage, tiers
from aoai_operator.core.lanes import Lane, lanes_of
from aoai_operator.core.names import cluster_name
from aoai_operator.core.observed import Overrides
from aoai_operator.core.table import Model, RoutingTable

HEALTH = "/healthz"
"""Where a gateway, and below its prefix each pool, tells whether it could serve."""
NOTHING = (
    "Nothing is served at this address. Pools answer at /<namespace>/<pool>/openai/..., at their"
    " gateway.hostnames, and, when a gateway has one pool, at /openai/...."
)
"""What is said where there is no route."""


def pool_routes(table: RoutingTable, prefix: str, overrides: Overrides, *, revision: str) -> Iterator[Json]:
    """Yield the routes of a pool below a prefix, the more exact first.

    Args:
        table: the pool.
        prefix: what stands before /openai in a path, "/namespace/pool" or nothing.
        overrides: what was observed: the routes of a model that is out say until when.
        revision: that of the data that the virtual host carries for our Lua.
    """
    if prefix or table.hostnames:
        yield health(prefix + HEALTH, [table], overrides)
    shared, *own = lanes_of(table)
    for lane in own:
        yield from _lane_routes(_Place(lane, prefix, revision), overrides)
    yield from _lane_routes(_Place(shared, prefix, revision), overrides)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where routes stand: a lane of a pool, and what stands before /openai in a path."""

    lane: Lane
    prefix: str
    revision: str

    def name(self, kind: str, model: str) -> str:
        """Return a route's name."""
        known = f"{self.lane.table.key}|{len(self.prefix)}|{kind}|{model}|{self.revision}"
        return f"{known}|{self.lane.id}" if self.lane.id else known

    def match(self, path: str, model: str = "") -> Json:
        """Match a path below the prefix, and what our Lua found: the lane, and the model."""
        found = {"x-aoai-lane": self.lane.id, "x-aoai-model": model}
        headers = [{"name": name, "string_match": {"exact": value}} for name, value in found.items() if value]
        return {"prefix": f"{self.prefix}{path}", **({"headers": headers} if headers else {})}


def _lane_routes(place: _Place, overrides: Overrides) -> Iterator[Json]:
    table = place.lane.table
    for model in table.models:
        deployment = common_deployment(table, model) or model.name
        yield _route(
            place,
            model,
            overrides,
            name=place.name("deployment", model.name),
            match=place.match(f"/openai/deployments/{model.name}/"),
            rewrite=f"/openai/deployments/{deployment}/",
        )
    if not place.lane.id:
        unknown = place.match("/openai/deployments/")
        yield _answer(place.name("deployment", ""), unknown, 404, _error("DeploymentNotFound"))
    for model in table.models[1:]:
        match = place.match("/openai/", model.name)
        yield _route(place, model, overrides, name=place.name("model", model.name), match=match, rewrite="/openai/")
    first = table.models[0]
    match = place.match("/openai/")
    yield _route(place, first, overrides, name=place.name("any", first.name), match=match, rewrite="/openai/")


def _route(place: _Place, model: Model, overrides: Overrides, *, name: str, match: Json, rewrite: str) -> Json:
    table = place.lane.table
    route: Json = {
        "name": name,
        "match": match,
        "route": {
            "cluster": cluster_name(table.key, model.name, place.lane.id),
            "auto_host_rewrite": True,
            "timeout": duration(table.timeouts.request_ms),
            # Never retried, so it must come last: an attempt's own silence ends it before (per_try_idle_timeout).
            "idle_timeout": duration(max(table.timeouts.idle_ms, table.failover.per_try_timeout_ms) + 1000),
            "retry_policy": _retries(table, model),
        },
        "request_body_buffer_limit": table.max_request_bytes,
    }
    if match["prefix"] != rewrite:
        route["route"]["prefix_rewrite"] = rewrite
    out = outage(table, model, overrides)
    if out is not None:
        route["metadata"] = {"filter_metadata": {"aoai": _wait(out)}}
    return route


def _wait(out: Outage) -> Json:
    """Return what our Lua tells a client while every host is out; exact to the millisecond, counted down in Envoy."""
    return {"down": True} if out.until is None else {"until_ms": out.until}


def _retries(table: RoutingTable, model: Model) -> Json:
    failover = table.failover
    on = ["retriable-status-codes"]
    if failover.retry_connect:
        on += ["connect-failure", "refused-stream"]
    if failover.retry_connect or failover.retry_timeout:
        # Envoy counts its own per-try timeout as a reset.
        on.append("reset")
    policy: Json = {
        "retry_on": ",".join(on),
        "retriable_status_codes": list(failover.retry_statuses),
        "num_retries": failover.attempts - 1,
        "per_try_timeout": duration(failover.per_try_timeout_ms),
        "per_try_idle_timeout": duration(table.timeouts.idle_ms),
        "retry_host_predicate": [extension("previous_hosts", "retry.host.previous_hosts.v3.PreviousHostsPredicate")],
        "host_selection_retry_max_attempts": 100,
        # Another host needs no waiting.
        "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.01s"},
    }
    order = tiers(table, model)
    if len(order) > 1 and failover.attempts > 1:
        # Hosts tried in vain still count as healthy for some milliseconds: without this a request never leaves a
        # priority whose hosts all refuse it.
        frequency = max(1, min(_hosts_to_try(model, order), failover.attempts - 1))
        policy["retry_priority"] = extension(
            "previous_priorities",
            "retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
            update_frequency=frequency,
        )
    return policy


def _hosts_to_try(model: Model, order: Sequence[Tier]) -> int:
    """Return after how many attempts a request gives up the priorities that it has tried.

    All hosts of the first priority have their turn; and where another model stands behind, those of any priority of
    the model itself, so that the other model does not answer while a host of the one asked for is well.
    """
    own = order[: len({host.priority for host in model.hosts})]
    return max(len(tier.hosts) for tier in own) if len(own) < len(order) else len(order[0].hosts)


def health(path: str, tables: Iterable[RoutingTable], overrides: Overrides) -> Json:
    """Answer whether a request could be served: 200 while any of the pools has a host that takes one, else 503."""
    serving = any(outage(t, m, overrides) is None for t in tables for m in t.models)
    body = {"status": "ok" if serving else "unavailable"}
    return _answer("health", {"path": path}, 200 if serving else 503, body)


def nothing(prefix: str) -> Json:
    """Answer that nothing is here, and where pools answer."""
    return _answer("nothing", {"prefix": prefix}, 404, _error("not_found"))


def misdirected() -> Json:
    """Answer a client that asks another host name of a connection than the one it was made for (RFC 9110, 15.5.20)."""
    return _answer("misdirected", {"prefix": "/"}, 421, _error("misdirected_request"))


_ERRORS = {
    "misdirected_request": "This connection was made for another host name: ask at a new one.",
    "DeploymentNotFound": "The model in the path does not exist in this pool.",
    "not_found": NOTHING,
}


def _error(code: str) -> Json:
    message = _ERRORS[code]
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}


def _answer(name: str, match: Json, status: int, body: Json) -> Json:
    kind = {"header": {"key": "content-type", "value": "application/json"}}
    return {
        "name": name,
        "match": match,
        "direct_response": {"status": status, "body": {"inline_string": json.dumps(body)}},
        "response_headers_to_add": [{**kind, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}],
    }

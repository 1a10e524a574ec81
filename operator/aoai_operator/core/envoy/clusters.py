"""Clusters: one for each pool x model, with the filters that act on every attempt, retries included.

What is alike in all clusters is made once and shared, as there are thousands; nobody changes a resource's body.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from aoai_operator.core.envoy.config import ADS, WITH_MATCHER, duration, extension, header_input, set_header, typed
from aoai_operator.core.envoy.luadata import source
from aoai_operator.core.envoy.secrets import other_name
from aoai_operator.core.envoy.settings import GatewaySettings
from aoai_operator.core.envoy.snapshot import Json, Resource
from aoai_operator.core.envoy.topology import common_deployment, hosts
from aoai_operator.core.guarantees import learns
from aoai_operator.core.lanes import lanes_of
from aoai_operator.core.names import cluster_name
from aoai_operator.core.table import Endpoint, Model, RoutingTable

_HTTP = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_POLICIES = "load_balancing_policies."
_UNLIMITED = 1_000_000
"""Envoy's own limits of connections and retries are not ours: at 3 retries at once (its default) clients see errors."""


def clusters(table: RoutingTable, settings: GatewaySettings) -> Iterator[Resource]:
    """Yield the cluster of each of the pool's models, in each lane."""
    for lane in lanes_of(table):
        for model in lane.table.models:
            name = cluster_name(table.key, model.name, lane.id)
            yield Resource(name, _cluster(name, lane.table, model, settings), owner=str(table.key))


def _cluster(name: str, table: RoutingTable, model: Model, settings: GatewaySettings) -> Json:
    renames = common_deployment(table, model) is None
    body: Json = {
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": {**ADS, "initial_fetch_timeout": "30s"}},
        "connect_timeout": duration(table.timeouts.connect_ms),
        "load_balancing_policy": {"policies": [{"typed_extension_config": _balancing(table)}]},
        # A pool that is out must answer so, and not hammer hosts that asked for quiet; a health change counts at once.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}, "update_merge_window": "0s"},
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": _UNLIMITED,
                    "max_pending_requests": _UNLIMITED,
                    "max_requests": table.max_concurrent_requests,
                    "max_retries": _UNLIMITED,
                }
            ]
        },
        "outlier_detection": _ejection(),
        "transport_socket_matches": _transports(settings),
        "typed_extension_protocol_options": {_HTTP: _protocol(table, model, renames=renames)},
    }
    if renames:
        body["per_connection_buffer_limit_bytes"] = table.max_request_bytes + 65_536
    return body


def _balancing(table: RoutingTable) -> Json:
    ramp = _slow_start(table)
    if table.strategy == "LeastRequest":
        return extension("least_request", _POLICIES + "least_request.v3.LeastRequest", choice_count=2, **ramp)
    if table.strategy == "Weighted":
        return extension("round_robin", _POLICIES + "round_robin.v3.RoundRobin", **ramp)
    return extension(
        "client_side_weighted_round_robin",
        _POLICIES + "client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin",
        blackout_period="0s",
        weight_update_period="0.2s",
        # A host whose last report was small is asked no more, so it cannot report more: after this time it counts as
        # the median of the others.
        weight_expiration_period="5s",
        **ramp,
    )


def _slow_start(table: RoutingTable) -> Json:
    """Return Envoy's ramp for hosts that are new to it: a 20th of their share at first, all of it after the window."""
    if not table.throttling.ramp_up_ms:
        return {}
    ramp = {
        "slow_start_window": duration(table.throttling.ramp_up_ms),
        "aggression": {"default_value": 1.0, "runtime_key": "aoai.slow_start.aggression"},
        "min_weight_percent": {"value": 5},
    }
    return {"slow_start_config": ramp}


@cache
def _ejection() -> Json:
    """Return short ejections, which bridge the time until EDS says the same with its exact end.

    One 429 is enough (see `_throttled`); failures of our own side to connect must be five in a row, so that a single
    reset does not take a region away.
    """
    return {
        "split_external_local_origin_errors": True,
        "consecutive_5xx": 1,
        "enforcing_consecutive_5xx": 100,
        "consecutive_local_origin_failure": 5,
        "enforcing_consecutive_local_origin_failure": 100,
        "enforcing_local_origin_success_rate": 0,
        "enforcing_success_rate": 0,
        "enforcing_consecutive_gateway_failure": 0,
        "interval": "0.1s",
        "base_ejection_time": "0.5s",
        "max_ejection_time": "0.5s",
        "max_ejection_time_jitter": "0s",
        "max_ejection_percent": 100,
    }


@cache
def _transports(settings: GatewaySettings) -> list[Json]:
    trust = {"trusted_ca": {"filename": settings.trusted_ca}}
    tls = extension(
        "tls",
        "transport_sockets.tls.v3.UpstreamTlsContext",
        common_tls_context={"validation_context": trust},
        auto_host_sni=True,
        auto_sni_san_validation=True,
    )
    plain = extension("plain", "transport_sockets.raw_buffer.v3.RawBuffer")
    return [
        {"name": "https", "match": {"scheme": "https"}, "transport_socket": tls},
        {"name": "http", "match": {"scheme": "http"}, "transport_socket": plain},
    ]


def _protocol(table: RoutingTable, model: Model, *, renames: bool) -> Json:
    carrier = _carrier(table, model)
    from_host = _from_metadata(table, carrier, renames=renames, alternates=_alternates(table, model))
    filters = [from_host, *_credentials(table, model, carrier)]
    if renames:
        filters.append(_renaming())
    filters.append(extension("upstream_codec", "filters.http.upstream_codec.v3.UpstreamCodec"))
    return typed(
        "upstreams.http.v3.HttpProtocolOptions",
        explicit_http_config={"http_protocol_options": {}},
        common_http_protocol_options={"idle_timeout": "120s"},
        outlier_detection={"error_matcher": _throttled()},
        http_filters=filters,
    )


@cache
def _throttled() -> Json:
    """Return the answers that eject a host at once: only a throttled one, as one 500 must not take a region away."""
    return {"http_response_headers_match": {"headers": [{"name": ":status", "string_match": {"exact": "429"}}]}}


_KEY, _TOKEN = "api-key", "authorization"
"""The header that carries an endpoint's API key, and the one for a token."""
_NAME = "x-aoai-endpoint"


def _carrier(table: RoutingTable, model: Model) -> str:
    """Return the header in which an endpoint's name travels to the filter that puts in its credential.

    Where all endpoints want the same header, it is that: the credential overwrites the name, and nothing is left to be
    taken away again.
    """
    wanted = {_header(table.endpoint(h.endpoint)) for h in hosts(table, model)}
    return wanted.pop() if len(wanted) == 1 else _NAME


def _header(endpoint: Endpoint) -> str:
    return _TOKEN if endpoint.bearer else _KEY


_ATTEMPT = "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"


def _alternates(table: RoutingTable, model: Model) -> bool:
    """Tell whether an endpoint has a second key for every other attempt, so that the attempt's number travels, too."""
    return any(table.endpoint(h.endpoint).alternates for h in hosts(table, model))


def _from_metadata(table: RoutingTable, carrier: str, *, renames: bool, alternates: bool) -> Json:
    """Give each attempt what is its host's own.

    Attempts of a request share its headers: what an endpoint of one kind was given must not reach one of the other.
    """
    request: list[Json] = [{"remove": header} for header in (_KEY, _TOKEN) if carrier == _NAME]
    name = "%UPSTREAM_METADATA(aoai:id)%"
    request.append({"append": set_header(carrier, f"{name}/{_ATTEMPT}" if alternates else name)})
    if renames:
        request.append({"append": set_header("x-aoai-deployment", "%UPSTREAM_METADATA(aoai:deployment)%")})
    mutations: Json = {"request_mutations": request}
    response = []
    if table.strategy == "Headroom":
        report = "TEXT application_utilization=1,rps_fractional=%RESP(x-ratelimit-remaining-tokens)%"
        response.append({"append": set_header("endpoint-load-metrics", report)})
    if learns(table):
        # The router takes the region's own out before our Lua sees it; what is put here our Lua takes out.
        response.append({"append": set_header("x-aoai-capacity", "%RESP(x-ratelimit-limit-tokens)%")})
    if response:
        mutations["response_mutations"] = response
    return extension("host", "filters.http.header_mutation.v3.HeaderMutation", mutations=mutations)


def _credentials(table: RoutingTable, model: Model, carrier: str) -> Iterator[Json]:
    """Yield the filter that puts in each attempt's key or token, by endpoint.

    Endpoints out of use are left out: Envoy would wait for their keys before it uses the cluster.
    """
    names = dict.fromkeys(h.endpoint for h in hosts(table, model) if table.endpoint(h.endpoint).usable)
    if not names:
        return
    endpoint = header_input(carrier, name="endpoint")
    if _alternates(table, model):
        attempts = range(1, table.failover.attempts + 1)
        actions = {f"{n}/{i}": {"action": _credential(table, n, other=i % 2 == 0)} for n in names for i in attempts}
    else:
        actions = {n: {"action": _credential(table, n)} for n in names}
    yield {
        "name": "credentials",
        "typed_config": {
            "@type": WITH_MATCHER,
            "extension_config": extension("composite", "filters.http.composite.v3.Composite"),
            "xds_matcher": {"matcher_tree": {"input": endpoint, "exact_match_map": {"map": actions}}},
        },
    }
    if carrier == _NAME:
        yield extension(
            "name",
            "filters.http.header_mutation.v3.HeaderMutation",
            mutations={"request_mutations": [{"remove": _NAME}]},
        )


def _credential(table: RoutingTable, endpoint: str, *, other: bool = False) -> Json:
    known = table.endpoint(endpoint)
    header = _header(known)
    name = other_name(table, endpoint) if other and known.alternates else str(table.endpoint_key(endpoint))
    generic = extension(
        header,
        "http.injected_credentials.generic.v3.Generic",
        header=header,
        credential={"name": name, "sds_config": ADS},
    )
    injector = extension(
        "credential_injector",
        "filters.http.credential_injector.v3.CredentialInjector",
        overwrite=True,
        credential=generic,
    )
    return extension(endpoint, "filters.http.composite.v3.ExecuteFilterAction", typed_config=injector)


@cache
def _renaming() -> Json:
    return extension(
        "rename",
        "filters.http.lua.v3.Lua",
        default_source_code={"inline_string": source("json.lua", "upstream.lua")},
    )

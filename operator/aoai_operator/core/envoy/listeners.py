"""The listeners of a gateway. They name what changes (routes, our Lua, certificates) and hold none of it.

So the HTTP listener never drains; of the HTTPS listener only the chain of a pool that goes, or changes its names.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from aoai_operator.core.accesslog import ANSWER_LINE, ATTEMPT_LINE
from aoai_operator.core.envoy.accesslogs import access_log
from aoai_operator.core.envoy.config import ADS, WITH_MATCHER, extension, set_header
from aoai_operator.core.envoy.extensions import LUA, LUA_TYPE, keys_filter
from aoai_operator.core.envoy.headers import ALLOWED, anything_but
from aoai_operator.core.envoy.routes import HEALTH, NOTHING
from aoai_operator.core.envoy.scopes import scoped_routes
from aoai_operator.core.envoy.secrets import certificate_name
from aoai_operator.core.envoy.settings import GatewaySettings
from aoai_operator.core.envoy.snapshot import Json, Resource
from aoai_operator.core.envoy.tokens import TOKENS
from aoai_operator.core.table import RoutingTable

_UNKNOWN = anything_but(ALLOWED)
"""Matches the names of the headers that no request may have."""


def listener(settings: GatewaySettings) -> Resource:
    """Return the gateway's HTTP listener."""
    http = _http({**_manager(settings), "scoped_routes": scoped_routes(settings.gateway)})
    body = _listener(settings.gateway, settings.listen_host, settings.listen_port)
    return Resource(settings.gateway, {**body, "filter_chains": [{"filters": [http]}]})


def https_name(settings: GatewaySettings) -> str:
    """Return the name of the HTTPS listener."""
    return f"{settings.gateway}-https"


def https_listener(settings: GatewaySettings, port: int, tables: Sequence[RoutingTable]) -> Resource:
    """Return the HTTPS listener of the pools that have a certificate and host names.

    Each has a filter chain of its own, chosen by the name that the client asks for (SNI). Where a listener differs in
    filter chains only, Envoy changes it in place: the connections of the other chains stay.
    """
    return _https(settings, port, tuple((str(t.key), certificate_name(t), t.hostnames) for t in tables))


@lru_cache(maxsize=8)
def _https(settings: GatewaySettings, port: int, chains: tuple[tuple[str, str, tuple[str, ...]], ...]) -> Resource:
    """Return the listener of (pool, certificate, host names); remembered, as it is large and seldom another one."""
    name = https_name(settings)
    manager = _manager(settings)
    body: Json = {
        **_listener(name, settings.tls_host or settings.listen_host, port),
        "listener_filters": [extension("tls", "filters.listener.tls_inspector.v3.TlsInspector")],
        "filter_chains": [
            {
                "name": pool,
                "filter_chain_match": {"server_names": list(hostnames)},
                "transport_socket": _tls(certificate),
                "filters": [_http({**manager, "rds": {"route_config_name": pool, "config_source": ADS}})],
            }
            for pool, certificate, hostnames in chains
        ],
    }
    return Resource(name, body)


def _listener(name: str, host: str, port: int) -> Json:
    return {"name": name, "address": {"socket_address": {"address": host, "port_value": port}}}


_CIPHERS = [
    f"ECDHE-{key}-{cipher}"
    for cipher in ("AES128-GCM-SHA256", "CHACHA20-POLY1305", "AES256-GCM-SHA384")
    for key in ("ECDSA", "RSA")
]
"""Of TLS 1.2; those of 1.3 cannot be chosen. Forward secrecy and authenticated encryption only (RFC 9325, 4.2)."""


def _tls(secret: str) -> Json:
    context = {
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "cipher_suites": _CIPHERS},
        "tls_certificate_sds_secret_configs": [{"name": secret, "sds_config": ADS}],
    }
    return extension("tls", "transport_sockets.tls.v3.DownstreamTlsContext", common_tls_context=context)


def _http(manager: Json) -> Json:
    return extension("http", "filters.network.http_connection_manager.v3.HttpConnectionManager", **manager)


def _manager(settings: GatewaySettings) -> Json:
    return {
        "stat_prefix": settings.gateway,
        "http_filters": [
            keys_filter(),
            {**_delivered(TOKENS, WITH_MATCHER), "disabled": True},
            _kept_for_the_log(),
            _delivered(LUA, LUA_TYPE),
            _router(settings),
        ],
        "early_header_mutation_extensions": [_only_known_headers()],
        "access_log": [access_log(settings, ANSWER_LINE)],
        "local_reply_config": {"mappers": _local_replies()},
        "http_protocol_options": {"accept_http_10": True, "default_host_for_http_10": "gateway"},
        "common_http_protocol_options": {"max_headers_count": 200},
        "always_set_request_id_in_response": True,
        "server_header_transformation": "PASS_THROUGH",
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "request_headers_timeout": "10s",
    }


def _delivered(name: str, type_url: str) -> Json:
    """Return an HTTP filter that comes by ECDS; until it has come, Envoy answers 500: closed, not open."""
    return {
        "name": name,
        "config_discovery": {
            "config_source": {**ADS, "initial_fetch_timeout": "5s"},
            "type_urls": [type_url],
        },
    }


def _router(settings: GatewaySettings) -> Json:
    failed: Json = {
        "or_filter": {
            "filters": [
                {
                    "status_code_filter": {
                        "comparison": {"op": "GE", "value": {"default_value": 400, "runtime_key": "aoai.attempts"}}
                    }
                },
                {"response_flag_filter": {}},
            ]
        }
    }
    log = {**access_log(settings, ATTEMPT_LINE), "filter": failed}
    return extension("router", "filters.http.router.v3.Router", suppress_envoy_headers=True, upstream_log=[log])


def _only_known_headers() -> Json:
    """Forget every header that is not on the allow-list, before any filter, or Envoy itself, could believe it."""
    unknown = {"safe_regex": {"google_re2": {}, "regex": _UNKNOWN}}
    return extension(
        "known-headers",
        "http.early_header_mutation.header_mutation.v3.HeaderMutation",
        mutations=[{"remove_on_match": {"key_matcher": unknown}}],
    )


def _kept_for_the_log() -> Json:
    """Keep tenant and request id where the log finds them: their headers end here, and are gone by then."""
    kept = [_kept("aoai.tenant", "x-aoai-tenant"), _kept("aoai.request_id", "x-request-id")]
    return extension("kept", "filters.http.set_filter_state.v3.Config", on_request_headers=kept)


def _kept(key: str, header: str) -> Json:
    return {
        "object_key": key,
        "factory_key": "envoy.string",
        "format_string": {"text_format_source": {"inline_string": f"%REQ({header})%"}},
    }


_REPLIES: tuple[tuple[int, str, str, str], ...] = (
    (400, "invalid_request_error", "bad_request", "The request is not valid HTTP for this gateway."),
    (
        401,
        "invalid_request_error",
        "invalid_api_key",
        "Access denied: the API key, or the token, proves no tenant of this pool, or is over.",
    ),
    (404, "invalid_request_error", "not_found", NOTHING),
    (408, "server_error", "request_timeout", "The request did not arrive in time."),
    (
        413,
        "invalid_request_error",
        "request_too_large",
        "The request is larger than the pool's spec.limits.maxRequestBytes.",
    ),
    (426, "invalid_request_error", "upgrade_required", "Use HTTP/1.1 or HTTP/2."),
    (431, "invalid_request_error", "headers_too_large", "The request has too many, or too large, headers."),
    (429, "rate_limit_exceeded", "rate_limit_exceeded", "Too many requests; retry after the time in retry-after-ms."),
    (500, "server_error", "gateway_error", "The gateway is starting, or could not handle this request."),
    (502, "server_error", "bad_gateway", "The upstream's answer could not be understood."),
    (503, "server_error", "service_unavailable", "No region could be reached for this request."),
    (
        504,
        "server_error",
        "timeout",
        "The upstream did not answer in time (spec.timeouts, spec.failover.perTryTimeout).",
    ),
)
"""Envoy's own answers, by status: OpenAI's type and code, and a sentence."""


def _local_replies() -> list[Json]:
    """Shape every answer that Envoy makes itself as OpenAI's. The first mapper that matches wins."""
    answered = {"header_filter": {"header": {"name": "x-aoai-answered", "present_match": True}}}
    health = {"header_filter": {"header": {"name": ":path", "string_match": {"suffix": HEALTH}}}}
    none_left = {"response_flag_filter": {"flags": ["UH"]}}
    overflow = {"response_flag_filter": {"flags": ["UO"]}}
    return [
        {"filter": {"or_filter": {"filters": [answered, health]}}},
        {
            "filter": none_left,
            "status_code": 429,
            **_reply(
                "rate_limit_exceeded",
                "rate_limit_exceeded",
                "Every region of this model is out at the moment; retry after the time in retry-after-ms.",
            ),
        },
        {
            "filter": overflow,
            "status_code": 503,
            **_reply(
                "server_error",
                "gateway_overloaded",
                "The gateway has as many requests of this model as spec.limits.maxConcurrentRequests allows.",
            ),
        },
        {
            # By the filter of tokens alone, which says 403 of a good token that is for somebody else.
            "filter": _status(403),
            "status_code": 401,
            **_reply(
                "invalid_request_error",
                "invalid_token",
                "Access denied: the token is for another audience than this pool takes (spec.auth).",
            ),
        },
        *({"filter": _status(s), **_reply(kind, code, text)} for s, kind, code, text in _REPLIES),
    ]


def _status(status: int) -> Json:
    value = {"default_value": status, "runtime_key": f"aoai.reply.{status}"}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}


def _reply(kind: str, code: str, message: str) -> Json:
    error = {"message": message, "type": kind, "param": None, "code": code}
    return {
        "headers_to_add": [set_header("x-aoai-local", "%RESPONSE_FLAGS%")],
        "body_format_override": {"json_format": {"error": error}, "content_type": "application/json"},
    }

"""From plain dictionaries to what Envoy reads: the only place that knows both."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from google.protobuf import any_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.message import Message

from aoai_operator.core.envoy.snapshot import Resource, TypeUrl

EXTENSION_MODULES = (
    "envoy.config.cluster.v3.cluster_pb2",
    "envoy.config.core.v3.extension_pb2",
    "envoy.config.endpoint.v3.endpoint_pb2",
    "envoy.config.listener.v3.listener_pb2",
    "envoy.config.route.v3.route_pb2",
    "envoy.config.route.v3.scoped_route_pb2",
    "envoy.extensions.access_loggers.file.v3.file_pb2",
    "envoy.extensions.access_loggers.fluentd.v3.fluentd_pb2",
    "envoy.extensions.access_loggers.grpc.v3.als_pb2",
    "envoy.extensions.common.matching.v3.extension_matcher_pb2",
    "envoy.extensions.filters.common.matcher.action.v3.skip_action_pb2",
    "envoy.extensions.filters.http.api_key_auth.v3.api_key_auth_pb2",
    "envoy.extensions.filters.http.buffer.v3.buffer_pb2",
    "envoy.extensions.filters.http.composite.v3.composite_pb2",
    "envoy.extensions.filters.http.credential_injector.v3.credential_injector_pb2",
    "envoy.extensions.filters.http.header_mutation.v3.header_mutation_pb2",
    "envoy.extensions.filters.http.health_check.v3.health_check_pb2",
    "envoy.extensions.filters.http.jwt_authn.v3.config_pb2",
    "envoy.extensions.filters.http.lua.v3.lua_pb2",
    "envoy.extensions.filters.http.router.v3.router_pb2",
    "envoy.extensions.filters.http.set_filter_state.v3.set_filter_state_pb2",
    "envoy.extensions.filters.http.upstream_codec.v3.upstream_codec_pb2",
    "envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2",
    "envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2",
    "envoy.extensions.http.early_header_mutation.header_mutation.v3.header_mutation_pb2",
    "envoy.extensions.http.injected_credentials.generic.v3.generic_pb2",
    "envoy.extensions.load_balancing_policies.client_side_weighted_round_robin.v3.client_side_weighted_round_robin_pb2",
    "envoy.extensions.load_balancing_policies.least_request.v3.least_request_pb2",
    "envoy.extensions.load_balancing_policies.round_robin.v3.round_robin_pb2",
    "envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb2",
    "envoy.extensions.retry.priority.previous_priorities.v3.previous_priorities_config_pb2",
    "envoy.extensions.transport_sockets.raw_buffer.v3.raw_buffer_pb2",
    "envoy.extensions.transport_sockets.tls.v3.secret_pb2",
    "envoy.extensions.transport_sockets.tls.v3.tls_pb2",
    "envoy.extensions.upstreams.http.v3.http_protocol_options_pb2",
    "envoy.type.matcher.v3.http_inputs_pb2",
    "xds.type.v3.typed_struct_pb2",
)
"""What registers the messages that a typed_config of ours may hold."""

for _module in EXTENSION_MODULES:
    import_module(_module)

_POOL = descriptor_pool.Default()
_TYPED_STRUCT = "type.googleapis.com/xds.type.v3.TypedStruct"


class ConversionError(ValueError):
    """A resource is not what its type's proto allows. The message names resource and field."""


def to_any(type_url: TypeUrl, resource: Resource) -> any_pb2.Any:
    """Encode a resource; equal bodies give equal bytes.

    An `@type` that the installed protos lack becomes an xds.type.v3.TypedStruct, which Envoy resolves itself.
    Raises ConversionError. Values of a Secret are never part of its message.
    """
    message = _empty(type_url)
    try:
        json_format.ParseDict(_with_typed_structs(resource.body), message)
    except (json_format.ParseError, TypeError, ValueError, AttributeError) as error:
        raise ConversionError(_explain(type_url, resource.name, error)) from None
    _make_deterministic(message)
    return any_pb2.Any(type_url=type_url, value=message.SerializeToString(deterministic=True))


def pack(type_url: TypeUrl, resource: Resource) -> bytes:
    """Return the `value` of `to_any`."""
    return to_any(type_url, resource).value


def _empty(type_url: str) -> Message:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(type_url.rpartition("/")[2]))()


def _is_known(type_url: str) -> bool:
    try:
        _POOL.FindMessageTypeByName(type_url.rpartition("/")[2])
    except KeyError:
        return False
    return True


def _with_typed_structs(value: Any) -> Any:
    """Copy a body, with each unknown `@type` wrapped."""
    if isinstance(value, list):
        return [_with_typed_structs(item) for item in value]
    if not isinstance(value, dict):
        return value
    inner = value.get("@type")
    if isinstance(inner, str) and not _is_known(inner):
        rest = {key: item for key, item in value.items() if key != "@type"}
        return {"@type": _TYPED_STRUCT, "type_url": inner, "value": rest}
    return {key: _with_typed_structs(item) for key, item in value.items()}


def _make_deterministic(message: Message) -> None:
    """Encode the nested Anys again with sorted maps: the JSON parser leaves their order open."""
    for child in _children(message):
        if isinstance(child, any_pb2.Any):
            inner = _empty(child.type_url)
            inner.ParseFromString(child.value)
            _make_deterministic(inner)
            child.value = inner.SerializeToString(deterministic=True)
        else:
            _make_deterministic(child)


def _children(message: Message) -> Iterator[Message]:
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            if field.message_type.fields_by_name["value"].message_type is not None:
                yield from value.values()
        elif field.is_repeated:
            yield from value
        else:
            yield value


def _explain(type_url: TypeUrl, name: str, error: Exception) -> str:
    kind = type_url.rpartition(".")[2]
    if type_url is TypeUrl.SECRET:
        field = re.search(r"Failed to parse (\w+) field", str(error))
        return f"{kind} {name}: {field[0] if field else 'cannot be encoded'} (details withheld: it is a secret)"
    return f"{kind} {name}: {error}"

"""The endpoints' credentials, by SDS: one generic secret an endpoint, named "namespace/pool/endpoint"."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from aoai_operator.core.envoy.snapshot import Resource
from aoai_operator.core.names import SecretRef
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.table import RoutingTable


def credentials(table: RoutingTable, secrets: Mapping[SecretRef, SecretValue]) -> Iterator[Resource]:
    """Yield the SDS secret of every endpoint in use.

    Each upstream `credential_injector` asks for its own by name, so a rotated key goes to Envoy alone.
    """
    for endpoint in table.endpoints:
        if not endpoint.usable:
            continue
        value = secrets[endpoint.credential]
        name = str(table.endpoint_key(endpoint.name))
        body = {"name": name, "generic_secret": {"secret": {"inline_string": value.reveal()}}}
        yield Resource(name, body, owner=str(table.key))

"""What comes by SDS: the endpoints' credentials, and the certificates with which pools are served to clients.

A credential is named "namespace/pool/endpoint", an account's second key the same with ":other", a certificate
"namespace/pool:tls": no name of Kubernetes has a colon.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from aoai_operator.core.certificates import ServingCertificate, read_certificate
from aoai_operator.core.credentials import read_key
from aoai_operator.core.envoy.snapshot import Json, Resource
from aoai_operator.core.names import SecretRef
from aoai_operator.core.observed import Grant, Overrides
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.table import Endpoint, RoutingTable


def credentials(
    table: RoutingTable, secrets: Mapping[SecretRef, SecretValue], overrides: Overrides
) -> Iterator[Resource]:
    """Yield the SDS secret of every endpoint in use.

    Each upstream `credential_injector` asks for its own by name, so a rotated key goes to Envoy alone.
    """
    for endpoint in table.endpoints:
        key = table.endpoint_key(endpoint.name)
        value = credential(endpoint, secrets, overrides.grants.get(key))
        if endpoint.usable and value is not None:
            header = SecretValue(f"Bearer {value.reveal()}") if endpoint.bearer else value
            yield _generic(table, str(key), header)
            if endpoint.alternates:
                grant = overrides.grants.get(key)
                yield _generic(table, other_name(table, endpoint.name), (grant and grant.other) or value)


def other_name(table: RoutingTable, endpoint: str) -> str:
    """Return the name of an endpoint's second key in SDS."""
    return f"{table.endpoint_key(endpoint)}:other"


def _generic(table: RoutingTable, name: str, value: SecretValue) -> Resource:
    return Resource(name, {"name": name, "generic_secret": {"secret": _inline(value)}}, owner=str(table.key))


def credential(endpoint: Endpoint, secrets: Mapping[SecretRef, SecretValue], grant: Grant | None) -> SecretValue | None:
    """Return the API key or the token of an endpoint; None: it has none that could be sent.

    A token that is over stays: its host gets no requests, and Envoy would begin the whole cluster anew without it.
    """
    if endpoint.credential is None:
        return grant.token if grant else None
    value = read_key(secrets, endpoint.credential)
    return value if isinstance(value, SecretValue) else None


def certificate_name(table: RoutingTable) -> str:
    """Return the name of a pool's serving certificate in SDS."""
    return f"{table.key}:tls"


def certificate(table: RoutingTable, secrets: Mapping[SecretRef, SecretValue]) -> Resource | None:
    """Return the serving certificate of a pool; None when its Secret has none that Envoy could serve."""
    read = read_certificate(secrets, table.tls_refs)
    if not isinstance(read, ServingCertificate):
        return None
    pair = {"certificate_chain": {"inline_string": read.chain}, "private_key": _inline(read.key)}
    name = certificate_name(table)
    return Resource(name, {"name": name, "tls_certificate": pair}, owner=str(table.key))


def _inline(value: SecretValue) -> Json:
    return {"inline_string": value.reveal()}

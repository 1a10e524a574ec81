"""What comes by SDS: the endpoints' credentials, and the certificates with which pools are served to clients.

A credential is named "namespace/pool/endpoint", a certificate "namespace/pool:tls": no name of Kubernetes has a colon.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from aoai_operator.core.certificates import ServingCertificate, read_certificate
from aoai_operator.core.envoy.snapshot import Json, Resource
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
        body = {"name": name, "generic_secret": {"secret": _inline(value)}}
        yield Resource(name, body, owner=str(table.key))


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

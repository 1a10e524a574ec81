"""Resources as the xDS server keeps them: encoded once, sent to any number of proxies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aoai_operator.core.envoy.snapshot import Json, Owners, TypeUrl

WILDCARD = "*"
"""Stands for every resource of a type."""


class Reference(NamedTuple):
    """A resource that another one makes the proxy ask for."""

    type_url: TypeUrl
    name: str


@dataclass(frozen=True, slots=True)
class PackedResource:
    """One resource, encoded. The bytes are the `value` of its google.protobuf.Any, and may be a Secret."""

    name: str
    version: str
    value: bytes = field(repr=False)
    references: frozenset[Reference] = frozenset()


@dataclass(frozen=True, slots=True)
class PackedSnapshot:
    """All encoded resources of one gateway. `version` and `unknown` are those of the snapshot it was asked to be."""

    version: str
    resources: Mapping[TypeUrl, Mapping[str, PackedResource]] = field(repr=False)
    unknown: Owners = frozenset()


def references(type_url: TypeUrl, body: Json) -> frozenset[Reference]:
    """Return what a cluster, listener or scope makes the proxy ask for by EDS, SRDS, RDS, ECDS and, for listeners, SDS.

    Until these are answered Envoy keeps the cluster or listener warming, and does not use it.
    """
    if type_url is TypeUrl.SCOPE:
        return frozenset({Reference(TypeUrl.ROUTE, body["route_configuration_name"])})
    if type_url not in (TypeUrl.CLUSTER, TypeUrl.LISTENER):
        return frozenset()
    found = set(_by_name(body))
    if (eds := body.get("eds_cluster_config")) is not None:
        found.add(Reference(TypeUrl.ENDPOINT, eds.get("service_name") or body["name"]))
    return frozenset(found)


def _by_name(value: Any) -> Iterator[Reference]:
    if isinstance(value, list):
        for item in value:
            yield from _by_name(item)
    elif isinstance(value, dict):
        rds = value.get("rds")
        if isinstance(rds, dict) and "route_config_name" in rds:
            yield Reference(TypeUrl.ROUTE, rds["route_config_name"])
        if "scoped_rds" in value:
            yield Reference(TypeUrl.SCOPE, WILDCARD)
        for secret in value.get("tls_certificate_sds_secret_configs", ()):
            yield Reference(TypeUrl.SECRET, secret["name"])
        if "config_discovery" in value and "name" in value:
            yield Reference(TypeUrl.EXTENSION, value["name"])
        for item in value.values():
            if isinstance(item, dict | list):
                yield from _by_name(item)

"""What the control plane hands to Envoy: named resources by xDS type, each with a version of its own.

Resources are plain dictionaries in the proto3 JSON mapping with snake_case names, exactly as Envoy's own YAML
documentation writes them, so that golden files read as documentation and the core needs no protobuf.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

Json = dict[str, Any]


class TypeUrl(StrEnum):
    """The xDS types we serve, in the make-before-break order in which a change is sent.

    Source: Envoy, "xDS REST and gRPC protocol", "Eventual consistency considerations".
    """

    SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105
    CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
    ENDPOINT = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
    EXTENSION = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
    LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
    SCOPE = "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration"
    ROUTE = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"


def content_hash(value: Any) -> str:
    """Return 16 hex digits of the SHA-256 of the canonical JSON of `value`: equal content, equal version."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Resource:
    """One xDS resource.

    `owner` is the key "namespace/pool" of the one pool that it comes from, or None when several share it.
    The body is kept out of the repr: it may be a Secret.
    """

    name: str
    body: Json = field(repr=False)
    owner: str | None = None
    version: str = field(init=False)
    digest: int = field(init=False, repr=False)
    """A hash of name and version; a sum of many tells a set of resources, in whatever order."""

    def __post_init__(self) -> None:
        version = content_hash(self.body)
        object.__setattr__(self, "version", version)
        named = hashlib.sha256(f"{self.name} {version}".encode("utf-8", "surrogatepass")).digest()
        object.__setattr__(self, "digest", int.from_bytes(named[:16]))


@dataclass(frozen=True)
class Snapshot:
    """All resources of one gateway. Two snapshots with equal content are equal, and have equal versions."""

    resources: Mapping[TypeUrl, Mapping[str, Resource]]

    @staticmethod
    def of(resources: Iterable[tuple[TypeUrl, Resource]]) -> Snapshot:
        """Group resources by type and name; the last of two with one name wins."""
        grouped: dict[TypeUrl, dict[str, Resource]] = {url: {} for url in TypeUrl}
        for url, resource in resources:
            grouped[url][resource.name] = resource
        return Snapshot(grouped)

    @cached_property
    def version(self) -> str:
        """A content hash over the versions of everything in it."""
        return content_hash({url: f"{sum(r.digest for r in n.values()):x}" for url, n in self.resources.items()})

    @cached_property
    def by_owner(self) -> Mapping[str | None, Mapping[tuple[TypeUrl, str], Resource]]:
        """The resources of each pool, and under None those that pools share."""
        found: dict[str | None, dict[tuple[TypeUrl, str], Resource]] = {}
        for url, named in self.resources.items():
            for name, resource in named.items():
                found.setdefault(resource.owner, {})[url, name] = resource
        return found

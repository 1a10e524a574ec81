"""What the control plane hands to Envoy: named resources by xDS type, each with a version of its own.

Resources are plain dictionaries in the proto3 JSON mapping with snake_case names, exactly as Envoy's own YAML
documentation writes them, so that golden files read as documentation and the core needs no protobuf.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

from aoai_operator.core.envoy.generations import Generation

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
    return _digest(_canonical(value))[:16]


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class Resource:
    """One xDS resource. Immutable; equal content, equal `version`.

    It is kept as JSON text: a fleet has tens of thousands, and as objects each takes ten times as much memory.
    The body is kept out of the repr: it may be a Secret.
    """

    __slots__ = ("_text", "digest", "name", "owner", "version")

    def __init__(self, name: str, body: Json, owner: str | None = None) -> None:
        """Take a resource.

        Args:
            name: its name among those of its type.
            body: the message in the proto3 JSON mapping.
            owner: the key "namespace/pool" of the one pool that it comes from; None when several share it.
        """
        self.name = name
        self.owner = owner
        self._text = _canonical(body)
        self.version = _digest(self._text)[:16]
        self.digest = int(_digest(f"{name} {self.version}")[:32], 16)
        """A hash of name and version; a sum of many tells a set of resources, in whatever order."""

    @property
    def body(self) -> Json:
        """The message, made anew at each call."""
        body: Json = json.loads(self._text)
        return body

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Resource):
            return NotImplemented
        return (self.name, self.owner, self._text) == (other.name, other.owner, other._text)

    def __hash__(self) -> int:
        return hash((self.name, self.owner, self.version))

    def __repr__(self) -> str:
        return f"Resource(name={self.name!r}, owner={self.owner!r}, version={self.version!r})"


Resources = Mapping[TypeUrl, Mapping[str, Resource]]
"""By type and name."""

Owners = frozenset[str | None]
"""Owners of resources, as `Resource.owner` names them."""


def owner_of(name: str) -> str | None:
    """Return the owner of a resource, by its name alone: a pool's begins with "namespace/pool"."""
    namespace, slash, rest = name.partition("/")
    return f"{namespace}/{re.split('[/:]', rest)[0]}" if slash else None


@dataclass(frozen=True)
class Snapshot:
    """All resources of one gateway. Two snapshots with equal content are equal, and have equal versions.

    Attributes:
        resources: by type and name.
        digests: the sums of the resources' digests by type, where they are known already.
        unknown: owners of whose resources it is not known what they are now: a proxy keeps what it has of them.
    """

    resources: Resources
    digests: Mapping[TypeUrl, int] | None = field(default=None, compare=False, repr=False)
    unknown: Owners = frozenset()

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
        known = {url: f"{digest:x}" for url, digest in self._digests().items()}
        return content_hash([known, sorted(map(str, self.unknown))] if self.unknown else known)

    def _digests(self) -> Mapping[TypeUrl, int]:
        if self.digests is not None:
            return self.digests
        return {url: sum(r.digest for r in named.values()) for url, named in self.resources.items()}

    def replacing(self, parts: Iterable[tuple[Resources, Resources]]) -> Snapshot:
        """Return it with parts replaced, an old one by a new one each. No two parts have a name of a type in common."""
        put: dict[TypeUrl, dict[str, Resource]] = {url: {} for url in TypeUrl}
        gone: dict[TypeUrl, set[str]] = {url: set() for url in TypeUrl}
        for old, new in parts:
            for url in old.keys() | new.keys():
                before, after = old.get(url, {}), new.get(url, {})
                put[url].update((name, one) for name, one in after.items() if before.get(name) != one)
                gone[url].update(before.keys() - after.keys())
        if not any(put.values()) and not any(gone.values()):
            return self
        digests, resources = dict(self._digests()), dict(self.resources)
        for url, named in self.resources.items():
            replaced = (named[name] for name in gone[url].union(put[url]) if name in named)
            digests[url] += sum(r.digest for r in put[url].values()) - sum(r.digest for r in replaced)
            resources[url] = Generation.of(named).after(put[url], gone[url])
        return Snapshot(resources, digests)

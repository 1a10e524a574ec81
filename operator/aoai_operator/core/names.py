"""The keys by which the parts name one thing: a pool, an endpoint, a host of a cluster, a Secret's entry."""

from __future__ import annotations

from typing import NamedTuple


class PoolKey(NamedTuple):
    """A pool, or a tenant, by its namespace and name; written "namespace/name"."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    @classmethod
    def of(cls, text: str) -> PoolKey:
        """Read "namespace/name"."""
        namespace, _, name = text.partition("/")
        return cls(namespace, name)


class EndpointKey(NamedTuple):
    """One endpoint of a pool: an Azure OpenAI resource with its own address and credential.

    Its text "namespace/pool/endpoint" names the credential's Secret in SDS.
    """

    pool: PoolKey
    endpoint: str

    def __str__(self) -> str:
        return f"{self.pool}/{self.endpoint}"


class HostKey(NamedTuple):
    """One deployment behind one endpoint: the unit of health and throttling, and one host of an Envoy cluster."""

    pool: PoolKey
    endpoint: str
    deployment: str

    def __str__(self) -> str:
        return f"{self.pool}/{self.endpoint}/{self.deployment}"


class SecretRef(NamedTuple):
    """One entry of a Kubernetes Secret (or of a `Secret` in a file)."""

    namespace: str
    name: str
    key: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}[{self.key}]"


def cluster_name(pool: PoolKey, model: str, lane: str = "") -> str:
    """Name the Envoy cluster of a pool's model: "namespace/pool/model", with "@lane" for those of a lane."""
    return f"{pool}/{model}@{lane}" if lane else f"{pool}/{model}"

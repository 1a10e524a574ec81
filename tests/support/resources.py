"""Small resources for tests of the loops: pools, tenants and their secrets."""

from __future__ import annotations

from aoai_operator.core.api import AOAIBackendPool, TenantQuota
from aoai_operator.core.names import SecretRef
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.world import World


def pool(name: str, *, url: str = "http://127.0.0.1:9", namespace: str = "ns") -> AOAIBackendPool:
    """Return a pool of one endpoint and one model."""
    return AOAIBackendPool.model_validate(
        {
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "models": ({"name": "gpt-4o"},),
                "endpoints": (
                    {
                        "name": "one",
                        "url": url,
                        "deployments": ({"model": "gpt-4o", "name": "dep"},),
                        "auth": {"apiKey": {"secretRef": {"name": "keys", "key": "azure"}}},
                    },
                ),
            },
        }
    )


def tenant(name: str, *pools: str, namespace: str = "ns") -> TenantQuota:
    """Return a tenant of some pools."""
    return TenantQuota.model_validate(
        {
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "poolRefs": tuple({"name": p} for p in pools),
                "identities": ({"apiKey": {"secretRef": {"name": "keys", "key": name}}},),
            },
        }
    )


def world(*pools: AOAIBackendPool, **secrets: str) -> World:
    """Return a world of pools with one tenant of all; `secrets` are entries of the Secret "keys"."""
    entries = {"azure": "azure-key", "team": "team-key", **secrets}
    return World(
        pools=pools,
        quotas=(tenant("team", *(p.metadata.name for p in pools)),) if pools else (),
        secrets={SecretRef("ns", "keys", key): SecretValue(value) for key, value in entries.items()},
    )

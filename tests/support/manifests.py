"""Manifests for `aoai-operator local`, made of simulated regions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from aoai_operator.simulator import RunningRegion, Simulator

TENANT_KEY = "tenant-key-0123456789"
Json = dict[str, Any]


def pool_manifest(
    regions: Simulator | Iterable[RunningRegion],
    *,
    name: str = "chat",
    namespace: str = "ai",
    models: Mapping[str, Iterable[str]] | None = None,
    endpoints: Mapping[str, Json] | None = None,
    spec: Json | None = None,
    tenants: Mapping[str, str] | None = None,
    quotas: Mapping[str, Json] | None = None,
) -> str:
    """Return YAML of a pool over these regions, its Secrets, and its tenants.

    Args:
        regions: one endpoint is made of each, with all of its deployments and its key.
        name, namespace: of the pool.
        models: models and their fallbacks; by default all models that are deployed, without fallbacks.
        endpoints: changes of an endpoint, by region.
        spec: changes of the pool's spec, merged into it deeply.
        tenants: keys by tenant; by default one, "team", with TENANT_KEY.
        quotas: more fields of a tenant's spec, by tenant.
    """
    running = list(regions.regions.values() if isinstance(regions, Simulator) else regions)
    deployed = {d.settings.model: () for r in running for d in r.deployments.values()}
    pool_spec = {
        "models": [{"name": m, "fallbackModels": list(f)} for m, f in (models or deployed).items()],
        "endpoints": [_merge(_endpoint(r, name), (endpoints or {}).get(r.name, {})) for r in running],
    }
    documents = [
        _object("AOAIBackendPool", name, namespace, spec=_merge(pool_spec, spec or {})),
        *(secret(f"{name}-{r.name}", r.key, namespace=namespace) for r in running),
    ]
    for tenant, key in ({"team": TENANT_KEY} if tenants is None else tenants).items():
        documents += [
            tenant_quota(tenant, name, namespace=namespace, **(quotas or {}).get(tenant, {})),
            secret(f"{tenant}-key", key, namespace=namespace),
        ]
    return to_yaml(documents)


def tenant_quota(name: str, *pools: str, namespace: str = "ai", **spec: Any) -> Json:
    """Return a TenantQuota whose key is in the Secret "<name>-key"."""
    fields = {
        "poolRefs": [{"name": pool} for pool in pools],
        "identities": [{"apiKey": {"secretRef": {"name": f"{name}-key"}}}],
    }
    return _object("TenantQuota", name, namespace, spec={**fields, **spec})


def secret(name: str, key: str, *, namespace: str = "ai") -> Json:
    """Return a Secret with one entry, "api-key"."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "stringData": {"api-key": key},
    }


def to_yaml(documents: Iterable[Json]) -> str:
    """Return the documents as one YAML text."""
    return yaml.safe_dump_all(documents, sort_keys=False)


def _endpoint(region: RunningRegion, pool: str) -> Json:
    return {
        "name": region.name,
        "url": region.url,
        "region": region.name,
        "deployments": [_deployment(d.settings) for d in region.deployments.values()],
        "auth": {"apiKey": {"secretRef": {"name": f"{pool}-{region.name}"}}},
    }


def _deployment(settings: Any) -> Json:
    made: Json = {"model": settings.model, "name": settings.name}
    if settings.tokens_per_minute:
        made["capacity"] = {"tokensPerMinute": settings.tokens_per_minute}
    return made


def _object(kind: str, name: str, namespace: str, **fields: Json) -> Json:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "aoai.dev/v1alpha1", "kind": kind, "metadata": metadata, **fields}


def _merge(base: Json, changes: Json) -> Json:
    """Return `base` with changes; None takes a field away."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return {key: value for key, value in merged.items() if value is not None}

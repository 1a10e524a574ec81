"""Raw resources as YAML gives them, for tests to break one field at a time."""

from __future__ import annotations

import re
from typing import Any

Raw = dict[str, Any]


def raw_pool() -> Raw:
    """Return the smallest valid pool with two models."""
    return {
        "apiVersion": "aoai.dev/v1alpha1",
        "kind": "AOAIBackendPool",
        "metadata": {"name": "chat", "namespace": "ai"},
        "spec": {
            "models": [{"name": "gpt-4o"}, {"name": "mini"}],
            "endpoints": [
                {
                    "name": "east",
                    "url": "https://contoso.openai.azure.com",
                    "deployments": [{"model": "gpt-4o", "name": "dep"}, {"model": "mini", "name": "mini-dep"}],
                    "auth": {"apiKey": {"secretRef": {"name": "keys"}}},
                }
            ],
        },
    }


def raw_tenant() -> Raw:
    """Return the smallest valid tenant."""
    return {
        "apiVersion": "aoai.dev/v1alpha1",
        "kind": "TenantQuota",
        "metadata": {"name": "team", "namespace": "ai"},
        "spec": {
            "poolRefs": [{"name": "chat"}],
            "identities": [{"apiKey": {"secretRef": {"name": "team-key"}}}],
        },
    }


def with_field(raw: Raw, path: str, value: Any) -> Raw:
    """Set the field at a path such as `spec.models[0].name` and return the resource; maps on the way are made."""
    steps: list[Any] = [int(s) if s.isdigit() else s for s in re.findall(r"[^.\[\]]+", path)]
    at: Any = raw
    for step in steps[:-1]:
        at = at[step] if isinstance(at, list) else at.setdefault(step, {})
    if isinstance(at, list) and steps[-1] == len(at):
        at.append(value)
    else:
        at[steps[-1]] = value
    return raw

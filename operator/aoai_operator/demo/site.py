"""The simulated regions, and the manifests that make a pool of them."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from aoai_operator.simulator import Deployment, Latency, Region, RunningRegion

CHAT = "gpt-4o"
EMBEDDINGS = "text-embedding-3-small"
POOL = "ai/chat"

MINUTE_SECONDS = 10.0
"""The length of a simulated minute, so that a run of half a minute sees quotas end and start again."""

_NAMESPACE, _NAME = POOL.split("/")
_API = "aoai.dev/v1alpha1"
_LATENCY = Latency(first_token=0.15, tokens_per_second=200)


@dataclass(frozen=True, slots=True)
class Plan:
    """A region of the demo: its quota, and what its owners called their deployment of the chat model."""

    name: str
    tokens_per_minute: int
    chat_deployment: str


PLANS = (
    Plan("eastus", 120_000, "gpt-4o"),
    Plan("swedencentral", 60_000, "gpt-4o-swe"),
    Plan("westus3", 20_000, "chat-prod"),
)
CAPACITY = sum(plan.tokens_per_minute for plan in PLANS)
"""Tokens a simulated minute, all regions together."""

BIGGEST = max(PLANS, key=lambda plan: plan.tokens_per_minute).name
THROTTLED = PLANS[1].name


def regions() -> list[Region]:
    """Return the regions, with room in their logs for a whole run."""
    return [
        Region(
            name=plan.name,
            key=secrets.token_hex(16),
            latency=_LATENCY,
            minute_seconds=MINUTE_SECONDS,
            log_size=1_000_000,
            log_body_bytes=4096,
            deployments=[
                Deployment(name=plan.chat_deployment, model=CHAT, tokens_per_minute=plan.tokens_per_minute),
                Deployment(
                    name=EMBEDDINGS, model=EMBEDDINGS, kind="embeddings", tokens_per_minute=plan.tokens_per_minute
                ),
            ],
        )
        for plan in PLANS
    ]


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who calls: a tenant of the pool, with its key."""

    name: str = "team-demo"
    key: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)

    @property
    def full_name(self) -> str:
        """Its name with its namespace, as in metrics."""
        return f"{_NAMESPACE}/{self.name}"


def manifests(running: Iterable[RunningRegion], tenant: Tenant, *, attempts: int) -> Mapping[str, str]:
    """Return the manifests by file name: the pool, the tenant, and their Secrets. Written for people to read."""
    known = list(running)
    pool = _object("AOAIBackendPool", _NAME, spec=_pool([_endpoint(r) for r in known], attempts))
    identity = {"apiKey": {"secretRef": {"name": f"{tenant.name}-key"}}}
    quota = _object("TenantQuota", tenant.name, spec={"poolRefs": [{"name": _NAME}], "identities": [identity]})
    keys = [
        _secret("azure-keys", {r.name: r.key for r in known}),
        _secret(f"{tenant.name}-key", {"api-key": tenant.key}),
    ]
    return {"pool.yaml": _yaml(pool), "tenant.yaml": _yaml(quota), "secrets.yaml": _yaml(*keys)}


def _pool(endpoints: list[Any], attempts: int) -> dict[str, Any]:
    return {
        "models": [{"name": CHAT}, {"name": EMBEDDINGS}],
        "endpoints": endpoints,
        "failover": {"attempts": attempts},
        # A minute is short here, and so is everything that goes by it.
        "throttling": {"rampUp": "1s"},
        "health": {"probe": {"interval": "1s", "timeout": "1s"}},
    }


def _endpoint(region: RunningRegion) -> dict[str, Any]:
    return {
        "name": region.name,
        "url": region.url,
        "region": region.name,
        "deployments": [
            {
                "model": state.settings.model,
                "name": name,
                "capacity": {"tokensPerMinute": state.settings.tokens_per_minute},
            }
            for name, state in region.deployments.items()
        ],
        "auth": {"apiKey": {"secretRef": {"name": "azure-keys", "key": region.name}}},
    }


def _object(kind: str, name: str, **fields: Any) -> dict[str, Any]:
    return {"apiVersion": _API, "kind": kind, "metadata": {"name": name, "namespace": _NAMESPACE}, **fields}


def _secret(name: str, entries: Mapping[str, str]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": _NAMESPACE}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": dict(entries)}


def _yaml(*documents: dict[str, Any]) -> str:
    return yaml.safe_dump_all(documents, sort_keys=False)

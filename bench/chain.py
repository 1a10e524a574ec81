"""Our own chain, whole: `aoai-operator local` on generated manifests, with the Envoy that it starts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import yaml

from bench import payloads
from bench.machine import descendants, free_port, pin
from bench.payloads import Request
from bench.processes import BenchError, await_gateway, child
from bench.site import Region, Site
from bench.subject import Subject

REGION_KEY = "bench-region-key-0123456789abcdef"


@contextmanager
def our_chain(
    site: Site,
    regions: Sequence[Region],
    *,
    name: str = "aoai-operator",
    spec: dict[str, Any] | None = None,
    weight: int | None = None,
    quota: dict[str, Any] | None = None,
    tenants: Mapping[str, dict[str, Any]] | None = None,
) -> Iterator[Subject]:
    """Run the operator in local mode with one Envoy worker.

    `spec` is laid over the pool's own spec, `weight` is for every endpoint, `quota` is laid over the tenant's spec;
    `tenants` are more tenants, with what is laid over theirs, and the keys "NAME-key".
    """
    port = free_port()
    manifests, log = site.scratch / f"chain-{port}.yaml", site.scratch / f"chain-{port}.log"
    made = [*_manifests(regions, spec or {}, weight), *_tenant("bench-tenant", payloads.CLIENT_KEY, quota or {})]
    made += [item for who, granted in (tenants or {}).items() for item in _tenant(who, f"{who}-key", granted)]
    manifests.write_text(yaml.safe_dump_all(made))
    command = [site.operator, "local", str(manifests), "--listen", f"127.0.0.1:{port}"]
    command += ["--metrics", f"127.0.0.1:{free_port()}", "--concurrency", "1"]
    with child(command, log=log) as process:
        await_gateway(process, port, Request().text(), name=name, log=log)
        envoy = next((pid for pid, comm in descendants(process.pid) if comm.startswith("envoy")), None)
        if envoy is None:
            raise BenchError(f"{name} has no child process named envoy")
        pin(process.pid, site.cores.load)
        # It shares that core with generator and upstream: its bursts would be measured as the chain's tail.
        os.setpriority(os.PRIO_PROCESS, process.pid, 19)
        pin(envoy, site.cores.subject)
        yield Subject(name, port, envoy, {"operator": process.pid})


def _manifests(regions: Sequence[Region], spec: dict[str, Any], weight: int | None) -> list[dict[str, Any]]:
    pool = {
        "models": [{"name": payloads.MODEL}],
        "endpoints": [_endpoint(region) | ({"weight": weight} if weight else {}) for region in regions],
        "limits": {"maxConcurrentRequests": 10_000},
        **spec,
    }
    return [
        _resource("aoai.dev/v1alpha1", "AOAIBackendPool", "bench", spec=pool),
        _resource("v1", "Secret", "bench-regions", stringData={"api-key": REGION_KEY}),
    ]


def _tenant(name: str, key: str, granted: dict[str, Any]) -> list[dict[str, Any]]:
    quota = {
        "poolRefs": [{"name": "bench"}],
        "identities": [{"apiKey": {"secretRef": {"name": name, "key": "api-key"}}}],
        **granted,
    }
    return [
        _resource("aoai.dev/v1alpha1", "TenantQuota", name, spec=quota),
        _resource("v1", "Secret", name, stringData={"api-key": key}),
    ]


def _endpoint(region: Region) -> dict[str, Any]:
    capacity = {"tokensPerMinute": region.tokens_per_minute}
    return {
        "name": region.name,
        "url": f"http://127.0.0.1:{region.port}",
        "region": region.name,
        "deployments": [{"model": payloads.MODEL, "name": region.deployment, "capacity": capacity}],
        "auth": {"apiKey": {"secretRef": {"name": "bench-regions", "key": "api-key"}}},
    }


def _resource(api: str, kind: str, name: str, **fields: Any) -> dict[str, Any]:
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name, "namespace": "bench"}, **fields}

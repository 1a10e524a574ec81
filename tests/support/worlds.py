"""Worlds in readable YAML, and the outcomes of compile_world() and translate() as plain data that reads well in a diff.

A world is a map with these keys, all optional:

    pools, quotas   resources without apiVersion and kind; `namespace: ai` where none is given
    namespaces      those that are watched; all where none is given
    secrets         "namespace/name": {entry: value}
    before          a world whose tables serve now: the last good ones
    unwritten       "namespace/tenant": why the Secret that it asked for is not written
    ledger          why what tenants used cannot be asked
    invalid         "namespace/pool" of pools that exist and cannot be read
    discovered      "namespace/pool": what was found for it, {accounts, fault, readAt, retirements}; each account has
                    its name, its deployments, and what differs from an account of the tests
    hosts           "namespace/pool/endpoint/deployment": {state, reason, since, until, incarnation}
    issuers         "url": {issuer, jwks, fault}, what is known of the keys of tokens' issuers
    addresses       "namespace/pool/endpoint": [IP address, ...]
    programming     "namespace/pool": {connected, programmed, refusal}
    now             milliseconds of the Unix epoch; NOW where none is given
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aoai_operator.core.api import AOAIBackendPool, TenantQuota, parse
from aoai_operator.core.api.base import API_VERSION
from aoai_operator.core.compiler import Compiled, compile_world
from aoai_operator.core.discovered import Found, FoundAccount, FoundDeployment, Retirement, address_of
from aoai_operator.core.discovery import source_of
from aoai_operator.core.envoy.headers import ALLOWED, anything_but
from aoai_operator.core.envoy.snapshot import Snapshot, TypeUrl
from aoai_operator.core.names import EndpointKey, HostKey, PoolKey, SecretRef
from aoai_operator.core.observed import Grant, HostState, Overrides, Reason, SigningKeys, State
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.world import Programming, World

NOW = 1_780_000_000_000
SUBSCRIPTION = "0a000000-0000-0000-0000-00000000000a"
Json = dict[str, Any]

FILES: Mapping[str, TypeUrl] = {
    "listeners": TypeUrl.LISTENER,
    "scopes": TypeUrl.SCOPE,
    "routes": TypeUrl.ROUTE,
    "clusters": TypeUrl.CLUSTER,
    "endpoints": TypeUrl.ENDPOINT,
    "extensions": TypeUrl.EXTENSION,
    "secrets": TypeUrl.SECRET,
}


def read_world(raw: Mapping[str, Any]) -> World:
    """Return the world that the map describes."""
    before = read_world(raw["before"]) if "before" in raw else None
    pools = tuple(_resource(AOAIBackendPool, one) for one in raw.get("pools", ()))
    discovered = {PoolKey.of(key): _found(one) for key, one in raw.get("discovered", {}).items()}
    return World(
        pools=pools,
        discovered={source: discovered[p.key] for p in pools if p.key in discovered and (source := source_of(p))},
        quotas=tuple(_resource(TenantQuota, one) for one in raw.get("quotas", ())),
        namespaces=frozenset(raw.get("namespaces", ())),
        token_hosts=frozenset(raw.get("tokenHosts", ())),
        secrets={
            SecretRef(*PoolKey.of(name), entry): SecretValue(value)
            for name, entries in raw.get("secrets", {}).items()
            for entry, value in entries.items()
        },
        last_good=compile_world(before).tables if before else {},
        invalid=frozenset(PoolKey.of(key) for key in raw.get("invalid", ())),
        unwritten={PoolKey.of(key): why for key, why in raw.get("unwritten", {}).items()},
        ledger=raw.get("ledger", ""),
        overrides=Overrides(
            hosts={_host(key): _state(one) for key, one in raw.get("hosts", {}).items()},
            addresses={_endpoint(key): tuple(found) for key, found in raw.get("addresses", {}).items()},
            grants={_endpoint(key): _grant(one) for key, one in raw.get("grants", {}).items()},
            issuers={url: SigningKeys(**one) for url, one in raw.get("issuers", {}).items()},
        ),
        programming={PoolKey.of(key): (Programming(**one),) for key, one in raw.get("programming", {}).items()},
        now=raw.get("now", NOW),
    )


def _resource(model: type[Any], raw: Json) -> Any:
    metadata = {"namespace": "ai", **raw["metadata"]}
    found = parse({"apiVersion": API_VERSION, "kind": model.KIND, "metadata": metadata, "spec": raw["spec"]})
    assert isinstance(found, model), found
    return found


def _found(raw: Json) -> Found:
    accounts = raw.get("accounts")
    retirements = {
        where: tuple(Retirement(**one) for one in some) for where, some in raw.get("retirements", {}).items()
    }
    found = None if accounts is None else tuple(map(_account, accounts))
    return Found(found, raw.get("fault", ""), raw.get("readAt", 0), retirements, raw.get("seen", False))


def _account(raw: Json) -> FoundAccount:
    url = raw.get("url", f"https://{raw['name']}.openai.azure.com/")
    group = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{raw.get('group', 'rg')}"
    given: Json = {
        "id": f"{group}/providers/Microsoft.CognitiveServices/accounts/{raw['name']}",
        "subscription": SUBSCRIPTION,
        "group": "rg",
        "kind": "OpenAI",
        "location": "eastus",
        "state": "Succeeded",
        "url": url,
        "addresses": tuple(filter(None, [address_of(url)])),
        **raw,
    }
    deployments = tuple(FoundDeployment(**{"state": "Succeeded", **one}) for one in raw.get("deployments", ()))
    return FoundAccount(**{**given, "deployments": deployments})


def _host(key: str) -> HostKey:
    namespace, pool, endpoint, deployment = key.split("/")
    return HostKey(PoolKey(namespace, pool), endpoint, deployment)


def _endpoint(key: str) -> EndpointKey:
    namespace, pool, endpoint = key.split("/")
    return EndpointKey(PoolKey(namespace, pool), endpoint)


def _grant(raw: Json) -> Grant:
    secrets: Json = {name: SecretValue(raw[name]) for name in ("token", "other") if name in raw}
    return Grant(**{**raw, **secrets})


def _state(raw: Json) -> HostState:
    return HostState(**{**raw, "state": State(raw["state"]), "reason": Reason(raw["reason"])})


def compiled_data(compiled: Compiled) -> Json:
    """Return tables, statuses and findings as plain data."""
    return {
        "tables": {str(key): {**_plain(t), "revision": t.revision} for key, t in compiled.tables.items()},
        "poolStatuses": {str(key): _status(one) for key, one in compiled.pool_statuses.items()},
        "quotaStatuses": {str(key): _status(one) for key, one in compiled.quota_statuses.items()},
        "findings": [f"{f.kind} {f.key} {f.fault}: {f.sentence()}" for f in compiled.findings],
    }


def _plain(model: Any) -> Any:
    """Return the data of a pydantic model, with references to Secrets written as one word."""
    dumped = model.model_dump(mode="json")
    for endpoint in dumped["endpoints"]:
        for holder in (endpoint, endpoint["identity"] or {}):
            if holder.get("credential"):
                holder["credential"] = str(SecretRef(*holder["credential"]))
    for tenant in dumped["tenants"]:
        tenant["api_keys"] = [str(SecretRef(*ref)) for ref in tenant["api_keys"]]
    return dumped


def _status(status: Any) -> Any:
    """Return a status with each condition as one line."""
    dumped = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    dumped["conditions"] = [
        f"{c.type}={c.status} {c.reason} since {c.last_transition_time}{': ' if c.message else ''}{c.message}"
        for c in status.conditions
    ]
    return dumped


def snapshot_data(snapshot: Snapshot, secrets: Mapping[SecretRef, SecretValue]) -> dict[str, list[Json]]:
    """Return the resources of each type, by file name, in the order of their names; credentials are named, not shown.

    Lua is left out: it is in core/envoy/lua.
    """
    names = {value.reveal(): f"[redacted {ref}]" for ref, value in sorted(secrets.items(), reverse=True)}
    names[anything_but(ALLOWED)] = "[anything but core/envoy/headers.py ALLOWED]"
    return {
        name: [_readable(one.body, names) for _, one in sorted(snapshot.resources[url].items())]
        for name, url in FILES.items()
    }


def _readable(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_readable(item, names) for item in value]
    if isinstance(value, dict):
        return {
            key: "[code]" if key == "default_source_code" else _readable(item, names) for key, item in value.items()
        }
    return names.get(value, value) if isinstance(value, str) else value


def reveals(value: object, canaries: list[str]) -> bool:
    """Tell whether any of the texts stands in the JSON, the repr or the text of `value`."""
    told = f"{value!r} {value} {json.dumps(value, default=str, ensure_ascii=False)}"
    return any(canary in told for canary in canaries)

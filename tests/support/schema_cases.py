"""Values that break one rule of a CRD's schema each, found by walking the schema over a resource with every field."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from support.raw import Raw, raw_pool, raw_tenant, with_field

Schema = dict[str, Any]


class SchemaCase(NamedTuple):
    """One resource, by what is changed in a good one."""

    path: str
    """The field that is set."""
    rule: str
    """The rule of the schema that is broken, such as maxLength; or what is accepted."""
    value: Any


_ID = "11111111-aaaa-bbbb-cccc-111111111111"
_ENTRY = {"secretRef": {"name": "principal", "key": "entry"}}
_ENTRA: dict[str, Raw] = {
    "own": {"clientId": _ID, "identity": "WorkloadIdentity", "scope": "https://ai.azure.com/.default"},
    "secret": {
        "identity": "ServicePrincipal",
        "clientId": _ID,
        "tenantId": _ID,
        "authorityHost": "https://login.microsoftonline.us",
        "clientSecret": _ENTRY,
    },
    "certificate": {
        "identity": "ServicePrincipal",
        "clientId": _ID,
        "tenantId": _ID,
        "clientCertificate": _ENTRY,
    },
}


_AZURE: Raw = {
    "subscriptionIds": [_ID],
    "resourceGroups": ["rg-Chat_1"],
    "tags": {"pool": "chat"},
    "kinds": ["OpenAI"],
    "models": [{"model": "gpt-4o", "name": "gpt-4o", "versions": ["2024-11-20"]}],
    "priority": 1,
    "identity": {"identity": "WorkloadIdentity", "clientId": _ID},
    "resourceManager": "https://management.usgovcloudapi.net",
    "auth": {"apiKey": {"fromAzure": {}}},
    "interval": "1m",
}


def _called_with_tokens(name: str, **entra: Any) -> Raw:
    deployments = [{"model": "gpt-4o", "name": "dep"}]
    url = f"https://{name}.openai.azure.com"
    return {"name": name, "url": url, "deployments": deployments, "auth": {"entra": entra}}


def whole_pool() -> Raw:
    """Return a pool with every field."""
    raw = raw_pool()
    raw["spec"] |= {
        "models": [
            {
                "name": "gpt-4o",
                "fallbackModels": ["mini"],
                "contextTokens": 8_000,
                "prices": {"currency": "USD", "input": 2.5, "cachedInput": 1.25, "output": 10},
            },
            {"name": "mini"},
        ],
        "balancing": {"strategy": "Weighted"},
        "failover": {"attempts": 2, "perTryTimeout": "30s", "retryOn": ["Throttled"]},
        "throttling": {"honorRetryAfter": False, "maxRetryAfter": "30s", "rampUp": "1s"},
        "health": {
            "probe": {"path": "Deployment", "interval": "20s", "timeout": "2s"},
            "unhealthyAfter": 2,
            "healthyAfter": 1,
        },
        "sharing": {"lendIdleAfter": "5m"},
        "timeouts": {"request": "60s", "idle": "60s", "connect": "1s"},
        "limits": {"maxRequestBytes": "1Mi", "maxConcurrentRequests": 10},
        "auth": {
            "required": False,
            "entra": {
                "tenantId": "72f988bf-86f1-41af-91ab-2d7cd011db47",
                "audience": "api://aoai",
                "authorityHost": "https://login.microsoftonline.us",
            },
            "serviceAccounts": {"audience": "aoai", "issuer": "https://oidc.example/cluster"},
        },
        "gateway": {
            "name": "default",
            "hostnames": ["chat.ai.svc"],
            "tls": {"secretRef": {"name": "certificate"}},
            "sidecars": "Allowed",
        },
        "allowedNamespaces": {"from": "List", "names": ["search"]},
        "suspend": True,
    }
    raw["spec"]["endpoints"][0] |= {"region": "eastus", "priority": 1, "weight": 10, "drain": True}
    raw["spec"]["endpoints"][0]["dedicatedTo"] = [{"name": "team-search", "namespace": "search"}]
    raw["spec"]["endpoints"][0]["deployments"][0]["capacity"] = {"tokensPerMinute": 1000, "requestsPerMinute": 6}
    raw["spec"]["endpoints"][0]["deployments"][0] |= {"type": "ProvisionedManaged", "priority": 0, "drain": True}
    raw["spec"]["discovery"] = {"azure": _AZURE}
    raw["spec"]["endpoints"][0]["auth"]["apiKey"]["secretRef"]["key"] = "api-key"
    raw["spec"]["endpoints"] += [_called_with_tokens(name, **entra) for name, entra in _ENTRA.items()]
    return raw


def whole_tenant() -> Raw:
    """Return a tenant with every field."""
    raw = raw_tenant()
    raw["spec"]["poolRefs"][0]["namespace"] = "ai"
    raw["spec"]["identities"][0]["apiKey"]["secretRef"]["key"] = "api-key"
    raw["spec"]["identities"] += [
        {
            "entra": {
                "appIds": ["11111111-aaaa-bbbb-cccc-111111111111"],
                "groups": ["22222222-AAAA-bbbb-cccc-222222222222"],
            }
        },
        {"serviceAccount": {"name": "api", "namespace": "search"}},
    ]
    raw["spec"] |= {
        "credentials": {"generateSecret": "team-aoai", "rotateEvery": "720h", "overlap": "1h"},
        "models": ["gpt-4o"],
        "limits": {
            "tokensPerMinute": 2_000_000_000,
            "requestsPerMinute": 100_000_000,
            "concurrentRequests": 5,
            "budgets": [
                {"period": "Month", "timeZone": "Europe/Berlin", "tokens": "500M"},
                {"period": "Day", "cost": {"amount": 40, "currency": "USD"}},
            ],
        },
        "perModel": [{"model": "gpt-4o", "tokensPerMinute": 1, "requestsPerMinute": 1}],
        "guaranteed": {"tokensPerMinute": 1},
        "burst": False,
        "priority": "Critical",
        "spillOver": True,
        "tokenWeights": {"input": 1, "cachedInput": 0.5, "output": 4},
        "reservation": "Strict",
        "enforcement": "Shadow",
        "onLedgerFailure": "Deny",
    }
    return raw


def changed(raw: Raw, case: SchemaCase) -> Raw:
    """Return the resource with the field set."""
    return with_field(copy.deepcopy(raw), case.path, case.value)


def fields(schema: Schema, value: Any, path: str) -> Iterator[tuple[str, Schema, Any]]:
    """Yield every field below `path`, with its schema and its value; of lists in the first item that has it."""
    seen: dict[str, Schema] = {}
    for where, field, here in _walked(schema, value, path):
        if (name := _anywhere(where)) not in seen:
            seen[name] = field
            yield where, field, here
    # A field that the resource lacks would pass untested; but for one of two that exclude each other, if it is tested
    # elsewhere.
    lacking = {name: field for name, field in _named(schema, path) if name not in seen}
    assert [name for name, field in lacking.items() if field not in seen.values()] == []


def _walked(schema: Schema, value: Any, path: str) -> Iterator[tuple[str, Schema, Any]]:
    yield path, schema, value
    for name, field in schema.get("properties", {}).items():
        if name in value:
            yield from _walked(field, value[name], f"{path}.{name}")
    for index, item in enumerate(value if "items" in schema else ()):
        yield from _walked(schema["items"], item, f"{path}[{index}]")


def _named(schema: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from _named(field, f"{path}.{name}")
    if "items" in schema:
        yield from _named(schema["items"], f"{path}[]")


def _anywhere(path: str) -> str:
    return re.sub(r"\[[0-9]+\]", "[]", path)


def rejected(schema: Schema, value: Any, path: str = "spec") -> Iterator[SchemaCase]:
    """Yield a case for every rule of the schema that one value can break."""
    for where, field, here in fields(schema, value, path):
        for rule, bad in _breaking(field, here):
            yield SchemaCase(where, rule, bad)


def accepted(schema: Schema, value: Any, path: str = "spec") -> Iterator[SchemaCase]:
    """Yield a case for every enum word and every bound of a number."""
    present = [(field, here) for _, field, here in _walked(schema, value, path) if isinstance(here, str)]
    for where, field, _ in fields(schema, value, path):
        for word in field.get("enum", ()):
            if (field, word) not in present:
                yield SchemaCase(where, f"enum {word}", word)
        if field.get("type") == "integer":
            yield from (SchemaCase(where, bound, field[bound]) for bound in ("minimum", "maximum"))


_WRONG_TYPE = {"string": 7, "integer": "7", "number": "7", "boolean": "true", "array": {}, "object": []}


def _breaking(field: Schema, here: Any) -> Iterator[tuple[str, Any]]:
    kind = field.get("type", "")
    if kind:
        yield "type", _WRONG_TYPE[kind]
    if kind == "object":
        yield "unknown field", {**here, "unknown": 1}
        for name in field.get("required", ()):
            yield f"required {name}", {key: value for key, value in here.items() if key != name}
    elif kind == "array":
        if field.get("minItems"):
            yield "minItems", []
        yield "maxItems", [_other(here[0], number) for number in range(field["maxItems"] + 1)]
    else:
        yield from _breaking_a_scalar(field)


def _breaking_a_scalar(field: Schema) -> Iterator[tuple[str, Any]]:
    values: dict[str, Callable[[Any], Any]] = {
        "enum": lambda _: "Wrong",
        "pattern": lambda _: "@@@@@@@@",
        "minLength": lambda _: "",
        "maxLength": lambda length: "1" * (length + 1),
        "minimum": lambda bound: bound - 1,
        "maximum": lambda bound: bound + 1,
    }
    for rule, value in values.items():
        if rule in field:
            yield rule, value(field[rule])


def _other(item: Any, number: int) -> Any:
    """Return an item that is another one to a list set or list map."""
    if isinstance(item, str):
        return f"{item}{number}"
    return {key: f"{value}{number}" if key in ("name", "model") else value for key, value in item.items()}

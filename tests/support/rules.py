"""Each rule between fields of the CRDs: a value that it accepts, one that it rejects, and the exact words.

The offline checks and the real API server are held to the same table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from support.raw import Raw, raw_pool, raw_tenant

# path set, accepted value, rejected value, field of the fault, its words
Case = tuple[str, Any, Any, str, str]
_ENTRY = {"secretRef": {"name": "principal", "key": "secret"}}
_PRINCIPAL = {
    "identity": "ServicePrincipal",
    "clientId": "11111111-1111-1111-1111-111111111111",
    "tenantId": "22222222-2222-2222-2222-222222222222",
}

_KEYED = {"apiKey": {"secretRef": {"name": "key"}}}
_AZURE = {"subscriptionIds": ["33333333-3333-3333-3333-333333333333"]}

POOL: list[Case] = [
    (
        "spec.endpoints",
        [{"name": "a", "url": "https://a.example", "deployments": [{"model": "gpt-4o", "name": "a"}], "auth": _KEYED}],
        [],
        "spec.endpoints",
        "must name at least one endpoint, or say where they are found in discovery",
    ),
    *(
        (
            "spec.discovery",
            {"azure": {**_AZURE, "auth": good}},
            {"azure": {**_AZURE, "auth": bad}},
            "spec.discovery.azure.auth",
            "must give one of apiKey and entra",
        )
        for good, bad in (
            ({"entra": {}}, {}),
            ({"apiKey": {"fromAzure": {}}}, {"apiKey": {"fromAzure": {}}, "entra": {}}),
        )
    ),
    *(
        (
            "spec.discovery",
            {"azure": {**_AZURE, "interval": good}},
            {"azure": {**_AZURE, "interval": bad}},
            "spec.discovery.azure.interval",
            "must be from 5s to 24h",
        )
        for good, bad in (("5s", "4s"), ("24h", "24h1s"))
    ),
    (
        "spec.models[0].fallbackModels",
        ["mini"],
        ["gpt-4o"],
        "spec.models[0].fallbackModels",
        "a model must not be its own fallback",
    ),
    (
        "spec.models[0].fallbackModels",
        ["mini"],
        ["mini", "mini"],
        "spec.models[0].fallbackModels",
        "must not name a model twice",
    ),
    (
        "spec.endpoints[0].deployments[0].capacity",
        {"requestsPerMinute": 1},
        {},
        "spec.endpoints[0].deployments[0].capacity",
        "must give tokensPerMinute, requestsPerMinute or both",
    ),
    *(
        (
            "spec.endpoints[0].auth",
            {"entra": {}},
            bad,
            "spec.endpoints[0].auth",
            "must give one of apiKey and entra",
        )
        for bad in ({}, {"entra": {}, "apiKey": {"secretRef": {"name": "key"}}})
    ),
    *(
        (
            "spec.endpoints[0].auth",
            {"entra": {**_PRINCIPAL, **good}},
            {"entra": bad},
            "spec.endpoints[0].auth.entra.identity",
            "clientSecret or clientCertificate, one of them, is for a ServicePrincipal, and only for it",
        )
        for good, bad in (
            ({"clientSecret": _ENTRY}, _PRINCIPAL),
            ({"clientCertificate": _ENTRY}, {**_PRINCIPAL, "clientSecret": _ENTRY, "clientCertificate": _ENTRY}),
            ({"clientSecret": _ENTRY}, {"clientSecret": _ENTRY}),
        )
    ),
    (
        "spec.endpoints[0].auth",
        {"entra": {**_PRINCIPAL, "clientSecret": _ENTRY}},
        {"entra": {"identity": "ServicePrincipal", "clientId": _PRINCIPAL["clientId"], "clientSecret": _ENTRY}},
        "spec.endpoints[0].auth.entra.identity",
        "a ServicePrincipal needs clientId and tenantId",
    ),
    *(
        (
            "spec.endpoints[0].auth",
            {"entra": {"identity": "ManagedIdentity", "clientId": _PRINCIPAL["clientId"]}},
            {"entra": {"identity": "ManagedIdentity", **bad}},
            "spec.endpoints[0].auth.entra.identity",
            "tenantId and authorityHost are not for a ManagedIdentity: the node knows them",
        )
        for bad in ({"tenantId": _PRINCIPAL["tenantId"]}, {"authorityHost": "https://login.microsoftonline.us"})
    ),
    (
        "spec.health.probe",
        {"timeout": "2s", "interval": "2s"},
        {"timeout": "3s", "interval": "2s"},
        "spec.health.probe.timeout",
        "timeout must not be longer than interval",
    ),
    (
        "spec.allowedNamespaces",
        {"from": "List", "names": ["a"]},
        {"from": "All", "names": ["a"]},
        "spec.allowedNamespaces.names",
        "names may only be given when from is List",
    ),
    (
        "spec.allowedNamespaces",
        {"from": "All"},
        {"from": "List"},
        "spec.allowedNamespaces.names",
        "names must name at least one namespace when from is List",
    ),
    (
        "spec.gateway",
        {"hostnames": ["a.example"], "tls": {"secretRef": {"name": "a-tls"}}},
        {"tls": {"secretRef": {"name": "a-tls"}}},
        "spec.gateway.hostnames",
        "hostnames must name at least one when tls is given: the certificate is chosen by it",
    ),
    (
        "spec.gateway",
        {"tls": {"secretRef": {"name": "cert"}}, "hostnames": ["a.b"]},
        {"tls": {"secretRef": {"name": "cert"}}},
        "spec.gateway.hostnames",
        "hostnames must name at least one when tls is given: the certificate is chosen by it",
    ),
    *(
        (f"spec.{path}", good, bad, f"spec.{path}", f"must be from {low} to {high}")
        for path, low, high, pairs in (
            ("failover.perTryTimeout", "100ms", "1h", (("100ms", "99ms"), ("1h", "1h1ms"))),
            ("throttling.maxRetryAfter", "1s", "1h", (("1s", "0.9s"), ("60m", "61m"))),
            ("throttling.rampUp", "0s", "5m", (("0s", "5m1s"),)),
            ("sharing.lendIdleAfter", "1s", "1h", (("1s", "0.5s"), ("1h", "61m"))),
            ("health.probe.interval", "1s", "10m", (("10m", "11m"),)),
            ("health.probe.timeout", "100ms", "1m", (("100ms", "0s"),)),
            ("timeouts.request", "1s", "1h", (("1s", "500ms"), ("1h", "2h"))),
            ("timeouts.idle", "1s", "1h", (("1h", "3601s"),)),
            ("timeouts.connect", "50ms", "1m", (("50ms", "49ms"), ("1m", "1m1s"))),
        )
        for good, bad in pairs
    ),
]


_GUID = "11111111-aaaa-bbbb-cccc-111111111111"
_ONE_OF = "must give one of apiKey, entra and serviceAccount"
TENANT: list[Case] = [
    *(
        (
            "spec.credentials",
            {"generateSecret": "made", "overlap": good},
            {"generateSecret": "made", "overlap": bad},
            "spec.credentials.overlap",
            "must be from 1s to 8760h",
        )
        for good, bad in (("1s", "0.5s"), ("8760h", "8761h"))
    ),
    (
        "spec.credentials",
        {"generateSecret": "made", "rotateEvery": "2h", "overlap": "1h"},
        {"generateSecret": "made", "rotateEvery": "2h", "overlap": "2h"},
        "spec.credentials.overlap",
        "overlap must be shorter than rotateEvery",
    ),
    (
        "spec",
        {**raw_tenant()["spec"], "identities": [], "credentials": {"generateSecret": "made"}},
        {**raw_tenant()["spec"], "identities": []},
        "spec.identities",
        "identities must name at least one, or credentials be given: nobody could be the tenant",
    ),
    *(
        (
            "spec.credentials",
            {"generateSecret": "made", "rotateEvery": good, "overlap": "1s"},
            {"generateSecret": "made", "rotateEvery": bad, "overlap": "1s"},
            "spec.credentials.rotateEvery",
            "must be from 1m to 8760h",
        )
        for good, bad in (("8760h", "8761h"), ("1m", "59s"))
    ),
    *(
        ("spec.identities", [{"serviceAccount": {"name": "api"}}], [bad], "spec.identities[0]", _ONE_OF)
        for bad in ({}, {"serviceAccount": {"name": "api"}, "apiKey": {"secretRef": {"name": "key"}}})
    ),
    (
        "spec.identities",
        [{"entra": {"groups": [_GUID]}}],
        [{"entra": {}}],
        "spec.identities[0].entra",
        "must give appIds, groups or both",
    ),
    (
        "spec",
        {**raw_tenant()["spec"], "guaranteed": {"tokensPerMinute": 5}, "limits": {"tokensPerMinute": 5}},
        {**raw_tenant()["spec"], "guaranteed": {"tokensPerMinute": 6}, "limits": {"tokensPerMinute": 5}},
        "spec.guaranteed",
        "guaranteed.tokensPerMinute must not be above limits.tokensPerMinute",
    ),
    (
        "spec",
        {**raw_tenant()["spec"], "guaranteed": {"tokensPerMinute": 5}, "burst": False},
        {**raw_tenant()["spec"], "burst": False},
        "spec.burst",
        "guaranteed must be given when burst is false: nothing would be left for the tenant",
    ),
    (
        "spec.limits.budgets",
        [{"period": "Day", "tokens": "1M"}],
        [{"period": "Day"}],
        "spec.limits.budgets[0]",
        "must give either tokens or cost",
    ),
    (
        "spec.limits.budgets",
        [{"period": "Day", "cost": {"amount": 0.5, "currency": "USD"}}],
        [{"period": "Day", "tokens": 1, "cost": {"amount": 1, "currency": "USD"}}],
        "spec.limits.budgets[0]",
        "must give either tokens or cost",
    ),
    (
        "spec.limits.budgets",
        [{"period": "Day", "cost": {"amount": 1, "currency": c}} for c in ("USD", "USD")],
        [{"period": "Day", "cost": {"amount": 1, "currency": c}} for c in ("USD", "EUR")],
        "spec.limits.budgets",
        "all budgets in money must be in one currency",
    ),
    (
        "spec.perModel",
        [{"model": "gpt-4o", "requestsPerMinute": 1}],
        [{"model": "gpt-4o"}],
        "spec.perModel[0]",
        "must give tokensPerMinute, requestsPerMinute or both",
    ),
    (
        "spec",
        {**raw_tenant()["spec"], "models": ["a"], "perModel": [{"model": "a", "tokensPerMinute": 1}]},
        {**raw_tenant()["spec"], "models": ["a"], "perModel": [{"model": "b", "tokensPerMinute": 1}]},
        "spec.perModel",
        "every model of perModel must be one of spec.models, where these are given",
    ),
    *(
        (
            "spec",
            {**raw_tenant()["spec"], "limits": {field: 10}, "perModel": [{"model": "a", field: 10}]},
            {**raw_tenant()["spec"], "limits": {field: 10}, "perModel": [{"model": "a", field: 11}]},
            "spec.perModel",
            f"no model's {field} may be above limits.{field}",
        )
        for field in ("tokensPerMinute", "requestsPerMinute")
    ),
]


# CEL tells these of the list as a whole; parse() tells each place
MODELS: list[Case] = [
    (
        "spec.models[0].fallbackModels",
        ["mini"],
        ["mini", "other"],
        "spec.models",
        "every fallback model must be one of spec.models",
    ),
    (
        "spec.endpoints[0].deployments[0].model",
        "mini",
        "other",
        "spec.endpoints",
        "every deployment's model must be one of spec.models",
    ),
    (
        "spec.discovery",
        {"azure": {**_AZURE, "models": [{"model": "gpt-4o"}]}},
        {"azure": {**_AZURE, "models": [{"model": "other"}]}},
        "spec.discovery",
        "every model of discovery must be one of spec.models",
    ),
]


Repeated = tuple[Callable[[], Raw], str, Any, str, str]
"""Raw resource, path set, the repeated item, field of the fault, its words."""
REPEATED: list[Repeated] = [
    (
        raw_pool,
        "spec.models[2]",
        {"name": "mini"},
        "spec.models[2]",
        "is given twice with the same name; the first is spec.models[1]",
    ),
    (
        raw_pool,
        "spec.endpoints[0].deployments[2]",
        {"model": "gpt-4o", "name": "dep"},
        "spec.endpoints[0].deployments[2]",
        "is given twice with the same model and name; the first is spec.endpoints[0].deployments[0]",
    ),
    (
        raw_pool,
        "spec.gateway.hostnames",
        ["a.b", "a.b"],
        "spec.gateway.hostnames[1]",
        "is given twice; the first is spec.gateway.hostnames[0]",
    ),
    (
        raw_tenant,
        "spec.poolRefs[1]",
        {"name": "chat"},
        "spec.poolRefs[1]",
        "is given twice with the same name and namespace; the first is spec.poolRefs[0]",
    ),
    (
        raw_tenant,
        "spec.perModel",
        [{"model": "mini", "tokensPerMinute": 1}, {"model": "mini", "requestsPerMinute": 1}],
        "spec.perModel[1]",
        "is given twice with the same model; the first is spec.perModel[0]",
    ),
]

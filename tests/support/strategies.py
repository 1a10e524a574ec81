"""Worlds at random: raw resources through parse(), the valid and the invalid, with Secrets and what was observed.

Names come from few, so that they meet: pools that want one host name, tenants with one key, references to nothing.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from aoai_operator.core.api import AOAIBackendPool, Invalid, TenantQuota, parse
from aoai_operator.core.api.base import API_VERSION
from aoai_operator.core.compiler import compile_world
from aoai_operator.core.names import EndpointKey, HostKey, PoolKey, SecretRef
from aoai_operator.core.observed import HostState, Overrides, Reason, State
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.world import Programming, World

CANARY = "canary-of-a-key"
Json = dict[str, Any]

_NAMESPACES = st.sampled_from(["ai", "search"])
_POOLS = st.sampled_from(["a", "b", "c.d"])
_MODELS = st.sampled_from(["gpt-4o", "mini", "o1"])
_ENDPOINTS = st.sampled_from(["east", "west", "north"])
_DEPLOYMENTS = st.sampled_from(["gpt-4o", "prod", "x"])
_ENTRIES = st.sampled_from(["one", "two", "three", "four"])
_URLS = st.sampled_from(["https://a.example", "https://b.example:8443/", "http://127.0.0.1:9", "http://[::1]:9"])
_CREATED = st.sampled_from(["", "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"])
_HOSTNAMES = st.lists(st.sampled_from(["x.example", "y.example", "z.example"]), max_size=2, unique=True)


def _key(entry: str) -> Json:
    return {"apiKey": {"secretRef": {"name": "keys", "key": entry}}}


def _maybe(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Json]:
    return st.fixed_dictionaries({}, optional=fields)


_capacities = _maybe(tokensPerMinute=st.integers(1, 2_000_000_000), requestsPerMinute=st.integers(1, 1000)).filter(bool)
_deployments = st.builds(
    lambda model, name, more: {"model": model, "name": name, **more},
    _MODELS,
    _DEPLOYMENTS,
    _maybe(capacity=_capacities),
)
_endpoints = st.builds(
    lambda name, url, deployments, entry, more: {
        "name": name,
        "url": url,
        "deployments": deployments,
        "auth": _key(entry),
        **more,
    },
    _ENDPOINTS,
    _URLS,
    st.lists(_deployments, min_size=1, max_size=4, unique_by=lambda d: (d["model"], d["name"])),
    _ENTRIES,
    _maybe(
        priority=st.integers(0, 2),
        weight=st.integers(1, 1000),
        drain=st.booleans(),
        region=st.just("eastus"),
        dedicatedTo=st.lists(
            st.builds(lambda name: {"name": name}, st.sampled_from(["t", "u", "v"])),
            min_size=1,
            max_size=2,
            unique_by=str,
        ),
    ),
)
_knobs = _maybe(
    balancing=_maybe(strategy=st.sampled_from(["Headroom", "Weighted", "LeastRequest"])),
    failover=_maybe(
        attempts=st.integers(1, 10),
        perTryTimeout=st.sampled_from(["100ms", "1h"]),
        retryOn=st.lists(st.sampled_from(["Throttled", "Timeout", "Connect", "Auth"]), unique=True),
    ),
    sharing=_maybe(lendIdleAfter=st.sampled_from(["1s", "1h"])),
    throttling=_maybe(rampUp=st.sampled_from(["0s", "5m"])),
    auth=_maybe(
        required=st.booleans(),
        entra=st.just({"tenantId": "72f988bf-86f1-41af-91ab-2d7cd011db47"}),
        serviceAccounts=st.sampled_from([{}, {"issuer": "https://oidc.example/cluster", "audience": "aoai"}]),
    ),
    gateway=_maybe(name=st.sampled_from(["default", "other"]), hostnames=_HOSTNAMES),
    allowedNamespaces=st.sampled_from([{"from": "All"}, {"from": "List", "names": ["search"]}, {}]),
    suspend=st.booleans(),
)


_rates = {"tokensPerMinute": st.integers(1, 2_000_000_000), "requestsPerMinute": st.integers(1, 1000)}
_budgets = st.sampled_from(
    [
        {"period": "Day", "tokens": "1M"},
        {"period": "Month", "timeZone": "Europe/Berlin", "cost": {"amount": 5, "currency": "USD"}},
        {"period": "Hour", "timeZone": "Mars/Olympus", "tokens": 5},
        {"period": "Week", "cost": {"amount": 0.5, "currency": "EUR"}},
    ]
)
_quotas = _maybe(
    limits=_maybe(**_rates, concurrentRequests=st.integers(1, 9), budgets=st.lists(_budgets, max_size=2)),
    perModel=st.lists(
        st.builds(lambda model, rates: {"model": model, **rates}, _MODELS, _maybe(**_rates).filter(bool)),
        max_size=2,
        unique_by=lambda limits: str(limits["model"]),
    ),
    guaranteed=st.builds(lambda tokens: {"tokensPerMinute": tokens}, st.integers(1, 2_000_000_000)),
    burst=st.booleans(),
    spillOver=st.booleans(),
    priority=st.sampled_from(["Critical", "Standard", "Sheddable"]),
    tokenWeights=_maybe(input=st.floats(0, 10), cachedInput=st.floats(0, 1), output=st.floats(0, 10)),
    reservation=st.sampled_from(["Expected", "Strict"]),
    enforcement=st.sampled_from(["Enforce", "Shadow"]),
    onLedgerFailure=st.sampled_from(["Allow", "Deny"]),
)
_GUIDS = st.sampled_from([f"{n * 8}-aaaa-bbbb-cccc-{n * 12}" for n in "12"])
_subjects = st.one_of(
    st.builds(lambda app: {"entra": {"appIds": [app]}}, _GUIDS),
    st.builds(lambda group: {"entra": {"groups": [group]}}, _GUIDS),
    st.builds(lambda name: {"serviceAccount": {"name": name, "namespace": "ai"}}, st.sampled_from(["a", "b"])),
)
_priced = _maybe(
    contextTokens=st.integers(1, 10**6),
    prices=st.sampled_from([{"currency": "USD", "input": 2.5, "output": 10}, {"currency": "EUR", "input": 0.1}]),
)


@st.composite
def raw_pools(draw: st.DrawFn) -> Json:
    """Return a pool as YAML gives it; most are valid."""
    endpoints = draw(st.lists(_endpoints, min_size=1, max_size=3, unique_by=lambda e: str(e["name"])))
    deployed = {d["model"] for e in endpoints for d in e["deployments"]}
    names = draw(st.permutations(sorted(deployed | set(draw(st.lists(_MODELS, max_size=1))))))
    fallbacks = st.lists(st.sampled_from(names), max_size=2, unique=True)
    models = [
        {"name": name, "fallbackModels": [f for f in draw(fallbacks) if f != name], **draw(_priced)} for name in names
    ]
    return _object("AOAIBackendPool", draw, draw(_POOLS), {"models": models, "endpoints": endpoints, **draw(_knobs)})


@st.composite
def raw_quotas(draw: st.DrawFn) -> Json:
    """Return a tenant as YAML gives it; most are valid."""
    refs = st.builds(lambda name, more: {"name": name, **more}, _POOLS, _maybe(namespace=_NAMESPACES))
    spec = {
        "poolRefs": draw(st.lists(refs, min_size=1, max_size=3)),
        "identities": draw(st.lists(_ENTRIES.map(_key) | _subjects, min_size=1, max_size=3)),
        "models": draw(st.lists(_MODELS, max_size=2, unique=True)),
        **draw(_quotas),
    }
    return _object("TenantQuota", draw, draw(st.sampled_from(["t", "u", "v"])), spec)


def _object(kind: str, draw: st.DrawFn, name: str, spec: Json) -> Json:
    metadata = {"name": name, "namespace": draw(_NAMESPACES), "creationTimestamp": draw(_CREATED)}
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}


_states = st.builds(
    HostState,
    state=st.sampled_from(State),
    reason=st.sampled_from(Reason),
    since=st.integers(0, 2_000_000_000_000),
    until=st.none() | st.integers(0, 2_000_000_000_000),
    incarnation=st.integers(0, 1000),
)
_pool_keys = st.builds(PoolKey, _NAMESPACES, _POOLS)
_addresses = st.lists(st.sampled_from(["203.0.113.1", "203.0.113.2", "2001:db8::1"]), max_size=3, unique=True).map(
    tuple
)
_values = st.sampled_from([f"{CANARY}-{n}" for n in range(4)] + ["", "anonymous", f"{CANARY}\n", f"{CANARY} é\udc80"])


@st.composite
def worlds(draw: st.DrawFn, *, before: bool = True) -> World:
    """Return a world, after another one whose tables serve now."""
    parsed = [parse(raw) for raw in draw(st.lists(raw_pools() | raw_quotas(), max_size=6))]
    pools = {p.key: p for p in parsed if isinstance(p, AOAIBackendPool)}
    quotas = {q.key: q for q in parsed if isinstance(q, TenantQuota)}
    invalid = {PoolKey(i.namespace, i.name) for i in parsed if isinstance(i, Invalid) and i.kind == "AOAIBackendPool"}
    invalid |= draw(st.sets(_pool_keys, max_size=2))
    entries = st.builds(lambda namespace, entry: SecretRef(namespace, "keys", entry), _NAMESPACES, _ENTRIES)
    return World(
        pools=tuple(pools.values()),
        quotas=tuple(quotas.values()),
        namespaces=draw(st.sampled_from([frozenset[str](), frozenset({"ai"}), frozenset({"ai", "search"})])),
        secrets=draw(st.dictionaries(entries, _values.map(SecretValue), max_size=8)),
        last_good=compile_world(draw(worlds(before=False))).tables if before else {},
        invalid=frozenset(invalid - pools.keys()),
        overrides=Overrides(
            hosts=draw(st.dictionaries(st.builds(HostKey, _pool_keys, _ENDPOINTS, _DEPLOYMENTS), _states, max_size=6)),
            addresses=draw(st.dictionaries(st.builds(EndpointKey, _pool_keys, _ENDPOINTS), _addresses, max_size=8)),
        ),
        programming=draw(
            st.dictionaries(
                _pool_keys,
                st.lists(
                    st.builds(Programming, st.integers(0, 3), st.integers(0, 3), st.none() | st.just("No.")), max_size=2
                ),
                max_size=2,
            )
        ),
        ledger=draw(st.sampled_from(["", "Redis does not answer"])),
        now=draw(st.integers(0, 2_000_000_000_000)),
    )

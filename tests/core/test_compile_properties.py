"""What holds of compile_world() and translate() in every world."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aoai_operator.adapters.xds_resources import to_any
from aoai_operator.core.compiler import Compiled, compile_world
from aoai_operator.core.credentials import read_key
from aoai_operator.core.envoy.settings import GatewaySettings
from aoai_operator.core.envoy.snapshot import Resource, Snapshot, TypeUrl
from aoai_operator.core.envoy.translate import translate
from aoai_operator.core.names import EndpointKey, PoolKey, cluster_name
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.table import RoutingTable
from aoai_operator.core.world import World
from support.strategies import CANARY, worlds

SETTINGS = GatewaySettings(gateway="default", listen_host="0.0.0.0", listen_port=8080)
MANY = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
OF_POOLS = (TypeUrl.CLUSTER, TypeUrl.ENDPOINT, TypeUrl.SECRET)
SPLIT = (TypeUrl.ROUTE, TypeUrl.SCOPE)
"""Types of which each pool has some, and the gateway its own."""


def translated(world: World, compiled: Compiled | None = None) -> Snapshot:
    tables = (compiled or compile_world(world)).tables.values()
    return translate(list(tables), world.secrets, world.overrides, SETTINGS)


@MANY
@given(worlds())
def test_no_table_is_half_a_pool(world: World) -> None:
    compiled = compile_world(world)
    kept = {key for key in world.last_good if compiled.tables.get(key) == world.last_good[key]}
    for key, table in compiled.tables.items():
        assert table.key == key
        assert table.models
        known = {endpoint.name for endpoint in table.endpoints}
        names = {model.name for model in table.models}
        for model in table.models:
            assert model.hosts
            assert {host.endpoint for host in model.hosts} <= known
            assert all(1 <= host.weight <= 1000 for host in model.hosts)
            assert model.name not in model.fallbacks
        assert len(known) == len(table.endpoints)
        assert len(names) == len(table.models)
        assert len({t.key for t in table.tenants}) == len(table.tenants)
        if key not in kept:
            refs = [ref for tenant in table.tenants for ref in tenant.api_keys]
            assert all(isinstance(read_key(world.secrets, ref), SecretValue) for ref in refs)
        assert RoutingTable.model_validate_json(table.model_dump_json()) == table
        assert RoutingTable.model_validate(json.loads(json.dumps(table.model_dump(mode="json")))) == table


@MANY
@given(worlds())
def test_whatever_exists_and_can_be_served_is(world: World) -> None:
    """Every pool and tenant has a status; a pool with a deployment, or a last good table, has a table."""
    compiled = compile_world(world)
    assert compiled.pool_statuses.keys() == {p.key for p in world.pools}
    assert compiled.quota_statuses.keys() == {q.key for q in world.quotas}
    wanted = {p.key for p in world.pools}
    assert compiled.tables.keys() == wanted | (world.invalid & world.last_good.keys())
    for finding in compiled.findings:
        statuses: Any = compiled.pool_statuses if finding.kind == "AOAIBackendPool" else compiled.quota_statuses
        assert any(c.status == "False" and finding.message in c.message for c in statuses[finding.key].conditions)


@MANY
@given(worlds(), st.randoms(use_true_random=False))
def test_order_does_not_matter(world: World, random: Any) -> None:
    def shuffled(items: Any) -> Any:
        listed = list(items)
        random.shuffle(listed)
        return listed

    other = replace(
        world,
        pools=tuple(shuffled(world.pools)),
        quotas=tuple(shuffled(world.quotas)),
        secrets=dict(shuffled(world.secrets.items())),
        last_good=dict(shuffled(world.last_good.items())),
    )
    compiled, again = compile_world(world), compile_world(other)
    assert compiled == again
    shuffled_tables = shuffled(again.tables.values())
    assert translate(shuffled_tables, other.secrets, other.overrides, SETTINGS) == translated(world, compiled)


@MANY
@given(worlds())
def test_what_envoy_gets_is_whole(world: World) -> None:
    """Every reference is to something that is there, every name is unique, and every owner is the pool it is of."""
    snapshot = translated(world)
    clusters, assignments = snapshot.resources[TypeUrl.CLUSTER], snapshot.resources[TypeUrl.ENDPOINT]
    secrets = snapshot.resources[TypeUrl.SECRET]
    assert clusters.keys() == assignments.keys()
    for routes in (r.body["virtual_hosts"] for r in snapshot.resources[TypeUrl.ROUTE].values()):
        assert {r["route"]["cluster"] for host in routes for r in host["routes"] if "route" in r} <= clusters.keys()
        domains = [domain for host in routes for domain in host["domains"]]
        assert len(domains) == len(set(domains))
    scopes = [scope.body for scope in snapshot.resources[TypeUrl.SCOPE].values()]
    assert {scope["route_configuration_name"] for scope in scopes} == snapshot.resources[TypeUrl.ROUTE].keys()
    keys = [scope["key"]["fragments"][0]["string_key"] for scope in scopes]
    assert len(keys) == len(set(keys))
    for name, cluster in clusters.items():
        assert set(_asked_for(cluster.body)) <= secrets.keys()
        found = [group["lb_endpoints"][0]["endpoint"] for group in assignments[name].body["endpoints"]]
        first = [json.dumps(endpoint["address"]) for endpoint in found]
        assert len(first) == len(set(first))
    for url, named in snapshot.resources.items():
        for name, resource in named.items():
            assert resource.name == name
            of_pool = url in OF_POOLS or (url in SPLIT and not name.startswith("default"))
            assert resource.owner == ("/".join(name.split("/")[:2]) if of_pool else None)


@MANY
@given(worlds())
def test_what_envoy_gets_is_protobuf(world: World) -> None:
    for url, named in translated(world).resources.items():
        for resource in named.values():
            assert to_any(url, resource).value


@MANY
@given(worlds(), st.data())
def test_a_broken_pool_changes_no_other(world: World, data: st.DataObject) -> None:
    if not world.pools:
        return
    broken = data.draw(st.sampled_from([p.key for p in world.pools]))
    without = replace(world, pools=tuple(p for p in world.pools if p.key != broken), invalid=world.invalid | {broken})
    assert _of_others(translated(world), broken) == _of_others(translated(without), broken)


@MANY
@given(worlds())
def test_no_key_is_told(world: World) -> None:
    """Keys are in Envoy's secrets and with the routes, where tenants are known by them, and nowhere else."""
    compiled = compile_world(world)
    snapshot = translated(world, compiled)
    told = [repr(world), repr(compiled), str(compiled), repr(snapshot), str(snapshot)]
    told += [table.model_dump_json() for table in compiled.tables.values()]
    told += [s.model_dump_json() for s in (*compiled.pool_statuses.values(), *compiled.quota_statuses.values())]
    for url, named in snapshot.resources.items():
        told += [json.dumps(_without_keys(r.body)) for r in named.values() if url is not TypeUrl.SECRET]
    assert not [text for text in told if CANARY in text]


def _asked_for(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _asked_for(item)
    elif isinstance(value, dict):
        if "sds_config" in value:
            yield value["name"]
        for item in value.values():
            yield from _asked_for(item)


def _without_keys(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_keys(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_keys(item) for key, item in value.items() if key != "credentials"}
    return value


def _of_others(snapshot: Snapshot, key: PoolKey) -> dict[str, Resource]:
    named = {f"{url} {name}": r for url in OF_POOLS for name, r in snapshot.resources[url].items()}
    return {name: r for name, r in named.items() if r.owner != str(key)}


def test_names_are_what_the_parts_agreed_on() -> None:
    pool = PoolKey("ai", "chat")
    assert (cluster_name(pool, "gpt-4o"), str(EndpointKey(pool, "east"))) == ("ai/chat/gpt-4o", "ai/chat/east")

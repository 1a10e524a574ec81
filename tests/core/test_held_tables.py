"""A held table holds the pool, not who may call it."""

from __future__ import annotations

from dataclasses import replace

from aoai_operator.core.api import AOAIBackendPool
from aoai_operator.core.compiler import compile_world
from aoai_operator.core.names import PoolKey
from aoai_operator.core.world import World
from support.resources import pool, tenant, world

CHAT = PoolKey("ns", "chat")


def serving() -> World:
    """Return a world whose pool ns/chat has served the tenant ns/team."""
    now = world(pool("chat"))
    return replace(now, last_good=compile_world(now).tables)


def callers(now: World) -> list[str]:
    return [t.key for t in compile_world(now).tables[CHAT].tenants]


def suspended(now: World) -> World:
    (chat,) = now.pools
    spec = chat.spec.model_copy(update={"suspend": True})
    return replace(now, pools=(chat.model_copy(update={"spec": spec}),))


def unreadable(now: World) -> World:
    return replace(now, pools=(), invalid=frozenset({CHAT}))


def test_a_held_table_keeps_the_tenants_that_still_are() -> None:
    assert callers(suspended(serving())) == ["ns/team"]
    assert callers(unreadable(serving())) == ["ns/team"]


def test_a_tenant_that_was_taken_away_stays_so() -> None:
    gone = replace(serving(), quotas=())
    assert callers(suspended(gone)) == []
    assert callers(unreadable(gone)) == []


def test_a_tenant_that_names_another_pool_now_is_out() -> None:
    moved = replace(serving(), quotas=(tenant("team", "other"),))
    assert callers(suspended(moved)) == []
    assert callers(unreadable(moved)) == []


def test_nobody_new_comes_in_where_the_pool_cannot_say_whom_it_takes() -> None:
    more = replace(serving(), quotas=(tenant("team", "chat"), tenant("new", "chat")))
    assert callers(unreadable(more)) == ["ns/team"]


def claiming(name: str, *, suspend: bool = False) -> AOAIBackendPool:
    """Return a pool that claims the host name x.example."""
    made = pool(name)
    gateway = made.spec.gateway.model_copy(update={"hostnames": ("x.example",)})
    return made.model_copy(update={"spec": made.spec.model_copy(update={"gateway": gateway, "suspend": suspend})})


def test_what_a_held_pool_claims_and_another_serves_is_said_for_as_long_as_it_is_so() -> None:
    now = world(claiming("chat"), claiming("second", suspend=True))
    first = compile_world(now)
    held = compile_world(replace(now, last_good=first.tables, now=now.now + 1))
    assert first.pool_statuses[PoolKey("ns", "second")].conditions[0].reason == "HostnameConflict"
    assert [s.conditions for s in held.pool_statuses.values()] == [s.conditions for s in first.pool_statuses.values()]


def test_a_host_name_that_a_held_pool_does_not_serve_yet_is_free() -> None:
    before = compile_world(world(pool("held"), pool("other")))
    now = world(claiming("held", suspend=True), claiming("other"))
    tables = compile_world(replace(now, last_good=before.tables)).tables
    assert tables[PoolKey("ns", "other")].hostnames == ("x.example",)
    assert tables[PoolKey("ns", "held")].hostnames == ()

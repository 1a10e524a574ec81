"""What is remembered from one pass to the next changes no outcome: worlds in a row give what each gives alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aoai_operator.core.api.quota import QuotaLimits
from aoai_operator.core.compiler import Compiler, compile_world
from aoai_operator.core.envoy.settings import GatewaySettings
from aoai_operator.core.envoy.translate import Translator, translate
from aoai_operator.core.world import World
from support.resources import pool, tenant, world
from support.strategies import worlds

GATEWAYS = (
    GatewaySettings(gateway="default", listen_host="0.0.0.0", listen_port=8080),
    GatewaySettings(gateway="default", listen_host="0.0.0.0", listen_port=8080, tls_port=8443),
    GatewaySettings(gateway="other", listen_host="0.0.0.0", listen_port=8080),
)
MANY = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


@st.composite
def histories(draw: st.DrawFn) -> list[World]:
    """Return worlds one after the other; each keeps some parts of the one before, or much of what is in them."""
    history = draw(st.lists(worlds(before=False), min_size=2, max_size=4))
    parts = ("pools", "quotas", "secrets", "overrides", "programming", "invalid", "namespaces", "ledger")
    for i in range(1, len(history)):
        kept = draw(st.sets(st.sampled_from(parts), max_size=6))
        before = history[i - 1]
        same: dict[str, Any] = {name: getattr(before, name) for name in kept}
        if len({"pools", "invalid"} & kept) == 1:
            same |= {"pools": before.pools, "invalid": before.invalid}
        history[i] = replace(history[i], **same)
        if draw(st.booleans()):
            history[i] = _mixed(draw, before, history[i])
    return history


def _mixed(draw: st.DrawFn, before: World, after: World) -> World:
    """Return a world in which some resources and Secrets are still the very same as before."""
    stay = draw(st.sets(st.sampled_from([*(p.key for p in before.pools), *(q.key for q in before.quotas), None])))
    pools = {p.key: p for p in (*after.pools, *(p for p in before.pools if p.key in stay))}
    quotas = {q.key: q for q in (*after.quotas, *(q for q in before.quotas if q.key in stay))}
    secrets = {**after.secrets, **before.secrets} if draw(st.booleans()) else after.secrets
    return replace(
        after,
        pools=tuple(pools.values()),
        quotas=tuple(quotas.values()),
        secrets=secrets,
        invalid=after.invalid - pools.keys(),
    )


@MANY
@given(histories(), st.lists(st.booleans(), min_size=4, max_size=4))
def test_compiling_again_is_compiling(history: list[World], linked: list[bool]) -> None:
    compiler, last = Compiler(), compile_world(World())
    for drawn, follows in zip(history, linked, strict=False):
        told: dict[str, Any] = {"pool_statuses": last.pool_statuses, "quota_statuses": last.quota_statuses}
        one = replace(drawn, last_good=last.tables, **told) if follows else drawn
        last = compiler(one)
        assert last == compile_world(one)


def test_a_ledger_that_goes_and_comes_is_told_of_whoever_is_limited() -> None:
    before = world(pool("a"))
    limited = before.quotas[0].model_copy(
        update={"spec": before.quotas[0].spec.model_copy(update={"limits": QuotaLimits(tokens_per_minute=9)})}
    )
    compiler, now = Compiler(), replace(before, quotas=(limited,))
    last = compiler(now)
    # Twice each: what changed at the last pass is looked at once more whatever happens.
    for ledger in ("", "", "Redis does not answer", "Redis does not answer", ""):
        one = replace(now, ledger=ledger, pool_statuses=last.pool_statuses, quota_statuses=last.quota_statuses)
        last = compiler(one)
        assert last == compile_world(one)
        exact = next(c for c in last.quota_statuses[limited.key].conditions if c.type == "Exact")
        assert exact.status == ("False" if ledger else "True")


def test_statuses_that_do_not_follow_themselves_have_the_present_time() -> None:
    compiler, now = Compiler(), world(pool("a"))
    first = compiler(now)
    told: dict[str, Any] = {"pool_statuses": first.pool_statuses, "quota_statuses": first.quota_statuses}
    assert compiler(replace(now, **told, now=now.now + 60_000)) == first
    later = replace(now, now=now.now + 120_000)
    assert compiler(later) == compile_world(later) != first


@MANY
@given(histories(), st.lists(st.sampled_from(GATEWAYS), min_size=3, max_size=3))
def test_translating_again_is_translating(history: list[World], gateways: list[GatewaySettings]) -> None:
    translator = Translator()
    for one, gateway in zip(history, gateways, strict=False):
        tables = list(compile_world(one).tables.values())
        made = translator(tables, one.secrets, one.overrides, gateway)
        alone = translate(tables, one.secrets, one.overrides, gateway)
        assert made == alone
        assert made.version == alone.version


def test_what_did_not_change_is_the_same_object() -> None:
    """Of one pool that changed, the others' tables, statuses and resources are those of before."""
    compiler, translator = Compiler(), Translator()
    before = world(pool("a"), pool("b"))
    first = compiler(before)
    settled = replace(before, pool_statuses=first.pool_statuses, quota_statuses=first.quota_statuses)
    again = compiler(settled)
    after = replace(settled, pools=(before.pools[0], pool("b", url="http://127.0.0.2:9")))
    last = compiler(replace(after, quotas=(*after.quotas, tenant("more", "b"))))
    a, b = sorted(first.tables)
    assert again.tables[a] is first.tables[a]
    assert last.tables[a] is first.tables[a]
    assert last.tables[b] != first.tables[b]
    assert last.pool_statuses[a] is again.pool_statuses[a]
    tables = [list(outcome.tables.values()) for outcome in (first, last)]
    one, two = (translator(t, before.secrets, before.overrides, GATEWAYS[0]) for t in tables)
    old, new = (
        {(url, r.name): r for url, named in made.resources.items() for r in named.values() if r.owner == str(a)}
        for made in (one, two)
    )
    assert old
    assert all(new[key] is resource for key, resource in old.items())


def test_a_revision_is_that_of_the_content() -> None:
    table = next(iter(compile_world(world(pool("a"))).tables.values()))
    assert table.revision == table.model_copy().revision
    assert table.revision != table.model_copy(update={"hostnames": ("x.example",)}).revision

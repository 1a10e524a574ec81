"""Routing tables as ConfigMaps: what is written is read, and nothing else is."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aoai_operator.core import configmaps
from aoai_operator.core.compiler import compile_world
from aoai_operator.core.configmaps import POOL_LABEL, Json, manifests, pool_of, read
from aoai_operator.core.names import PoolKey, SecretRef
from aoai_operator.core.table import RoutingTable, Tenant
from aoai_operator.core.world import World
from support.strategies import worlds
from support.tables import CHAT, endpoint, routing_table

UID = "6a1c"
MANY = 5_000
LIMIT = 500_000


def tenants(count: int) -> tuple[Tenant, ...]:
    return tuple(
        Tenant(namespace="ai", name=f"team-{i}", models=(), api_keys=(SecretRef("ai", f"key-{i}", "api-key"),))
        for i in sorted(range(count), key=lambda i: f"team-{i}")
    )


def table(count: int = 1) -> RoutingTable:
    return routing_table(endpoint("east"), endpoint("west")).model_copy(update={"tenants": tenants(count)})


def head(items: tuple[Json, ...]) -> Json:
    """Return the text of the last of them as a document."""
    document: Json = yaml.safe_load(items[-1]["data"]["routing-table.yaml"])
    return document


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(worlds())
def test_what_is_written_is_read(world: World) -> None:
    for key, made in compile_world(world).tables.items():
        found = read(key, manifests(made, UID))
        assert found.table == made
        assert found.owner == UID


def test_a_table_is_readable_and_names_its_revision_and_owner() -> None:
    made = table()
    (item,) = manifests(made, UID)
    assert item["metadata"]["name"] == "chat-routing"
    assert item["metadata"]["annotations"]["aoai.dev/revision"] == made.revision
    assert item["metadata"]["ownerReferences"][0]["uid"] == UID
    document = head((item,))
    assert document["revision"] == made.revision
    assert [e["name"] for e in document["table"]["endpoints"]] == ["east", "west"]


def test_many_tenants_are_spread_over_shards() -> None:
    made = table(MANY)
    items = manifests(made, UID)
    assert len(items) > 2
    assert all(len(yaml.safe_dump(item)) < LIMIT for item in items)
    found = read(CHAT, reversed(items))
    assert found.table == made
    assert found.owner == UID


def test_a_shard_is_yaml_with_a_tenant_a_line() -> None:
    made = table(MANY)
    shards = [item["data"]["tenants.yaml"] for item in manifests(made, UID)[:-1]]
    listed = [tenant for text in shards for tenant in yaml.load(text, configmaps._LOADER)]  # noqa: S506 - a safe one
    assert sorted(tenant["name"] for tenant in listed) == [tenant.name for tenant in made.tenants]
    assert sum(len(text.splitlines()) for text in shards) == MANY


def test_the_number_of_shards_follows_from_the_tenants_alone() -> None:
    """Whoever writes them, and whatever was there before: or two leaders would write by turns."""
    made = table(MANY)
    turned = made.model_copy(update={"tenants": tuple(reversed(made.tenants))})
    assert [i["metadata"]["name"] for i in manifests(made, UID)] == [
        i["metadata"]["name"] for i in manifests(turned, UID)
    ]


def test_one_tenant_more_changes_one_shard() -> None:
    before, after = (manifests(table(n), UID) for n in (MANY, MANY + 1))
    assert len(before) == len(after)
    changed = [b["metadata"]["name"] for b, a in zip(before, after, strict=True) if b != a]
    assert len(changed) == 2
    assert changed[1] == "chat-routing"


def test_a_set_that_is_being_written_is_no_table_yet() -> None:
    """The shards are written first: a reader sees new ones with the old head, and waits."""
    old, new = (manifests(table(n), UID) for n in (MANY, MANY + 1))
    assert read(CHAT, ()) == configmaps.Read()
    assert read(CHAT, old[1:]) == configmaps.Read()
    assert read(CHAT, (*new[:-1], old[-1])) == configmaps.Read()


def test_a_shard_too_many_is_read_over_but_not_as_it_should_be() -> None:
    few, many = table(1), table(MANY)
    left_over = manifests(many, UID)[0]
    found = read(CHAT, (*manifests(few, UID), left_over))
    assert found.table == few
    assert found.owner == ""


def _edits() -> Iterator[tuple[str, Any]]:
    def label(item: Json) -> None:
        item["metadata"]["labels"][POOL_LABEL] = "other"

    def labels(item: Json) -> None:
        del item["metadata"]["labels"]

    def owner(item: Json) -> None:
        del item["metadata"]["ownerReferences"]

    def annotation(item: Json) -> None:
        item["metadata"]["annotations"]["aoai.dev/revision"] = "other"

    def comment(item: Json) -> None:
        item["data"]["routing-table.yaml"] = "# do not touch\n" + item["data"]["routing-table.yaml"]

    def revision(item: Json) -> None:
        text = item["data"]["routing-table.yaml"]
        item["data"]["routing-table.yaml"] = text.replace("revision: ", "revision: x")

    def again(item: Json) -> None:
        item["data"]["routing-table.yaml"] += "revision: other\n"

    def more(item: Json) -> None:
        item["data"]["routing-table.yaml"] += "notes: other\n"

    yield from ((f.__name__, f) for f in (label, labels, owner, annotation, comment, revision, again, more))


@pytest.mark.parametrize("edit", [f for _, f in _edits()], ids=[name for name, _ in _edits()])
def test_an_edit_beside_the_table_lets_it_serve_and_is_undone(edit: Any) -> None:
    items = copy.deepcopy(manifests(table(), UID))
    edit(items[-1])
    found = read(CHAT, items)
    assert found.table == table()
    assert found.owner == ""


def test_more_owners_labels_and_data_of_others_are_no_edit() -> None:
    (item,) = copy.deepcopy(manifests(table(), UID))
    item["metadata"]["ownerReferences"].append({"kind": "Application", "uid": "x"})
    item["metadata"]["labels"]["team"] = "x"
    item["data"]["notes"] = "x"
    assert read(CHAT, [item]).owner == UID


def test_an_edited_table_is_refused_without_quoting_it() -> None:
    (item,) = copy.deepcopy(manifests(table(), UID))
    text = item["data"]["routing-table.yaml"]
    item["data"]["routing-table.yaml"] = text.replace("east.example", "evil.example")
    found = read(CHAT, [item])
    assert found.table is None
    assert found.refused == "the ConfigMap ai/chat-routing was edited: it is not what its digest says"


def test_an_edited_shard_is_no_part_of_it() -> None:
    items = copy.deepcopy(manifests(table(MANY), UID))
    items[0]["data"]["tenants.yaml"] += "\n"
    found = read(CHAT, items)
    assert found.table is None
    assert found.refused == "the ConfigMap ai/chat-tenants-0 was edited: it is not what its digest says"


FOREIGN = SecretRef("other-team", "azure-key", "api-key")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            {"endpoints": (endpoint("east").model_copy(update={"credential": FOREIGN}),)},
            "an endpoint's credential in another namespace than the pool's",
        ),
        ({"tls_secret": "other-team/tls"}, "a serving certificate in another namespace than the pool's"),
        (
            {"tenants": (Tenant(namespace="ai", name="team", models=(), api_keys=(FOREIGN,)),)},
            "a tenant's key in another namespace than the tenant's",
        ),
    ],
    ids=["credential", "certificate", "tenant"],
)
def test_a_table_that_names_foreign_secrets_is_refused(change: Json, why: str) -> None:
    """Its digest is right: whoever may write ConfigMaps can make one."""
    found = read(CHAT, manifests(table().model_copy(update=change), UID))
    assert found.table is None
    assert found.refused == f"the ConfigMap ai/chat-routing names {why}"


def test_whose_it_claims_to_be() -> None:
    (item,) = copy.deepcopy(manifests(table(), UID))
    item["metadata"]["labels"] = None
    assert read(CHAT, [item]).claimed == UID
    item["metadata"]["ownerReferences"].append({"kind": "AOAIBackendPool", "uid": "another"})
    assert read(CHAT, [item]).claimed == ""
    item["metadata"]["ownerReferences"] = None
    assert read(CHAT, [item]).claimed == ""


def test_the_table_of_another_pool_is_refused() -> None:
    (item,) = copy.deepcopy(manifests(routing_table(endpoint("east"), pool=PoolKey("ai", "other")), UID))
    item["metadata"]["name"] = "chat-routing"
    found = read(CHAT, [item])
    assert found.table is None
    assert found.refused == "the ConfigMap ai/chat-routing holds the table of the pool ai/other"


@pytest.mark.parametrize("change", [{"strategy": "Unheard"}, {"models": None}])
def test_another_format_is_refused(change: Json) -> None:
    (item,) = copy.deepcopy(manifests(table(), UID))
    document = head((item,))
    document["table"] |= change
    document["digest"] = configmaps._digest(document["table"])
    item["data"]["routing-table.yaml"] = yaml.safe_dump(document)
    found = read(CHAT, [item])
    assert found.table is None
    assert found.refused == "the ConfigMap ai/chat-routing holds no routing table that this version can read"


_texts = st.text(max_size=80) | st.sampled_from(["[", "- &a [*a]", "!!python/object:os.system x", "2001-01-01: 1"])
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_documents = st.fixed_dictionaries(
    {}, optional={"table": _values, "digest": _values, "shards": _values, "revision": _values}
)


@given(_texts | _values.map(yaml.safe_dump) | _documents.map(yaml.safe_dump), _texts, st.booleans())
def test_garbage_is_refused_and_never_raises(text: str, shard: str, with_shard: bool) -> None:
    (item,) = copy.deepcopy(manifests(table(), UID))
    item["data"] = {"routing-table.yaml": text}
    other = {"metadata": {"name": "chat-tenants-0"}, "data": {"tenants.yaml": shard}}
    found = read(CHAT, [item, other] if with_shard else [item])
    assert found.table is None


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "- " * 100_000, "{a: " * 900 + "}" * 900], ids=["flow", "block", "map"]
)
def test_nesting_without_end_is_refused(text: str) -> None:
    """Whoever may write a ConfigMap could end the process with it: libyaml's composer calls itself."""
    assert read(CHAT, [{"metadata": {"name": "chat-routing"}, "data": {"routing-table.yaml": text}}]).refused


def test_nesting_without_end_in_a_shard_is_refused() -> None:
    items = copy.deepcopy(manifests(table(MANY), UID))
    deep = "- " + "[" * 100_000
    items[0]["data"]["tenants.yaml"] = deep
    document = head(items)
    document["shards"][0] = configmaps._text_digest(deep)
    items[-1]["data"]["routing-table.yaml"] = yaml.safe_dump(document)
    assert read(CHAT, items).refused


def test_what_would_unfold_without_end_is_refused() -> None:
    lines = ["a0: &a0 x", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10))]
    text = "\n".join([*lines, "table: *a9", "digest: x"])
    assert read(CHAT, [{"metadata": {"name": "chat-routing"}, "data": {"routing-table.yaml": text}}]).refused


@given(st.dictionaries(_texts, _texts, max_size=3) | st.none())
def test_data_of_any_kind_never_raises(data: Any) -> None:
    assert read(CHAT, [{"metadata": {"name": "chat-routing"}, "data": data}]).table is None


@pytest.mark.parametrize(
    ("name", "pool"),
    [
        ("chat-routing", "chat"),
        ("chat-tenants-12", "chat"),
        ("a-routing-routing", "a-routing"),
        ("chat-tenants-0-routing", "chat-tenants-0"),
        ("routing", None),
        ("notes", None),
        ("chat-tenants-x", None),
    ],
)
def test_a_pool_is_found_by_the_name(name: str, pool: str | None) -> None:
    assert pool_of(PoolKey("ai", name)) == (pool and PoolKey("ai", pool))


_parts = st.lists(st.sampled_from(["a", "routing", "tenants", "0", "12"]), min_size=1, max_size=5).map("-".join)


@given(_parts, st.integers(0, 99))
def test_no_two_pools_have_a_config_map_of_one_name(pool: str, number: int) -> None:
    """From each name its pool follows, however the pool is called; and the API server takes it."""
    for name in (configmaps.routing_name(pool), configmaps.shard_name(pool, number)):
        assert pool_of(PoolKey("ai", name)) == PoolKey("ai", pool)
    assert len(configmaps.shard_name("p" * 63, number)) <= 253


def test_whose_a_config_map_is() -> None:
    (ours,) = manifests(table(), UID)
    unlabelled = copy.deepcopy(ours)
    del unlabelled["metadata"]["labels"]
    foreign = {"metadata": {"name": "chat-routing", "labels": {"app": "chat"}}}
    assert configmaps.belongs(ours, "chat", "another")
    assert configmaps.belongs(unlabelled, "chat", UID)
    assert not configmaps.belongs(unlabelled, "chat", "another")
    assert not configmaps.belongs(foreign, "chat", UID)

"""Routing tables as ConfigMaps: what is written is read, and nothing else is."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aoai_operator.core import configmaps
from aoai_operator.core.compiler import compile_world
from aoai_operator.core.configmaps import POOL_LABEL, SIGNATURE, Json, Read, pool_of
from aoai_operator.core.names import PoolKey, SecretRef
from aoai_operator.core.signing import key_of, signature
from aoai_operator.core.table import RoutingTable, Tenant
from aoai_operator.core.world import World
from support.strategies import worlds
from support.tables import CHAT, endpoint, routing_table

UID = "6a1c"
KEY = key_of(b"k" * 32)
MANY = 5_000
LIMIT = 500_000


def tenants(count: int) -> tuple[Tenant, ...]:
    return tuple(
        Tenant(namespace="ai", name=f"team-{i}", models=(), api_keys=(SecretRef("ai", f"key-{i}", "api-key"),))
        for i in sorted(range(count), key=lambda i: f"team-{i}")
    )


def table(count: int = 1) -> RoutingTable:
    return routing_table(endpoint("east"), endpoint("west")).model_copy(update={"tenants": tenants(count)})


def manifests(made: RoutingTable, uid: str = UID) -> tuple[Json, ...]:
    return configmaps.manifests(made, uid, KEY)


def read(pool: PoolKey, items: Iterable[Json]) -> Read:
    return configmaps.read(pool, items, KEY)


def signed_again(item: Json, text: str) -> None:
    """Put another text into a table's ConfigMap, and sign it, as only the operator could."""
    item["data"]["routing-table.yaml"] = text
    item["metadata"]["annotations"][SIGNATURE] = signature(text, pool=CHAT, uid=UID, key=KEY)


def head(items: tuple[Json, ...]) -> Json:
    """Return the text of the last of them as a document."""
    document: Json = yaml.safe_load(items[-1]["data"]["routing-table.yaml"])
    return document


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(worlds())
def test_what_is_written_is_read(world: World) -> None:
    for key, made in compile_world(world).tables.items():
        found = read(key, manifests(made))
        assert found.table == made
        assert found.owner == UID


def test_a_table_is_readable_and_names_its_revision_and_owner() -> None:
    made = table()
    (item,) = manifests(made)
    assert item["metadata"]["name"] == "chat-routing"
    assert item["metadata"]["annotations"]["aoai.dev/revision"] == made.revision
    assert item["metadata"]["ownerReferences"][0]["uid"] == UID
    document = head((item,))
    assert document["revision"] == made.revision
    assert [e["name"] for e in document["table"]["endpoints"]] == ["east", "west"]


def test_many_tenants_are_spread_over_shards() -> None:
    made = table(MANY)
    items = manifests(made)
    assert len(items) > 2
    assert all(len(yaml.safe_dump(item)) < LIMIT for item in items)
    found = read(CHAT, reversed(items))
    assert found.table == made
    assert found.owner == UID


def test_a_shard_is_yaml_with_a_tenant_a_line() -> None:
    made = table(MANY)
    shards = [item["data"]["tenants.yaml"] for item in manifests(made)[:-1]]
    listed = [tenant for text in shards for tenant in yaml.load(text, configmaps._LOADER)]  # noqa: S506 - a safe one
    assert sorted(tenant["name"] for tenant in listed) == [tenant.name for tenant in made.tenants]
    assert sum(len(text.splitlines()) for text in shards) == MANY


def test_the_number_of_shards_follows_from_the_tenants_alone() -> None:
    """Whoever writes them, and whatever was there before: or two leaders would write by turns."""
    made = table(MANY)
    turned = made.model_copy(update={"tenants": tuple(reversed(made.tenants))})
    assert [i["metadata"]["name"] for i in manifests(made)] == [i["metadata"]["name"] for i in manifests(turned)]


def test_one_tenant_more_changes_one_shard() -> None:
    before, after = (manifests(table(n)) for n in (MANY, MANY + 1))
    assert len(before) == len(after)
    changed = [b["metadata"]["name"] for b, a in zip(before, after, strict=True) if b != a]
    assert len(changed) == 2
    assert changed[1] == "chat-routing"


def test_a_set_that_is_being_written_is_no_table_yet() -> None:
    """The shards are written first: a reader sees new ones with the old head, and waits."""
    old, new = (manifests(table(n)) for n in (MANY, MANY + 1))
    assert read(CHAT, ()) == Read()
    assert read(CHAT, old[1:]) == Read(signed=True)
    assert read(CHAT, (*new[:-1], old[-1])) == Read(signed=True)


def test_a_shard_too_many_is_read_over_but_not_as_it_should_be() -> None:
    few, many = table(1), table(MANY)
    left_over = manifests(many)[0]
    found = read(CHAT, (*manifests(few), left_over))
    assert found.table == few
    assert found.owner == ""


def _edits() -> Iterator[tuple[str, Any]]:
    def label(item: Json) -> None:
        item["metadata"]["labels"][POOL_LABEL] = "other"

    def labels(item: Json) -> None:
        del item["metadata"]["labels"]

    def annotation(item: Json) -> None:
        item["metadata"]["annotations"]["aoai.dev/revision"] = "other"

    yield from ((f.__name__, f) for f in (label, labels, annotation))


@pytest.mark.parametrize("edit", [f for _, f in _edits()], ids=[name for name, _ in _edits()])
def test_an_edit_beside_the_table_lets_it_serve_and_is_undone(edit: Any) -> None:
    items = copy.deepcopy(manifests(table()))
    edit(items[-1])
    found = read(CHAT, items)
    assert found.table == table()
    assert found.owner == ""


def test_more_owners_labels_and_data_of_others_are_no_edit() -> None:
    (item,) = copy.deepcopy(manifests(table()))
    item["metadata"]["ownerReferences"].append({"kind": "Application", "uid": "x"})
    item["metadata"]["labels"]["team"] = "x"
    item["data"]["notes"] = "x"
    assert read(CHAT, [item]).owner == UID


def test_an_edited_table_is_refused_without_quoting_it() -> None:
    (item,) = copy.deepcopy(manifests(table()))
    text = item["data"]["routing-table.yaml"]
    for edited in (text.replace("east.example", "evil.example"), "# mine\n" + text, text + "notes: mine\n", "[", ""):
        item["data"]["routing-table.yaml"] = edited
        assert read(CHAT, [item]) == Read(refused=f"the ConfigMap ai/chat-routing {NOT_SIGNED}")


NOT_SIGNED = "is not signed by this operator: it was edited, or somebody else wrote it"
UNSIGNED = "is not signed: an older version wrote it, or somebody else"
OWNER = "does not name its pool, and no other, as its owner"


OURS = {"apiVersion": "aoai.dev/v1alpha1", "kind": "AOAIBackendPool", "name": "chat", "uid": UID}
FORGERIES: dict[str, tuple[Json, str]] = {
    "annotations away": ({"annotations": None}, UNSIGNED),
    "signature away": ({"annotations": {"aoai.dev/revision": table().revision}}, UNSIGNED),
    "signature made up": ({"annotations": {SIGNATURE: "\u00e9" * 64}}, NOT_SIGNED),
    "signed with another key": (
        configmaps.manifests(table(), UID, key_of(b"x" * 32))[0]["metadata"],
        NOT_SIGNED,
    ),
    "of another uid": ({"ownerReferences": [{**OURS, "uid": "another"}]}, NOT_SIGNED),
    "owner away": ({"ownerReferences": None}, OWNER),
    "owner that cannot be found": ({"ownerReferences": [{**OURS, "apiVersion": "aoai.dev/v9"}]}, OWNER),
    "owner of another name": ({"ownerReferences": [{**OURS, "name": "other"}]}, OWNER),
    "two owners": ({"ownerReferences": [OURS, {**OURS, "uid": "another"}]}, OWNER),
    "held by a finalizer": ({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["a/b"]}, "is being deleted"),
}


@pytest.mark.parametrize(("forged", "why"), FORGERIES.values(), ids=FORGERIES.keys())
def test_what_the_operator_did_not_sign_is_refused(forged: Json, why: str) -> None:
    """What whoever may write ConfigMaps, and has ours to copy from, can do with one."""
    (item,) = copy.deepcopy(manifests(table()))
    item["metadata"] |= forged
    assert read(CHAT, [item]) == Read(refused=f"the ConfigMap ai/chat-routing {why}")


@pytest.mark.parametrize("pool", [PoolKey("ai", "other"), PoolKey("other", "chat")], ids=str)
def test_a_signature_is_for_one_pool(pool: PoolKey) -> None:
    """A table that was copied with its signature, and made to look like another pool's."""
    (item,) = copy.deepcopy(manifests(table()))
    name = f"{pool.name}-routing"
    item["metadata"] |= {"namespace": pool.namespace, "name": name}
    item["metadata"]["ownerReferences"][0]["name"] = pool.name
    assert read(pool, [item]) == Read(refused=f"the ConfigMap {pool.namespace}/{name} {NOT_SIGNED}")


def test_a_shard_of_another_writing_is_no_part_of_it() -> None:
    """Whoever puts an older one back, digest and all, has not edited it, and it is not taken."""
    older, newer = manifests(table(MANY - 1)), manifests(table(MANY))
    mixed = [old if old != new else new for old, new in zip(older[:-1], newer[:-1], strict=True)]
    assert mixed != list(newer[:-1])
    assert read(CHAT, [*mixed, newer[-1]]) == Read(signed=True)


def test_an_edited_shard_is_no_part_of_it() -> None:
    items = copy.deepcopy(manifests(table(MANY)))
    items[0]["data"]["tenants.yaml"] += "\n"
    found = read(CHAT, items)
    assert found.table is None
    assert found.refused == "the ConfigMap ai/chat-tenants-0 was edited: it is not what its digest says"


@pytest.mark.parametrize("change", [{"strategy": "Unheard"}, {"models": None}])
def test_another_format_is_refused(change: Json) -> None:
    (item,) = copy.deepcopy(manifests(table()))
    document = head((item,))
    document["table"] |= change
    signed_again(item, yaml.safe_dump(document))
    found = read(CHAT, [item])
    assert found.table is None
    assert found.refused == "the ConfigMap ai/chat-routing holds no routing table that this version can read"


_texts = st.text(max_size=80) | st.sampled_from(["[", "- &a [*a]", "!!python/object:os.system x", "2001-01-01: 1"])


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "- " * 100_000, "{a: " * 900 + "}" * 900], ids=["flow", "block", "map"]
)
def test_what_is_not_signed_is_not_parsed(text: str) -> None:
    """Whoever may write a ConfigMap could end the process with it: libyaml's composer calls itself."""
    (item,) = copy.deepcopy(manifests(table()))
    item["data"]["routing-table.yaml"] = text
    assert read(CHAT, [item]).refused
    shards = copy.deepcopy(manifests(table(MANY)))
    shards[0]["data"]["tenants.yaml"] = text
    assert read(CHAT, shards).refused


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
    (ours,) = manifests(table())
    unlabelled = copy.deepcopy(ours)
    del unlabelled["metadata"]["labels"]
    foreign = {"metadata": {"name": "chat-routing", "labels": {"app": "chat"}}}
    assert configmaps.belongs(ours, "chat", "another")
    assert configmaps.belongs(unlabelled, "chat", UID)
    assert not configmaps.belongs(unlabelled, "chat", "another")
    assert not configmaps.belongs(foreign, "chat", UID)

"""Routing tables as ConfigMaps: `<pool>-routing`, and for many tenants `<pool>-tenants-<n>` beside it. Pure.

The API server bounds an object to about 1 MB, and every change of one sends it whole to all who watch: so tenants that
do not fit are spread over shards by a hash of their names, and one more tenant changes one shard. A reader takes what
is signed, and with it the shards whose digests it names: nothing that anybody else wrote or edited is even parsed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml
from pydantic import ValidationError

from aoai_operator.core.api import API_VERSION, AOAIBackendPool
from aoai_operator.core.names import PoolKey
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.signing import is_signed, signature
from aoai_operator.core.table import RoutingTable

Json = dict[str, Any]

POOL_LABEL = "aoai.dev/pool"
"""The label with the pool's name, by which the ConfigMaps are found."""
MANAGED_BY = {"app.kubernetes.io/managed-by": "aoai-operator"}
REVISION = "aoai.dev/revision"
"""The annotation with the table's revision, or of a ConfigMap of tenants its own digest; for people."""
SIGNATURE = "aoai.dev/signature"
"""The annotation with the signature of the table's text."""

_TABLE, _TENANTS = "routing-table.yaml", "tenants.yaml"
_INLINE = 100_000
"""Characters up to which the tenants stay in the table's own ConfigMap."""
_LARGEST = 400_000
"""Characters of a shard."""
_NAMES = re.compile(r"(.+)-(?:routing|tenants-\d+)")
_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Text:
    """What the text of a table's ConfigMap says: a text that was written or read before is not read again.

    Attributes:
        digest: of all of the text.
        table: the table, with the tenants of its shards.
        shards: the digests of the shards that belong to it.
    """

    digest: str
    table: RoutingTable
    shards: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Read:
    """What the ConfigMaps of one pool hold.

    Attributes:
        table: the routing table, when it is whole, and signed for the pool that the ConfigMap names as its owner.
        refused: why it is not taken, in a sentence; empty while it is only being written.
        owner: the uid of the pool that owns all of them, when everything is as it was applied: nothing is missing, left
            over or edited. Empty: it is to be applied again.
        signed: whether the table's text is signed with the key that it was read with.
        text: what the table was read of, for the next time.
    """

    table: RoutingTable | None = None
    refused: str = ""
    owner: str = ""
    signed: bool = False
    text: Text | None = None


def pool_of(item: PoolKey) -> PoolKey | None:
    """Return the pool whose ConfigMap this would be by its name, which nobody can edit; None: no pool's."""
    found = _NAMES.fullmatch(item.name)
    return PoolKey(item.namespace, found[1]) if found else None


def belongs(item: Mapping[str, Any], pool: str, uid: str) -> bool:
    """Tell whether a ConfigMap that has the name of a pool's is one: by its label, or by its owner."""
    metadata = item["metadata"]
    owners = metadata.get("ownerReferences") or ()
    return (metadata.get("labels") or {}).get(POOL_LABEL) == pool or any(owner["uid"] == uid for owner in owners)


def owned_by(item: Mapping[str, Any], pool: str) -> str:
    """Return the uid of the one pool that a ConfigMap names as its owner; empty: none, or several.

    An owner of another version or name the garbage collector would not find, and the ConfigMap would stay for ever.
    """
    owners = item["metadata"].get("ownerReferences") or ()
    pools = [owner for owner in owners if owner["kind"] == AOAIBackendPool.KIND]
    if len(pools) != 1 or (pools[0]["apiVersion"], pools[0]["name"]) != (API_VERSION, pool):
        return ""
    uid: str = pools[0]["uid"]
    return uid


def routing_name(pool: str) -> str:
    """Return the name of the ConfigMap of a pool's table."""
    return f"{pool}-routing"


def manifests(table: RoutingTable, uid: str, key: SecretValue) -> tuple[Json, ...]:
    """Return the ConfigMaps of a table, as they are applied; the one that names the others comes last.

    Args:
        table: the table.
        uid: its pool's, which owns them: they go with it.
        key: signs it.
    """
    document = table.model_dump(mode="json")
    lines = [_line(tenant) for tenant in document["tenants"]]
    shards: list[str] = []
    if sum(map(len, lines)) > _INLINE:
        shards = _shards(list(zip(map(_place, document.pop("tenants")), lines, strict=True)))
    # Of the table's revision a shard says nothing, or each of them would change with it.
    made = [
        _config_map(table, uid, shard_name(table.name, i), {REVISION: _text_digest(text)}, {_TENANTS: text})
        for i, text in enumerate(shards)
    ]
    head = {"revision": table.revision, "shards": [_text_digest(text) for text in shards]}
    text = _dumped({**head, "table": document})
    signed = signature(text, pool=table.key, uid=uid, key=key)
    annotations = {REVISION: table.revision, SIGNATURE: signed}
    return (*made, _config_map(table, uid, routing_name(table.name), annotations, {_TABLE: text}))


def shard_name(pool: str, number: int) -> str:
    """Return the name of a ConfigMap of tenants."""
    return f"{pool}-tenants-{number}"


def written(manifests: Sequence[Json], table: RoutingTable) -> Text:
    """Return what the text of a table's ConfigMap says, of the manifests that were made of it."""
    *shards, head = manifests
    return Text(_text_digest(head["data"][_TABLE]), table, tuple(_text_digest(one["data"][_TENANTS]) for one in shards))


def read(pool: PoolKey, present: Iterable[Mapping[str, Any]], key: SecretValue, *, known: Text | None = None) -> Read:
    """Read the ConfigMaps that are there for a pool.

    Args:
        pool: the pool.
        present: the ConfigMaps.
        key: that with which the operator signs.
        known: a text that is known to have been written or read.
    """
    items = {item["metadata"]["name"]: item for item in present}
    name = routing_name(pool.name)
    if name not in items:
        return Read()
    try:
        if refused := _not_ours(pool, items[name], key):
            return Read(refused=f"the ConfigMap {pool.namespace}/{name} {refused}")
        return replace(_read(pool, items, known), signed=True)
    except (yaml.YAMLError, ValidationError, KeyError, TypeError, ValueError):
        # What exactly is wrong with it would quote what it holds.
        refused = f"the ConfigMap {pool.namespace}/{name} holds no routing table that this version can read"
        return Read(refused=refused, signed=True)


def _not_ours(pool: PoolKey, head: Mapping[str, Any], key: SecretValue) -> str:
    """Return why the ConfigMap of a table is none that the operator wrote, and wants to be there; empty: it is."""
    if "deletionTimestamp" in head["metadata"]:
        # A finalizer can keep it as long as somebody likes, after its pool is gone.
        return "is being deleted"
    if not (uid := owned_by(head, pool.name)):
        return "does not name its pool, and no other, as its owner"
    text = (head.get("data") or {}).get(_TABLE)
    told = (head["metadata"].get("annotations") or {}).get(SIGNATURE)
    if not told:
        return "is not signed: an older version wrote it, or somebody else"
    if text is None or not is_signed(text, told, pool=pool, uid=uid, key=key):
        return "is not signed by this operator: it was edited, or somebody else wrote it"
    return ""


def _is_edited(shard: Mapping[str, Any]) -> bool:
    """Tell whether a ConfigMap of tenants is not what it says itself: no writing of ours is seen so."""
    text, told = (shard.get("data") or {}).get(_TENANTS, ""), shard["metadata"].get("annotations") or {}
    return _text_digest(text) != told.get(REVISION)


def _owner(items: Mapping[str, Mapping[str, Any]], table: RoutingTable) -> str:
    """Return the uid of the pool that owns all of these, if they are labelled as they should be; else nothing."""
    uids = set()
    for item in items.values():
        labelled = {**MANAGED_BY, POOL_LABEL: table.name}.items() <= (item["metadata"].get("labels") or {}).items()
        uids.add(owned_by(item, table.name) if labelled else "")
    told = items[routing_name(table.name)]["metadata"]["annotations"].get(REVISION)
    return uids.pop() if len(uids) == 1 and told == table.revision else ""


def _read(pool: PoolKey, items: Mapping[str, Mapping[str, Any]], known: Text | None) -> Read:
    """Read what is signed, and what it names."""
    name = routing_name(pool.name)
    text = items[name]["data"][_TABLE]
    digest = _text_digest(text)
    same = known if known is not None and known.digest == digest else None
    found = {} if same else yaml.load(text, _LOADER)  # noqa: S506 - a safe one, in C where there is one
    digests = same.shards if same else tuple(found["shards"])
    wanted = {shard_name(pool.name, i): told for i, told in enumerate(digests)}
    tenants = {shard: (items.get(shard, {}).get("data") or {}).get(_TENANTS, "") for shard in wanted}
    for shard, told in wanted.items():
        if _text_digest(tenants[shard]) != told:
            why = f"the ConfigMap {pool.namespace}/{shard} was edited: it is not what its digest says"
            return Read(refused=why if shard in items and _is_edited(items[shard]) else "")
    table = same.table if same else _table(found["table"], tenants.values())
    ours = {one: items[one] for one in (name, *wanted)}
    # What only looks like ours is somebody's, and in nobody's way.
    left_over = any(owned_by(items[one], pool.name) for one in items.keys() - ours.keys())
    owner = "" if left_over else _owner(ours, table)
    return Read(table=table, owner=owner, text=same or Text(digest, table, digests))


def _table(document: Json, shards: Collection[str]) -> RoutingTable:
    if shards:
        tenants = [tenant for shard in shards for tenant in _tenants(shard)]
        document = {**document, "tenants": sorted(tenants, key=_tenant_key)}
    return RoutingTable.model_validate_json(json.dumps(document))


def _line(tenant: Json) -> str:
    """Return a tenant as an item of a YAML list, itself in JSON: that is YAML too, and much faster."""
    return f"- {json.dumps(tenant)}\n"


def _tenants(shard: str) -> Iterator[Json]:
    """Yield the tenants of a shard's text."""
    return (json.loads(line.removeprefix("- ")) for line in shard.splitlines())


def _shards(lines: Sequence[tuple[int, str]]) -> list[str]:
    """Return the texts of the fewest shards, a power of two of them, of which none is too large.

    By that rule the number follows from the tenants alone, whoever counts them, and changes seldom.

    Args:
        lines: each tenant's place and text.
    """
    count = 1
    while True:
        split: list[list[str]] = [[] for _ in range(count)]
        for place, line in lines:
            split[place % count].append(line)
        if max(sum(map(len, part)) for part in split) <= _LARGEST or count >= len(lines):
            return ["".join(part) for part in split]
        count *= 2


def _place(tenant: Json) -> int:
    return int.from_bytes(hashlib.sha256(_tenant_key(tenant).encode()).digest()[:4])


def _tenant_key(tenant: Json) -> str:
    return f"{tenant['namespace']}/{tenant['name']}"


def _config_map(
    table: RoutingTable, uid: str, name: str, annotations: Mapping[str, str], data: Mapping[str, str]
) -> Json:
    owner = {"apiVersion": API_VERSION, "kind": AOAIBackendPool.KIND, "name": table.name, "uid": uid}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "namespace": table.namespace,
            "name": name,
            "labels": {**MANAGED_BY, POOL_LABEL: table.name},
            "annotations": dict(annotations),
            "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": False}],
        },
        "data": dict(data),
    }


def _dumped(value: object) -> str:
    text: str = yaml.dump(value, Dumper=_DUMPER, sort_keys=False, width=120, default_flow_style=None)
    return text


def _text_digest(text: str) -> str:
    # All of it: of a shorter one, two texts could be found, and one be put in the place of the other.
    return hashlib.sha256(text.encode()).hexdigest()

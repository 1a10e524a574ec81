"""Routing tables as ConfigMaps: `<pool>-routing`, and for many tenants `<pool>-tenants-<n>` beside it. Pure.

The API server bounds an object to about 1 MB, and every change of one sends it whole to all who watch: so tenants that
do not fit are spread over shards by a hash of their names, and one more tenant changes one shard. A reader takes the
parts of one writing only, by their digests, and takes nothing that anybody edited.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml
from pydantic import ValidationError

from aoai_operator.core.api import API_VERSION, AOAIBackendPool
from aoai_operator.core.names import PoolKey
from aoai_operator.core.table import RoutingTable

Json = dict[str, Any]

POOL_LABEL = "aoai.dev/pool"
"""The label with the pool's name, by which the ConfigMaps are found."""
MANAGED_BY = {"app.kubernetes.io/managed-by": "aoai-operator"}
REVISION = "aoai.dev/revision"
"""The annotation with the table's revision, or of a ConfigMap of tenants its own digest; for people."""
WRITTEN = "aoai.dev/written"
"""The annotation with the digest of the table's text: an edit that changes nothing of the table is seen by it."""

_TABLE, _TENANTS = "routing-table.yaml", "tenants.yaml"
_INLINE = 100_000
"""Characters up to which the tenants stay in the table's own ConfigMap."""
_LARGEST = 400_000
"""Characters of a shard."""
_DEEPEST = 20
"""Lists and maps within each other; a table has fewer."""
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
        table: the routing table, when it is whole.
        refused: why it is not taken, in a sentence; empty while it is only being written.
        owner: the uid of the pool that owns all of them, when everything is as it was applied: nothing is missing, left
            over or edited. Empty: it is to be applied again.
        claimed: the uid of the pool that the table's ConfigMap names as its owner, whether there is one or not; whoever
            may write ConfigMaps can write it.
        text: what the table was read of, for the next time.
    """

    table: RoutingTable | None = None
    refused: str = ""
    owner: str = ""
    claimed: str = ""
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


def routing_name(pool: str) -> str:
    """Return the name of the ConfigMap of a pool's table."""
    return f"{pool}-routing"


def manifests(table: RoutingTable, uid: str) -> tuple[Json, ...]:
    """Return the ConfigMaps of a table, as they are applied; the one that names the others comes last.

    Args:
        table: the table.
        uid: its pool's, which owns them: they go with it.
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
    head = {"revision": table.revision, "digest": _digest(document), "shards": [_text_digest(text) for text in shards]}
    text = _dumped({**head, "table": document})
    annotations = {REVISION: table.revision, WRITTEN: _text_digest(text)}
    return (*made, _config_map(table, uid, routing_name(table.name), annotations, {_TABLE: text}))


def shard_name(pool: str, number: int) -> str:
    """Return the name of a ConfigMap of tenants."""
    return f"{pool}-tenants-{number}"


def written(manifests: Sequence[Json], table: RoutingTable) -> Text:
    """Return what the text of a table's ConfigMap says, of the manifests that were made of it."""
    *shards, head = manifests
    return Text(
        _whole_digest(head["data"][_TABLE]), table, tuple(_text_digest(one["data"][_TENANTS]) for one in shards)
    )


def read(pool: PoolKey, present: Iterable[Mapping[str, Any]], *, known: Text | None = None) -> Read:
    """Read the ConfigMaps that are there for a pool; `known`: a text that is known to have been written or read."""
    items = {item["metadata"]["name"]: item for item in present}
    by_name = {one: item.get("data") or {} for one, item in items.items()}
    name = routing_name(pool.name)
    if name not in by_name:
        return Read()
    try:
        found, names = _read(pool, name, by_name, edited=_edited(items), known=known)
    except (yaml.YAMLError, ValidationError, KeyError, TypeError, ValueError, AttributeError, RecursionError):
        # What exactly is wrong with it would quote what somebody wrote there.
        return Read(refused=f"the ConfigMap {pool.namespace}/{name} holds no routing table that this version can read")
    if found.table is None:
        return found
    owner = _owner(items, found.table) if by_name.keys() == names else ""
    return replace(found, owner=owner, claimed=_owned_by(items[name]))


def _owned_by(item: Mapping[str, Any]) -> str:
    """Return the uid of the one pool that a ConfigMap names as its owner; empty: none, or several."""
    owners = item["metadata"].get("ownerReferences") or ()
    uids = {owner["uid"] for owner in owners if owner["kind"] == AOAIBackendPool.KIND}
    return uids.pop() if len(uids) == 1 else ""


def _edited(items: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Return the ConfigMaps of tenants that are not what they themselves say: no writing of ours is seen so."""
    told = {name: (item["metadata"].get("annotations") or {}).get(REVISION) for name, item in items.items()}
    texts = {name: (item.get("data") or {}).get(_TENANTS) for name, item in items.items()}
    return {name for name, text in texts.items() if text is not None and _text_digest(text) != told[name]}


def _beyond(table: RoutingTable) -> str:
    """Return what a table names that its pool may not use; empty: nothing.

    A pool names Secrets of its own namespace, a tenant of its own: a table that names others was made by nobody of us,
    and would have the operator send them wherever it says.
    """
    if any(endpoint.credential.namespace != table.namespace for endpoint in table.endpoints):
        return "an endpoint's credential in another namespace than the pool's"
    if "/" in table.tls_secret:
        return "a serving certificate in another namespace than the pool's"
    if any(ref.namespace != tenant.namespace for tenant in table.tenants for ref in tenant.api_keys):
        return "a tenant's key in another namespace than the tenant's"
    return ""


def _owner(items: Mapping[str, Mapping[str, Any]], table: RoutingTable) -> str:
    """Return the uid of the pool that owns all of these, if they are labelled as they should be; else nothing."""
    uids = set()
    for item in items.values():
        labelled = {**MANAGED_BY, POOL_LABEL: table.name}.items() <= (item["metadata"].get("labels") or {}).items()
        uids.add(_owned_by(item) if labelled else "")
    head = items[routing_name(table.name)]
    wanted = {REVISION: table.revision, WRITTEN: _text_digest(head["data"][_TABLE])}
    told = wanted.items() <= (head["metadata"].get("annotations") or {}).items()
    return uids.pop() if len(uids) == 1 and told else ""


def _read(
    pool: PoolKey, name: str, by_name: Mapping[str, Mapping[str, str]], *, edited: set[str], known: Text | None
) -> tuple[Read, set[str]]:
    """Return what they hold, and the names of those that make it up."""
    text = by_name[name][_TABLE]
    digest = _whole_digest(text)
    same = known if known is not None and known.digest == digest else None
    found = {} if same else _loaded(text)
    document = found.get("table", {})
    if not same and _digest(document) != found["digest"]:
        refused = f"the ConfigMap {pool.namespace}/{name} was edited: it is not what its digest says"
        return Read(refused=refused), set()
    digests = same.shards if same else tuple(found["shards"])
    wanted = {shard_name(pool.name, i): digest for i, digest in enumerate(digests)}
    for shard, told in wanted.items():
        tenants = by_name.get(shard, {}).get(_TENANTS)
        if tenants is None or _text_digest(tenants) != told:
            why = f"the ConfigMap {pool.namespace}/{shard} was edited: it is not what its digest says"
            return Read(refused=why if shard in edited else ""), set()
    table = same.table if same else _table(document, [by_name[shard][_TENANTS] for shard in wanted])
    if table.key != pool:
        return Read(refused=f"the ConfigMap {pool.namespace}/{name} holds the table of the pool {table.key}"), set()
    if beyond := _beyond(table):
        return Read(refused=f"the ConfigMap {pool.namespace}/{name} names {beyond}"), set()
    return Read(table=table, text=same or Text(digest, table, digests)), {name, *wanted}


def _table(document: Json, shards: Sequence[str]) -> RoutingTable:
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


def _loaded(text: str) -> Any:
    """Load YAML that anybody may have written.

    Raises:
        ValueError: it has aliases, which may stand for endlessly much, or is nested so deeply that the loader, which
            calls itself, would take the whole process with it.
    """
    depth = 0
    for event in yaml.parse(text, _LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _DEEPEST or isinstance(event, yaml.AliasEvent):
            raise ValueError
    return yaml.load(text, _LOADER)  # noqa: S506 - a safe one, in C where there is one


def _digest(document: object) -> str:
    return _text_digest(json.dumps(document, sort_keys=True, separators=(",", ":")))


def _text_digest(text: str) -> str:
    return _whole_digest(text)[:16]


def _whole_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

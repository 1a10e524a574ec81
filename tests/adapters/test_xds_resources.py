"""From dictionaries to bytes."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import extension_pb2
from envoy.extensions.filters.http.lua.v3 import lua_pb2
from xds.type.v3 import typed_struct_pb2

from aoai_operator.adapters.xds_cache import SnapshotCache
from aoai_operator.adapters.xds_resources import EXTENSION_MODULES, ConversionError, pack, to_any
from aoai_operator.core.envoy.snapshot import Resource, Snapshot, TypeUrl

LUA = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"
CODES = {f"code-{i}": {"inline_string": f"-- {i}"} for i in range(20)}


def extension(**config: Any) -> Resource:
    return Resource("x", {"name": "x", "typed_config": config})


def cluster(name: str, **fields: Any) -> tuple[TypeUrl, Resource]:
    return TypeUrl.CLUSTER, Resource(name, {"name": name, **fields}, owner=f"ns/{name}")


@pytest.mark.parametrize("module", EXTENSION_MODULES)
def test_every_extension_module_exists(module: str) -> None:
    assert import_module(module).DESCRIPTOR.name


def test_bodies_are_written_as_in_envoys_documentation() -> None:
    _, resource = cluster(
        "c", type="EDS", connect_timeout="1.500s", circuit_breakers={"thresholds": [{"max_retries": 7}]}
    )
    packed = to_any(TypeUrl.CLUSTER, resource)
    message = cluster_pb2.Cluster.FromString(packed.value)
    assert packed.type_url == TypeUrl.CLUSTER
    assert (message.connect_timeout.ToMilliseconds(), message.circuit_breakers.thresholds[0].max_retries.value) == (
        1500,
        7,
    )


def test_a_type_that_the_protos_lack_travels_as_a_typed_struct() -> None:
    nested = {"@type": "type.googleapis.com/envoy.nobody.v9.Inner", "a": 1}
    packed = pack(TypeUrl.EXTENSION, extension(**{"@type": "type.googleapis.com/envoy.nobody.v9.X", "inner": nested}))
    inner = extension_pb2.TypedExtensionConfig.FromString(packed).typed_config
    wrapped = typed_struct_pb2.TypedStruct.FromString(inner.value)
    assert inner.type_url == "type.googleapis.com/xds.type.v3.TypedStruct"
    assert wrapped.type_url == "type.googleapis.com/envoy.nobody.v9.X"
    assert wrapped.value["inner"]["@type"] == nested["@type"]


def test_the_body_is_left_as_it_was() -> None:
    resource = extension(**{"@type": LUA, "source_codes": CODES})
    before = list(resource.body["typed_config"])
    pack(TypeUrl.EXTENSION, resource)
    assert list(resource.body["typed_config"]) == before


def test_equal_bodies_give_equal_bytes_whatever_their_order_and_process() -> None:
    backwards = dict(reversed(CODES.items()))
    one = pack(TypeUrl.EXTENSION, extension(**{"@type": LUA, "source_codes": CODES}))
    other = pack(TypeUrl.EXTENSION, extension(**{"source_codes": backwards, "@type": LUA}))
    program = (
        "from aoai_operator.adapters.xds_resources import *\n"
        f"body = {{'name': 'x', 'typed_config': {{'@type': {LUA!r}, 'source_codes': {backwards!r}}}}}\n"
        "print(pack(TypeUrl.EXTENSION, Resource('x', body)).hex())"
    )
    elsewhere = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert one == other == bytes.fromhex(elsewhere)
    config = extension_pb2.TypedExtensionConfig.FromString(one).typed_config
    assert len(lua_pb2.Lua.FromString(config.value).source_codes) == len(CODES)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"name": "c", "no_such_field": 1}, "no_such_field"),
        ({"name": "c", "connect_timeout": "soon"}, "connect"),
        ({"name": "c", "type": "MAGIC"}, "type"),
        ({"name": "c", "circuit_breakers": {"thresholds": [{"max_retries": -1}]}}, "maxRetries"),
        ({"name": "c", "transport_socket": {"name": "x", "typed_config": {"a": 1}}}, "typedConfig"),
        ({"name": "c", "transport_socket": 5}, "transport"),
    ],
)
def test_an_error_names_resource_and_field(body: dict[str, Any], words: str) -> None:
    with pytest.raises(ConversionError) as caught:
        pack(TypeUrl.CLUSTER, Resource("c", body))
    assert "Cluster c:" in str(caught.value)
    assert words.replace("_", "").lower() in str(caught.value).replace("_", "").lower()


@pytest.mark.parametrize(
    "value", [{"inline_bytes": "s3cret!"}, {"inline_string": ["s3cret"]}, {"inline_string": {"s3cret": 1}}, "s3cret"]
)
def test_an_error_never_tells_a_secret(value: Any) -> None:
    resource = Resource("key", {"name": "key", "generic_secret": {"secret": value}})
    with pytest.raises(ConversionError) as caught:
        pack(TypeUrl.SECRET, resource)
    assert "Secret key" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


class Counting:
    """Packs, and counts."""

    def __init__(self) -> None:
        self.packed: list[str] = []
        self.told: list[str] = []
        self.cache = SnapshotCache(self)
        self.cache.watch(self.told.append)

    def __call__(self, type_url: TypeUrl, resource: Resource) -> bytes:
        self.packed.append(resource.name)
        return pack(type_url, resource)

    def versions(self) -> dict[str, str]:
        current = self.cache.current("g")
        assert current is not None
        return {name: r.version for name, r in current.resources[TypeUrl.CLUSTER].items()}


def test_only_what_changed_is_encoded_again() -> None:
    counting = Counting()
    assert counting.cache.current("g") is None
    counting.cache.publish("g", Snapshot.of([cluster("a"), cluster("b")]))
    counting.cache.publish("g", Snapshot.of([cluster("a"), cluster("b", type="STATIC")]))
    counting.cache.publish("g", Snapshot.of([cluster("a"), cluster("b", type="STATIC")]))
    assert counting.packed == ["a", "b", "b"]
    assert counting.told == ["g", "g"]


def test_what_cannot_be_encoded_keeps_its_last_good_version_and_is_reported() -> None:
    counting = Counting()
    good = counting.cache.publish("g", Snapshot.of([cluster("a")]))
    _, first = cluster("a")
    _, broken = cluster("a", nonsense=1)
    bad = counting.cache.publish("g", Snapshot.of([(TypeUrl.CLUSTER, broken), cluster("b", nonsense=1), cluster("c")]))
    assert good == []
    assert [(b.type_url, b.name, b.owner) for b in bad] == [
        (TypeUrl.CLUSTER, "a", "ns/a"),
        (TypeUrl.CLUSTER, "b", "ns/b"),
    ]
    assert bad[0].version == broken.version
    assert "nonsense" in bad[0].message
    assert counting.versions() == {"a": first.version, "c": cluster("c")[1].version}


def test_gateways_are_apart() -> None:
    counting = Counting()
    counting.cache.publish("g", Snapshot.of([cluster("a")]))
    assert counting.cache.current("other") is None

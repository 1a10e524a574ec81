"""Which route configuration a path belongs to, also where names look like a part of the path."""

from __future__ import annotations

from typing import Any

import pytest

from aoai_operator.core.compiler import compile_world
from aoai_operator.core.envoy.settings import GatewaySettings
from aoai_operator.core.envoy.snapshot import Snapshot, TypeUrl
from aoai_operator.core.envoy.translate import translate
from aoai_operator.core.world import World
from support.resources import pool

SETTINGS = GatewaySettings(gateway="default", listen_host="0.0.0.0", listen_port=8080)


def snapshot(*names: tuple[str, str]) -> Snapshot:
    pools = tuple(pool(name, namespace=namespace) for namespace, name in names)
    compiled = compile_world(World(pools=pools))
    return translate(list(compiled.tables.values()), {}, World().overrides, SETTINGS)


def route_of(found: Snapshot, path: str) -> str:
    """Return the name of the route that a path takes, as Envoy finds it: the scope, then the first that matches."""
    key = path.split("/openai/", maxsplit=1)[0]
    scopes = {s.body["key"]["fragments"][0]["string_key"]: s.body for s in found.resources[TypeUrl.SCOPE].values()}
    if key not in scopes:
        return ""
    hosts = found.resources[TypeUrl.ROUTE][scopes[key]["route_configuration_name"]].body["virtual_hosts"]
    routes: list[dict[str, Any]] = next(h["routes"] for h in hosts if h["domains"] == ["*"])
    match = next(r for r in routes if _matches(r["match"], path))
    return str(match["name"]).rpartition("|")[0] or str(match["name"])


def _matches(match: dict[str, Any], path: str) -> bool:
    return path == match["path"] if "path" in match else path.startswith(match["prefix"])


@pytest.mark.parametrize(
    ("namespace", "name"),
    [("ai", "chat"), ("openai", "chat"), ("ai", "openai"), ("openai", "openai"), ("a", "healthz")],
)
def test_every_name_is_reached(namespace: str, name: str) -> None:
    found = snapshot((namespace, name), ("ai", "other"))
    prefix = f"/{namespace}/{name}"
    assert route_of(found, f"{prefix}/openai/v1/embeddings") == f"{namespace}/{name}|{len(prefix)}|any|gpt-4o"
    assert route_of(found, f"{prefix}/healthz") == "health"
    assert route_of(found, "/ai/other/openai/v1/embeddings") == "ai/other|9|any|gpt-4o"


def test_a_gateway_of_one_pool_has_its_own_address() -> None:
    assert route_of(snapshot(("ai", "chat")), "/openai/v1/embeddings") == "ai/chat|0|any|gpt-4o"
    assert route_of(snapshot(("ai", "chat"), ("ai", "b")), "/openai/v1/embeddings") == "nothing"
    assert route_of(snapshot(("ai", "chat")), "/healthz") == "health"
    assert route_of(snapshot(("ai", "chat")), "/ai/unknown/openai/v1/embeddings") == ""

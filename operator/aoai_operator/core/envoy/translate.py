"""translate(): routing tables, secrets and observations in, all Envoy resources of a gateway out. Pure and total."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from aoai_operator.core.credentials import read_key
from aoai_operator.core.envoy.clusters import clusters
from aoai_operator.core.envoy.endpoints import load_assignments
from aoai_operator.core.envoy.extensions import lua_filter
from aoai_operator.core.envoy.listeners import https_listener, listener
from aoai_operator.core.envoy.scopes import gateway_scopes, has_scope, pool_scopes
from aoai_operator.core.envoy.secrets import certificate, credentials
from aoai_operator.core.envoy.settings import GatewaySettings
from aoai_operator.core.envoy.snapshot import Resource, Snapshot, TypeUrl
from aoai_operator.core.envoy.virtualhosts import gateway_configuration, https_configuration, pool_configuration
from aoai_operator.core.names import SecretRef
from aoai_operator.core.observed import Overrides
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.table import RoutingTable


def translate(
    tables: Sequence[RoutingTable],
    secrets: Mapping[SecretRef, SecretValue],
    overrides: Overrides,
    settings: GatewaySettings,
) -> Snapshot:
    """Return the snapshot of the gateway that `settings` names; tables of other gateways are left out.

    Pools are taken in the order of their keys, so that equal input gives equal output, whatever its order.
    """
    mine = [_resolved(t, secrets) for t in sorted(tables, key=lambda t: t.key) if t.gateway == settings.gateway]
    return Snapshot.of(_resources(mine, secrets, overrides, settings))


def _resolved(table: RoutingTable, secrets: Mapping[SecretRef, SecretValue]) -> RoutingTable:
    """Return the table with every endpoint out of use whose key cannot be read now: a held table may be older."""
    endpoints = tuple(
        e.model_copy(update={"usable": isinstance(read_key(secrets, e.credential), SecretValue)})
        for e in table.endpoints
    )
    return table if endpoints == table.endpoints else table.model_copy(update={"endpoints": endpoints})


def _resources(
    tables: Sequence[RoutingTable],
    secrets: Mapping[SecretRef, SecretValue],
    overrides: Overrides,
    settings: GatewaySettings,
) -> Iterator[tuple[TypeUrl, Resource]]:
    by_tls = [t for t in tables if t.tls_secret and settings.tls_port is not None]
    plain = [t for t in tables if not t.tls_secret or settings.tls_port is None]
    yield TypeUrl.LISTENER, listener(settings)
    yield TypeUrl.EXTENSION, lua_filter()
    yield TypeUrl.ROUTE, gateway_configuration(settings.gateway, plain, secrets, overrides, everywhere=tables)
    for scope in gateway_scopes(settings.gateway):
        yield TypeUrl.SCOPE, scope
    for table in filter(has_scope, plain):
        yield TypeUrl.ROUTE, pool_configuration(table, secrets, overrides)
        for scope in pool_scopes(table):
            yield TypeUrl.SCOPE, scope
    yield from _by_https(by_tls, secrets, overrides, settings)
    for table in tables:
        yield from _upstream(table, secrets, overrides, settings)


def _by_https(
    tables: Sequence[RoutingTable],
    secrets: Mapping[SecretRef, SecretValue],
    overrides: Overrides,
    settings: GatewaySettings,
) -> Iterator[tuple[TypeUrl, Resource]]:
    """Yield what serves the pools with a certificate, which are never served without it.

    Envoy keeps a listener waiting whose certificate does not come: so a pool that has none that could be served, or
    no host name by which it could be chosen, takes no part. A listener must have a filter chain, too.
    """
    found = [(table, pair) for table in tables if table.hostnames and (pair := certificate(table, secrets))]
    if settings.tls_port is None or not found:
        return
    yield TypeUrl.LISTENER, https_listener(settings, settings.tls_port, [table for table, _ in found])
    for table, pair in found:
        yield TypeUrl.SECRET, pair
        yield TypeUrl.ROUTE, https_configuration(table, secrets, overrides)


def _upstream(
    table: RoutingTable,
    secrets: Mapping[SecretRef, SecretValue],
    overrides: Overrides,
    settings: GatewaySettings,
) -> Iterator[tuple[TypeUrl, Resource]]:
    """Yield what leads from a pool to its endpoints."""
    for secret in credentials(table, secrets):
        yield TypeUrl.SECRET, secret
    for cluster in clusters(table, settings):
        yield TypeUrl.CLUSTER, cluster
    for assignment in load_assignments(table, overrides):
        yield TypeUrl.ENDPOINT, assignment

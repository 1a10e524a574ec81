"""translate(): routing tables, secrets and observations in, all Envoy resources of a gateway out. Pure and total."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from aoai_operator.core.envoy.clusters import clusters
from aoai_operator.core.envoy.endpoints import load_assignments
from aoai_operator.core.envoy.extensions import lua_filter
from aoai_operator.core.envoy.ledger import ledger_cluster
from aoai_operator.core.envoy.listeners import https_listener, listener
from aoai_operator.core.envoy.scopes import gateway_scopes, has_scope, pool_scopes
from aoai_operator.core.envoy.secrets import certificate, credential, credentials
from aoai_operator.core.envoy.settings import CONTROL_PLANE, GatewaySettings
from aoai_operator.core.envoy.snapshot import Resource, Resources, Snapshot, TypeUrl
from aoai_operator.core.envoy.tokens import tokens_filter
from aoai_operator.core.envoy.virtualhosts import gateway_configuration, https_configuration, pool_configuration
from aoai_operator.core.names import PoolKey, SecretRef
from aoai_operator.core.observed import Overrides
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.table import Endpoint, RoutingTable


def translate(
    tables: Sequence[RoutingTable],
    secrets: Mapping[SecretRef, SecretValue],
    overrides: Overrides,
    settings: GatewaySettings,
) -> Snapshot:
    """Return the snapshot of the gateway that `settings` names; tables of other gateways are left out.

    Equal input gives equal output, whatever its order.
    """
    return Translator()(tables, secrets, overrides, settings)


class Translator:
    """translate(), for calls one after the other: a pool of which nothing changed is not translated again."""

    def __init__(self) -> None:
        self._pools: dict[PoolKey, _Pool] = {}
        self._shared: Resources = {}
        self._snapshot = Snapshot.of(())
        self._last: tuple[Overrides, GatewaySettings] | None = None

    def __call__(
        self,
        tables: Sequence[RoutingTable],
        secrets: Mapping[SecretRef, SecretValue],
        overrides: Overrides,
        settings: GatewaySettings,
    ) -> Snapshot:
        """Return what translate() returns."""
        stirred = self._stirred(overrides, settings)
        pools: dict[PoolKey, _Pool] = {}
        for table in sorted((t for t in tables if t.gateway == settings.gateway), key=lambda t: t.key):
            known = self._pools.get(table.key)
            if known is None or table.key in stirred or not known.is_of(table, secrets):
                known = _Pool.of(table, secrets, overrides, settings)
            pools[table.key] = known
        shared = Snapshot.of(_shared([p.table for p in pools.values()], secrets, overrides, settings)).resources
        self._snapshot = self._snapshot.replacing([*self._replaced(pools), (self._shared, shared)])
        self._pools, self._shared, self._last = pools, shared, (overrides, settings)
        return self._snapshot

    def _replaced(self, pools: Mapping[PoolKey, _Pool]) -> Iterator[tuple[Resources, Resources]]:
        """Yield what the pools that came, went or changed had, and what they have now."""
        for key, pool in pools.items():
            before = self._pools.get(key)
            if before is not pool:
                yield before.resources if before else {}, pool.resources
        for key in self._pools.keys() - pools.keys():
            yield self._pools[key].resources, {}

    def _stirred(self, overrides: Overrides, settings: GatewaySettings) -> Container[PoolKey]:
        """Return the pools of which something else is observed now than at the last call."""
        before = self._last
        if before is None or before[1] != settings:
            return self._pools
        return overrides.pools_that_differ(before[0])


@dataclass(frozen=True, slots=True)
class _Pool:
    """What was made of a pool, and of what: its table, and the secrets that it refers to."""

    source: RoutingTable
    refs: tuple[SecretRef, ...]
    values: tuple[SecretValue | None, ...] = field(repr=False)
    table: RoutingTable
    resources: Resources

    @classmethod
    def of(
        cls,
        source: RoutingTable,
        secrets: Mapping[SecretRef, SecretValue],
        overrides: Overrides,
        settings: GatewaySettings,
    ) -> _Pool:
        table, refs = _resolved(source, secrets, overrides), source.secret_refs
        resources: dict[TypeUrl, dict[str, Resource]] = {}
        for url, resource in _own(table, secrets, overrides, settings):
            resources.setdefault(url, {})[resource.name] = resource
        return cls(source, refs, tuple(map(secrets.get, refs)), table, resources)

    def is_of(self, source: RoutingTable, secrets: Mapping[SecretRef, SecretValue]) -> bool:
        same = source is self.source or source == self.source
        return same and tuple(map(secrets.get, self.refs)) == self.values


def _resolved(table: RoutingTable, secrets: Mapping[SecretRef, SecretValue], overrides: Overrides) -> RoutingTable:
    """Return the table with every endpoint out of use that has no credential now: a held table may be older."""

    def usable(endpoint: Endpoint) -> bool:
        grant = overrides.grants.get(table.endpoint_key(endpoint.name))
        # What Secrets hold may have changed since the table was compiled; who is trusted with tokens has not.
        allowed = endpoint.usable or endpoint.identity is None
        return allowed and credential(endpoint, secrets, grant) is not None

    endpoints = tuple(e.model_copy(update={"usable": usable(e)}) for e in table.endpoints)
    return table if endpoints == table.endpoints else table.model_copy(update={"endpoints": endpoints})


def _shared(
    tables: Sequence[RoutingTable],
    secrets: Mapping[SecretRef, SecretValue],
    overrides: Overrides,
    settings: GatewaySettings,
) -> Iterator[tuple[TypeUrl, Resource]]:
    """Yield what pools share. As little as can be: a change of any pool makes it anew, and sends it whole."""
    yield TypeUrl.LISTENER, listener(settings)
    if settings.ledger is not None and settings.ledger != CONTROL_PLANE:
        yield TypeUrl.CLUSTER, ledger_cluster(settings.ledger)
    yield TypeUrl.EXTENSION, lua_filter(settings)
    yield TypeUrl.EXTENSION, tokens_filter(tables, overrides.issuers)
    plain = [t for t in tables if not _by_tls(t, settings)]
    yield TypeUrl.ROUTE, gateway_configuration(settings.gateway, plain, secrets, overrides, everywhere=tables)
    for scope in gateway_scopes(settings.gateway):
        yield TypeUrl.SCOPE, scope
    served = [t for t in tables if _by_tls(t, settings) and t.hostnames and certificate(t, secrets)]
    if settings.tls_port is not None and served:  # a listener must have a filter chain
        yield TypeUrl.LISTENER, https_listener(settings, settings.tls_port, served)


def _by_tls(table: RoutingTable, settings: GatewaySettings) -> bool:
    return bool(table.tls_secret) and settings.tls_port is not None


def _own(
    table: RoutingTable,
    secrets: Mapping[SecretRef, SecretValue],
    overrides: Overrides,
    settings: GatewaySettings,
) -> Iterator[tuple[TypeUrl, Resource]]:
    """Yield all that is a pool's own."""
    if _by_tls(table, settings):
        yield from _by_https(table, secrets, overrides)
    elif has_scope(table):
        yield TypeUrl.ROUTE, pool_configuration(table, secrets, overrides)
        for scope in pool_scopes(table):
            yield TypeUrl.SCOPE, scope
    yield from _upstream(table, secrets, overrides, settings)


def _by_https(
    table: RoutingTable, secrets: Mapping[SecretRef, SecretValue], overrides: Overrides
) -> Iterator[tuple[TypeUrl, Resource]]:
    """Yield what serves a pool with a certificate, which is never served without it.

    Envoy keeps a listener waiting whose certificate does not come: so a pool that has none that could be served, or
    no host name by which it could be chosen, takes no part.
    """
    pair = certificate(table, secrets)
    if pair is not None and table.hostnames:
        yield TypeUrl.SECRET, pair
        yield TypeUrl.ROUTE, https_configuration(table, secrets, overrides)


def _upstream(
    table: RoutingTable,
    secrets: Mapping[SecretRef, SecretValue],
    overrides: Overrides,
    settings: GatewaySettings,
) -> Iterator[tuple[TypeUrl, Resource]]:
    """Yield what leads from a pool to its endpoints."""
    for secret in credentials(table, secrets, overrides):
        yield TypeUrl.SECRET, secret
    for cluster in clusters(table, settings):
        yield TypeUrl.CLUSTER, cluster
    for assignment in load_assignments(table, overrides):
        yield TypeUrl.ENDPOINT, assignment

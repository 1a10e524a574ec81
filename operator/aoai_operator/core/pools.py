"""One pool's routing table: its resource, resolved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from aoai_operator.core.api import (
    AOAIBackendPool,
    Deployment,
    NamespacesFrom,
    Prices,
    ProbePath,
    RetryReason,
    Sidecars,
    Strategy,
    milliseconds,
)
from aoai_operator.core.api import Endpoint as EndpointSpec
from aoai_operator.core.certificates import Standing, examine
from aoai_operator.core.conditions import ConditionReason
from aoai_operator.core.credentials import Unreadable, discovery_secrets, endpoint_secret, missing, read_key
from aoai_operator.core.discovery import FoundEndpoint, field_of, is_trusted, source_of
from aoai_operator.core.entra import identity_of
from aoai_operator.core.findings import Finding
from aoai_operator.core.names import SecretRef
from aoai_operator.core.table import (
    Endpoint,
    Failover,
    Health,
    Host,
    Identity,
    Model,
    RoutingTable,
    Tenant,
    Throttling,
    Timeouts,
    TokenIssuer,
    TokenRates,
    tls_refs,
)
from aoai_operator.core.trusted import is_authority, takes_tokens
from aoai_operator.core.world import World

_STATUSES: dict[RetryReason, tuple[int, ...]] = {
    RetryReason.THROTTLED: (429,),
    RetryReason.SERVER_ERROR: (500, 502, 503, 504),
    RetryReason.TIMEOUT: (408,),
    RetryReason.AUTH: (401, 403),
    RetryReason.DEPLOYMENT_NOT_FOUND: (404,),
    RetryReason.BUSY: (424,),
}
"""Which answers of Azure each reason covers. Source: docs/architecture.md, "Which errors another region can answer"."""


_STRATEGIES: dict[Strategy, Literal["Headroom", "Weighted", "LeastRequest"]] = {
    Strategy.HEADROOM: "Headroom",
    Strategy.WEIGHTED: "Weighted",
    Strategy.LEAST_REQUEST: "LeastRequest",
}
_PROBES: dict[ProbePath, Literal["Models", "Deployment"] | None] = {
    ProbePath.MODELS: "Models",
    ProbePath.DEPLOYMENT: "Deployment",
    ProbePath.DISABLED: None,
}


def credential_refs(pool: AOAIBackendPool) -> tuple[SecretRef, ...]:
    """Return the Secret's entry of each endpoint that needs one."""
    namespace, discovery = pool.metadata.namespace, pool.spec.discovery
    found = (endpoint_secret(namespace, e.auth) for e in pool.spec.endpoints)
    return (
        *(ref for ref in found if ref is not None),
        *(discovery_secrets(namespace, discovery.azure) if discovery else ()),
    )


def pool_table(
    world: World, pool: AOAIBackendPool, hostnames: tuple[str, ...], tenants: Sequence[Tenant]
) -> tuple[RoutingTable | None, list[Finding]]:
    """Return the pool's table, or None when no model of it has a deployment; and what is wrong with the pool."""
    endpoints, findings = [], []
    for i, declared in enumerate(pool.spec.endpoints):
        endpoint, problem = _endpoint(world, pool, declared, i)
        endpoints.append(endpoint)
        findings += [problem] if problem else []
    findings += [*_unknown_tenants(pool, tenants), *_undiscoverable(world, pool)]
    tls_secret, problem = _serving(world, pool, hostnames)
    findings += [problem] if problem else []
    models, gaps = _models(pool)
    findings += gaps
    if not models:
        return None, findings
    spec = pool.spec
    table = RoutingTable(
        namespace=pool.metadata.namespace,
        name=pool.metadata.name,
        gateway=spec.gateway.name,
        hostnames=hostnames,
        tls_secret=tls_secret,
        sidecars=spec.gateway.sidecars is Sidecars.ALLOWED,
        namespaces=_namespaces(pool),
        strategy=_STRATEGIES[spec.balancing.strategy],
        auth_required=spec.auth.required,
        issuers=tuple(_issuers(pool)),
        max_request_bytes=spec.limits.max_request_bytes,
        max_concurrent_requests=spec.limits.max_concurrent_requests,
        failover=_failover(pool),
        throttling=Throttling(
            honor_retry_after=spec.throttling.honor_retry_after,
            max_retry_after_ms=milliseconds(spec.throttling.max_retry_after),
            ramp_up_ms=milliseconds(spec.throttling.ramp_up),
        ),
        lend_idle_ms=_lend_idle(pool),
        health=_health(pool),
        timeouts=Timeouts(
            request_ms=milliseconds(spec.timeouts.request),
            idle_ms=milliseconds(spec.timeouts.idle),
            connect_ms=milliseconds(spec.timeouts.connect),
        ),
        endpoints=tuple(endpoints),
        models=tuple(models),
        tenants=tuple(tenants),
    )
    return table, findings


def _serving(world: World, pool: AOAIBackendPool, hostnames: tuple[str, ...]) -> tuple[str, Finding | None]:
    """Return the Secret with the pool's serving certificate, "" for none; and what is wrong with the one asked for.

    Is another one named, and worse than the one that serves, that one goes on.
    """
    if pool.spec.gateway.tls is None:
        return "", None

    def examined(name: str) -> tuple[Standing, Unreadable | None]:
        refs = tls_refs(pool.metadata.namespace, name)
        return examine(world.secrets, refs, hostnames=hostnames, now=world.now)

    wanted = pool.spec.gateway.tls.secret_ref.name
    standing, wrong = examined(wanted)
    if wrong is None:
        return wanted, None
    last = world.last_good.get(pool.key)
    held = last.tls_secret if last else ""
    problem = _finding(pool, wrong.fault, "spec.gateway.tls.secretRef", wrong.message, wrong.mend)
    return held if held and examined(held)[0] > standing else wanted, problem


def _issuers(pool: AOAIBackendPool) -> Iterator[TokenIssuer]:
    """Yield whose tokens a pool takes. Entra ID has two issuers: an application's manifest says which one is its own.

    Source: Microsoft identity platform, "Access tokens", on versions; `accessTokenAcceptedVersion`.
    """
    auth = pool.spec.auth
    if entra := auth.entra:
        directory = f"{entra.authority_host.rstrip('/')}/{entra.tenant_id.lower()}"
        for url in (directory, f"{directory}/v2.0"):
            yield TokenIssuer(kind="entra", url=url, audience=entra.audience)
    if accounts := auth.service_accounts:
        yield TokenIssuer(kind="serviceAccount", url=accounts.issuer.rstrip("/"), audience=accounts.audience)


def _namespaces(pool: AOAIBackendPool) -> tuple[str, ...]:
    allowed = pool.spec.allowed_namespaces
    if allowed.from_ is NamespacesFrom.ALL:
        return ("*",)
    return tuple(sorted({pool.metadata.namespace, *allowed.names}))


def _endpoint(world: World, pool: AOAIBackendPool, spec: EndpointSpec, index: int) -> tuple[Endpoint, Finding | None]:
    where = field_of(pool, index)
    ref = endpoint_secret(pool.metadata.namespace, spec.auth)
    identity: Identity | None
    if isinstance(spec, FoundEndpoint) and spec.account:
        identity, problem, usable = _keys_of(pool, spec.account), None, True
    elif spec.auth.entra is None:
        identity, (problem, usable) = None, _with_key(world, pool, ref, where)
    else:
        identity = identity_of(spec.auth.entra, ref, scope=spec.auth.entra.scope)
        problem, usable = _with_token(world, pool, spec, identity, where)
    endpoint = Endpoint(
        name=spec.name,
        scheme="https" if spec.tls else "http",
        host=spec.host,
        port=spec.port,
        region=spec.region,
        priority=spec.priority,
        drain=spec.drain,
        credential=None if identity else ref,
        identity=identity,
        dedicated_to=tuple(sorted(str(t.key(pool.metadata.namespace)) for t in spec.dedicated_to or ())),
        usable=usable,
        found=isinstance(spec, FoundEndpoint),
    )
    return endpoint, problem


def _keys_of(pool: AOAIBackendPool, account: str) -> Identity | None:
    """Return who asks Azure Resource Manager for the keys of an account."""
    source = source_of(pool)
    if source is None:
        return None
    return source.identity.model_copy(update={"account": account, "manager": source.manager})


def _with_key(world: World, pool: AOAIBackendPool, ref: SecretRef | None, where: str) -> tuple[Finding | None, bool]:
    """Return what is wrong with an endpoint's API key, and whether it can be used."""
    value = read_key(world.secrets, ref) if ref else None
    if not isinstance(value, Unreadable):
        return None, True
    return _finding(pool, value.fault, f"{where}.auth.apiKey.secretRef", value.message, value.mend), False


def _with_token(
    world: World, pool: AOAIBackendPool, spec: EndpointSpec, identity: Identity, where: str
) -> tuple[Finding | None, bool]:
    """Return what is wrong with an endpoint that is called with tokens, and whether it may have one.

    What the identity proves itself with may be missing: the last token is good until it is over.
    """
    hosts = world.token_hosts
    if not takes_tokens("https" if spec.tls else "http", spec.host, hosts):
        message = f"a token of Entra ID goes to Azure's own hosts alone, by https, and not to {spec.url}"
        mend = "give its apiKey, or have the operator trust the host (--token-host; in the chart entra.tokenHosts)"
        return _finding(pool, ConditionReason.HOST_NOT_TRUSTED, f"{where}.url", message, mend), False
    if not is_authority(identity.authority_host, hosts):
        field, message = f"{where}.auth.entra.authorityHost", f"{identity.authority_host} is not one of Entra ID"
        mend = "leave it out, or have the operator trust the host (--token-host; in the chart entra.tokenHosts)"
        return _finding(pool, ConditionReason.HOST_NOT_TRUSTED, field, message, mend), False
    if identity.credential is None or identity.credential in world.secrets:
        return None, True
    value = missing(world.secrets, identity.credential)
    name = "clientSecret" if identity.kind == "secret" else "clientCertificate"
    field = f"{where}.auth.entra.{name}.secretRef"
    return _finding(pool, value.fault, field, value.message, value.mend), True


def _unknown_tenants(pool: AOAIBackendPool, tenants: Sequence[Tenant]) -> Iterator[Finding]:
    known = {tenant.key for tenant in tenants}
    for i, endpoint in enumerate(pool.spec.endpoints):
        for j, ref in enumerate(endpoint.dedicated_to or ()):
            if (key := str(ref.key(pool.metadata.namespace))) not in known:
                message = f"the pool has no tenant {key}, and nobody else has the endpoint in its place"
                mend = "apply its TenantQuota, or name another one"
                field = f"{field_of(pool, i)}.dedicatedTo[{j}]"
                yield _finding(pool, ConditionReason.TENANT_NOT_FOUND, field, message, mend)


def _undiscoverable(world: World, pool: AOAIBackendPool) -> Iterator[Finding]:
    """Yield why Azure must not be asked for a pool's endpoints, or cannot be with what there is."""
    source = source_of(pool)
    if source is None:
        return
    where = "spec.discovery.azure"
    if not is_trusted(source, world.token_hosts):
        authority = source.identity.authority_host
        odd, field = (source.manager, "resourceManager")
        if not is_authority(authority, world.token_hosts):
            odd, field = (authority, "identity.authorityHost")
        message = f"{odd} is not one of Azure, and gets no token that opens its management"
        mend = "leave it out, or have the operator trust the host (--token-host; in the chart entra.tokenHosts)"
        yield _finding(pool, ConditionReason.HOST_NOT_TRUSTED, f"{where}.{field}", message, mend)
    elif source.identity.credential and source.identity.credential not in world.secrets:
        value = missing(world.secrets, source.identity.credential)
        name = "clientSecret" if source.identity.kind == "secret" else "clientCertificate"
        yield _finding(pool, value.fault, f"{where}.identity.{name}.secretRef", value.message, value.mend)


def _models(pool: AOAIBackendPool) -> tuple[list[Model], list[Finding]]:
    models, findings = [], []
    for i, spec in enumerate(pool.spec.models):
        served = [(e, d) for e in pool.spec.endpoints for d in e.deployments if d.model == spec.name]
        if served:
            model = Model(
                name=spec.name,
                hosts=tuple(_hosts(served)),
                fallbacks=spec.fallback_models,
                context_tokens=spec.context_tokens or _CONTEXT_TOKENS,
                prices=_rates(spec.prices) if spec.prices else None,
                currency=spec.prices.currency if spec.prices else "",
            )
            models.append(model)
        elif pool.spec.discovery is None:
            message = f"no endpoint has a deployment of the model {spec.name}"
            mend = "add one to an endpoint's deployments, or take the model out"
            findings.append(_finding(pool, ConditionReason.NO_DEPLOYMENT, f"spec.models[{i}].name", message, mend))
    return models, findings


_CONTEXT_TOKENS = 128_000
"""Of a model that says nothing of it: what most models of Azure OpenAI take."""


def _rates(prices: Prices) -> TokenRates:
    cached = prices.input if prices.cached_input is None else prices.cached_input
    return TokenRates(input=prices.input, cached=cached, output=prices.output)


def _hosts(served: Sequence[tuple[EndpointSpec, Deployment]]) -> Iterator[Host]:
    """Yield a model's hosts with their weights.

    Weights that are given are taken as they are, and an endpoint without one then counts as their mean. When none is
    given they follow the configured capacity, the largest being 1000.
    """
    given = [e.weight for e, _ in served if e.weight is not None]
    sizes = _capacities([d for _, d in served])
    capacities = [size for size in sizes if size]
    for (endpoint, deployment), own in zip(served, sizes, strict=True):
        if endpoint.weight is not None:
            weight = endpoint.weight
        elif given:
            weight = round(sum(given) / len(given))
        elif capacities:
            weight = round(1000 * (own or sum(capacities) / len(capacities)) / max(capacities))
        else:
            weight = 1
        yield Host(
            endpoint=endpoint.name,
            deployment=deployment.name,
            priority=endpoint.priority if deployment.priority is None else deployment.priority,
            weight=max(1, weight),
            capacity=deployment.capacity.tokens_per_minute if deployment.capacity else None,
            type=deployment.type.value if deployment.type else "",
            drain=bool(deployment.drain),
        )


def _capacities(deployments: Sequence[Deployment]) -> list[int | None]:
    """Return what compares a model's deployments: tokens a minute, or requests a minute where none tells tokens."""
    known = [d.capacity for d in deployments]
    tokens = [c.tokens_per_minute if c else None for c in known]
    return tokens if any(tokens) else [c.requests_per_minute if c else None for c in known]


def _failover(pool: AOAIBackendPool) -> Failover:
    spec = pool.spec.failover
    return Failover(
        attempts=spec.attempts,
        per_try_timeout_ms=milliseconds(spec.per_try_timeout),
        retry_statuses=tuple(sorted(s for reason in set(spec.retry_on) for s in _STATUSES.get(reason, ()))),
        retry_connect=RetryReason.CONNECT in spec.retry_on,
        retry_timeout=RetryReason.TIMEOUT in spec.retry_on,
    )


def _lend_idle(pool: AOAIBackendPool) -> int | None:
    sharing = pool.spec.sharing
    return milliseconds(sharing.lend_idle_after) if sharing and sharing.lend_idle_after else None


def _health(pool: AOAIBackendPool) -> Health:
    spec = pool.spec.health
    return Health(
        probe=_PROBES[spec.probe.path],
        interval_ms=milliseconds(spec.probe.interval),
        timeout_ms=milliseconds(spec.probe.timeout),
        unhealthy_after=spec.unhealthy_after,
        healthy_after=spec.healthy_after,
    )


def _finding(pool: AOAIBackendPool, fault: ConditionReason, field: str, message: str, mend: str) -> Finding:
    return Finding(kind=pool.KIND, key=pool.key, fault=fault, field=field, message=message, mend=mend)

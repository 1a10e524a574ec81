"""The routing table: what compile() makes of a pool and its tenants, and all that translate() needs of them.

One readable, versioned document for each pool; in a cluster it is the ConfigMap `<pool>-routing`. It holds no
secret, only references to them, and nothing volatile: two compilations of the same resources are equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal, Self

from pydantic import ConfigDict

from aoai_operator.core.envoy.snapshot import content_hash
from aoai_operator.core.frugal import Frugal
from aoai_operator.core.names import EndpointKey, HostKey, PoolKey, SecretRef

TLS_ENTRIES = ("tls.crt", "tls.key")
"""The entries of a Secret of the type kubernetes.io/tls: certificate chain and private key, both PEM."""


def tls_refs(namespace: str, name: str) -> tuple[SecretRef, ...]:
    """Return the entries of a Secret of the type kubernetes.io/tls: certificate, then key."""
    return tuple(SecretRef(namespace, name, key) for key in TLS_ENTRIES)


class _Part(Frugal):
    # While replicas of two versions run side by side, each reads the other's tables: what it does not know it passes
    # over, and a field that is added later needs a default.
    model_config = ConfigDict(frozen=True, extra="ignore")


class Identity(_Part):
    """As whom a token of Entra ID is asked for, and for what: a token, or with one the keys of an account.

    Attributes:
        kind: the operator's own projected token, the node's identity, or an application with a credential.
        client_id, tenant_id, authority_host: empty: as the operator's environment says.
        scope: what the token is for; empty: Azure Resource Manager.
        credential: a client secret, or a certificate with its key.
        account: the resource id of the account whose keys are wanted; empty: the token itself is.
        manager: the URL of Azure Resource Manager, that knows the keys; empty: that of the identity's cloud.
    """

    kind: Literal["workload", "managed", "secret", "certificate"]
    client_id: str = ""
    tenant_id: str = ""
    authority_host: str = ""
    scope: str
    credential: SecretRef | None = None
    account: str = ""
    manager: str = ""


class Endpoint(_Part):
    """One Azure OpenAI resource: where it is, and how it is told who asks: by an API key, or a token of an identity."""

    name: str
    scheme: Literal["https", "http"]
    host: str
    port: int
    region: str
    priority: int
    drain: bool
    credential: SecretRef | None = None
    """Its API key."""
    identity: Identity | None = None
    dedicated_to: tuple[str, ...] = ()
    """The tenants, "namespace/tenant", that it serves alone; empty: everybody."""
    usable: bool = True
    """False when its API key cannot be read, or it must not have a token: the others serve without it."""
    found: bool = False
    """Whether it was found in Azure, and not written down."""

    @property
    def bearer(self) -> bool:
        """Whether it is called with tokens, and not with an API key."""
        return self.identity is not None and not self.identity.account

    @property
    def alternates(self) -> bool:
        """Whether it has two keys, the second for every other attempt: one of them may just have been renewed."""
        return self.identity is not None and bool(self.identity.account)

    @property
    def secrets(self) -> tuple[SecretRef, ...]:
        """The entry of a Secret that it needs, if any: its API key, or what its identity proves itself with."""
        ref = self.identity.credential if self.identity else self.credential
        return () if ref is None else (ref,)


class Host(_Part):
    """One deployment of a model behind an endpoint: a host of the model's cluster.

    `weight` is its share within its priority under `Weighted`, in 1..1000.
    """

    endpoint: str
    deployment: str
    priority: int
    weight: int
    capacity: int | None = None
    """Tokens that Azure gives it in a minute; None: it is not known."""
    type: str = ""
    """How Azure serves and bills it, such as GlobalStandard; empty: it is not known."""
    drain: bool = False
    """Whether it gets no new request, as when its whole endpoint drains."""


class TokenRates(_Part):
    """What a token of each kind counts for, or costs; `cached` are those of the input that Azure had in its cache."""

    input: float = 1.0
    cached: float = 1.0
    output: float = 1.0


class Model(_Part):
    """A model that tenants may ask for, its hosts, and the models that stand in when all of them are out."""

    name: str
    hosts: tuple[Host, ...]
    fallbacks: tuple[str, ...] = ()
    context_tokens: int = 128_000
    """The most tokens that it takes, and the most that it gives: no estimate is higher."""
    prices: TokenRates | None = None
    """Millionths of `currency` a token."""
    currency: str = ""


class PerMinute(_Part):
    """Limits in any 60 s, for the requests of one model, or of all (`model` empty); None is no limit."""

    model: str = ""
    tokens: int | None = None
    requests: int | None = None


class Budget(_Part):
    """The most tokens, or millionths of a currency, in a calendar window of a time zone."""

    period: Literal["Hour", "Day", "Week", "Month"]
    time_zone: str
    tokens: int | None = None
    cost: int | None = None
    currency: str = ""


class Quota(_Part):
    """What a tenant was granted, over all pools and proxies.

    Attributes:
        limits, concurrent, budgets: what it may use; all of it holds.
        enforced: False counts, and refuses nothing.
        strict: reserve the most that a request can use, not what it is expected to.
        deny: let nothing in that the ledger was not asked for, while that is away.
        weights: what a token counts for in limits on tokens.
    """

    limits: tuple[PerMinute, ...] = ()
    concurrent: int | None = None
    budgets: tuple[Budget, ...] = ()
    enforced: bool = True
    strict: bool = False
    deny: bool = False
    weights: TokenRates = TokenRates()

    @property
    def limited(self) -> bool:
        """Whether it limits anything, so that its tenant's requests must be asked for."""
        return bool(self.limits or self.budgets or self.concurrent is not None)


class TokenIssuer(_Part):
    """Whose tokens prove who calls a pool.

    Attributes:
        kind: what a token of it says of its caller.
        url: where OIDC discovery finds its keys, below /.well-known/openid-configuration; empty: the API server.
        audience: whom a token must be for.
    """

    kind: Literal["entra", "serviceAccount"]
    url: str
    audience: str


class Share(_Part):
    """What a tenant was promised of a pool that its tenants share.

    Attributes:
        guaranteed: tokens a minute, of each model, that are kept for it.
        burst: whether it may use more, where others leave it.
        priority: its place where the pool is short.
    """

    guaranteed: int = 0
    burst: bool = True
    priority: Literal["Critical", "Standard", "Sheddable"] = "Standard"


class Tenant(_Part):
    """A tenant of this pool.

    Attributes:
        models: those that it may use; empty: all of the pool's.
        apps, groups: of Entra ID, by object id; service_accounts: of Kubernetes, as "namespace/name".
        spill_over: whether it may use shared endpoints where its own are out.
        quota: its limits, and how they are held; None: nothing is said of that.
        share: what it was promised; None: nothing, as of any tenant.
    """

    namespace: str
    name: str
    models: tuple[str, ...]
    api_keys: tuple[SecretRef, ...]
    apps: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    service_accounts: tuple[str, ...] = ()
    spill_over: bool = False
    quota: Quota | None = None
    share: Share | None = None

    @property
    def key(self) -> str:
        """Its text "namespace/name"."""
        return f"{self.namespace}/{self.name}"


class Failover(_Part):
    """Failover within a request. `per_try_timeout_ms`: to the response headers of one attempt."""

    attempts: int
    per_try_timeout_ms: int
    retry_statuses: tuple[int, ...]
    retry_connect: bool
    retry_timeout: bool


class Throttling(_Part):
    """How a Retry-After is honoured; times in milliseconds."""

    honor_retry_after: bool
    max_retry_after_ms: int
    ramp_up_ms: int


class Health(_Part):
    """Active probes; times in milliseconds. `probe` None: only the traffic tells."""

    probe: Literal["Models", "Deployment"] | None
    interval_ms: int
    timeout_ms: int
    unhealthy_after: int
    healthy_after: int


class Timeouts(_Part):
    """Milliseconds: a whole request, silence on a stream, a TCP and TLS connection."""

    request_ms: int
    idle_ms: int
    connect_ms: int


class RoutingTable(_Part):
    """All that proxies need to serve one pool."""

    namespace: str
    name: str
    gateway: str
    hostnames: tuple[str, ...]
    tls_secret: str = ""
    """The kubernetes.io/tls Secret, in the pool's namespace, with which it is served to clients; empty: by HTTP."""
    sidecars: bool = False
    """Whether an Envoy in an application's pod may carry it, and so hold its endpoints' credentials."""
    namespaces: tuple[str, ...] = ()
    """Namespaces that may use it, its own included; "*" for all."""
    strategy: Literal["Headroom", "Weighted", "LeastRequest"]
    auth_required: bool
    issuers: tuple[TokenIssuer, ...] = ()
    """Whose tokens it takes, besides API keys."""
    max_request_bytes: int
    max_concurrent_requests: int
    failover: Failover
    throttling: Throttling
    lend_idle_ms: int | None = None
    """After how long without a request of its tenant a guarantee is lent; None: never."""
    health: Health
    timeouts: Timeouts
    endpoints: tuple[Endpoint, ...]
    models: tuple[Model, ...]
    tenants: tuple[Tenant, ...]

    @property
    def key(self) -> PoolKey:
        """The pool's key."""
        return PoolKey(self.namespace, self.name)

    @cached_property
    def revision(self) -> str:
        """The content hash: equal tables have equal revisions, whoever compiled them."""
        return content_hash(self.model_dump(mode="json"))

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy, whose revision and references are its own."""
        copied = super().model_copy(update=update, deep=deep)
        for known in ("revision", "refs"):
            copied.__dict__.pop(known, None)
        return copied

    @property
    def tls_refs(self) -> tuple[SecretRef, ...]:
        """The entries of its serving certificate and key, none when it is served by HTTP."""
        return tls_refs(self.namespace, self.tls_secret) if self.tls_secret else ()

    @cached_property
    def refs(self) -> frozenset[SecretRef]:
        """Every entry of a Secret that it refers to."""
        keys = (ref for tenant in self.tenants for ref in tenant.api_keys)
        return frozenset((*(ref for e in self.endpoints for ref in e.secrets), *keys, *self.tls_refs))

    @property
    def secret_refs(self) -> tuple[SecretRef, ...]:
        """Every entry of a Secret that it refers to, once, in a stable order."""
        return tuple(sorted(self.refs))

    def endpoint(self, name: str) -> Endpoint:
        """Return the endpoint of that name; KeyError when there is none."""
        for endpoint in self.endpoints:
            if endpoint.name == name:
                return endpoint
        raise KeyError(name)

    def endpoint_key(self, name: str) -> EndpointKey:
        """Return the key of one of its endpoints."""
        return EndpointKey(self.key, name)

    def host_keys(self) -> tuple[HostKey, ...]:
        """Return every host once, in the table's order, however many models it serves."""
        pool = self.key
        return tuple(dict.fromkeys(HostKey(pool, h.endpoint, h.deployment) for m in self.models for h in m.hosts))

"""AOAIBackendPool: regional Azure OpenAI endpoints that answer as one."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from functools import cached_property
from typing import Annotated, ClassVar

from pydantic import Field

from aoai_operator.core.api.auth import PoolAuth
from aoai_operator.core.api.base import (
    LIST_SET,
    Between,
    Hostname,
    Label,
    Model,
    ObjectMeta,
    SecretName,
    Size,
    list_map,
    rule,
    rules,
)
from aoai_operator.core.api.discovery import Discovery
from aoai_operator.core.api.endpoint import MODEL_RULES, Endpoint, PoolModel
from aoai_operator.core.names import PoolKey


class Strategy(StrEnum):
    """How requests are shared among the endpoints of one priority."""

    HEADROOM = "Headroom"
    WEIGHTED = "Weighted"
    LEAST_REQUEST = "LeastRequest"


class RetryReason(StrEnum):
    """What an attempt can fail of, so that another endpoint is tried within the same request."""

    THROTTLED = "Throttled"
    SERVER_ERROR = "ServerError"
    TIMEOUT = "Timeout"
    AUTH = "Auth"
    DEPLOYMENT_NOT_FOUND = "DeploymentNotFound"
    BUSY = "Busy"
    CONNECT = "Connect"


class ProbePath(StrEnum):
    """What an active probe asks of an endpoint."""

    MODELS = "Models"
    DEPLOYMENT = "Deployment"
    DISABLED = "Disabled"


class NamespacesFrom(StrEnum):
    """Whose tenants may refer to a pool."""

    SAME = "Same"
    ALL = "All"
    LIST = "List"


class Balancing(Model):
    """How requests are shared."""

    strategy: Strategy = Field(
        default=Strategy.HEADROOM,
        description="How requests are shared among the endpoints of one priority: Headroom by the capacity that "
        "Azure reports as left, Weighted by weight, LeastRequest by requests under way. Default Headroom.",
    )


class Failover(Model):
    """When another endpoint is tried within the same request."""

    attempts: Annotated[int, Field(ge=1, le=10)] = Field(
        default=3,
        description="Most endpoints tried for one request, the first included. Default 3; 1 to 10.",
    )
    per_try_timeout: Annotated[timedelta, Between("100ms", "1h")] = Field(
        default=timedelta(seconds=120),
        description="Longest wait for the response headers of one attempt. Default 120s; 100ms to 1h.",
    )
    retry_on: tuple[RetryReason, ...] = Field(
        default=tuple(RetryReason),
        max_length=7,
        description="Failures after which another endpoint is tried, before the first byte reaches the client: "
        "Throttled (429), ServerError (500, 502, 503, 504), Timeout (408, per-try timeout), Auth (401, 403), "
        "DeploymentNotFound (404), Busy (424), Connect (connect failure, TLS failure, reset). "
        "Default all; empty means none.",
        json_schema_extra=LIST_SET,
    )


class Throttling(Model):
    """What a 429 of Azure does to its deployment."""

    honor_retry_after: bool = Field(
        default=True,
        description="Whether a throttled deployment gets no request until its Retry-After is over. Default true.",
    )
    max_retry_after: Annotated[timedelta, Between("1s", "1h")] = Field(
        default=timedelta(seconds=60),
        description="Longest Retry-After that is honoured; a longer one is cut to this. Default 60s; 1s to 1h.",
    )
    ramp_up: Annotated[timedelta, Between("0s", "5m")] = Field(
        default=timedelta(seconds=5),
        description="Time over which a deployment gets its full share back after a Retry-After. "
        "Default 5s; 0s (at once) to 5m.",
    )


class Sharing(Model):
    """How tenants share what the deployments can give."""

    lend_idle_after: Annotated[timedelta, Between("1s", "1h")] | None = Field(
        default=None,
        description="After how long without a request what is guaranteed to a tenant is lent to others; from its next "
        "request on it has that back within a minute. Default: it is never lent; 1s to 1h.",
    )


class Probe(Model):
    """The active probe of an endpoint."""

    path: ProbePath = Field(
        default=ProbePath.MODELS,
        description="What the probe asks: Models (GET the list of models: reachability and key, costs no token), "
        "Deployment (each deployment too), Disabled (no probe). Default Models.",
    )
    interval: Annotated[timedelta, Between("1s", "10m")] = Field(
        default=timedelta(seconds=10), description="Time between two probes. Default 10s; 1s to 10m."
    )
    timeout: Annotated[timedelta, Between("100ms", "1m")] = Field(
        default=timedelta(seconds=3),
        description="Longest wait for the answer to a probe. Default 3s; 100ms to 1m, at most the interval.",
    )


class Health(Model):
    """When an endpoint counts as sick."""

    probe: Probe = Field(
        default=Probe(),
        description="The active probe of every endpoint. Default: as its fields say.",
        json_schema_extra=rules(
            rule(
                "duration(self.timeout) <= duration(self.interval)",
                "timeout must not be longer than interval",
                field_path=".timeout",
            )
        ),
    )
    unhealthy_after: Annotated[int, Field(ge=1, le=100)] = Field(
        default=3, description="Failed probes in a row that make an endpoint Unhealthy. Default 3; 1 to 100."
    )
    healthy_after: Annotated[int, Field(ge=1, le=100)] = Field(
        default=2, description="Good probes in a row that make it Healthy again. Default 2; 1 to 100."
    )


class Timeouts(Model):
    """How long things may take."""

    request: Annotated[timedelta, Between("1s", "1h")] = Field(
        default=timedelta(seconds=600),
        description="Longest time from a request to the end of its answer, all attempts and the stream "
        "included. Default 600s; 1s to 1h.",
    )
    idle: Annotated[timedelta, Between("1s", "1h")] = Field(
        default=timedelta(seconds=300),
        description="Longest silence within a request or its stream. Default 300s; 1s to 1h.",
    )
    connect: Annotated[timedelta, Between("50ms", "1m")] = Field(
        default=timedelta(seconds=2),
        description="Longest wait for a connection to an endpoint, TLS included. Default 2s; 50ms to 1m.",
    )


class Limits(Model):
    """What a client may send."""

    max_request_bytes: Size = Field(
        default=32 * 1024 * 1024,
        description="Largest request body, in bytes or with Ki or Mi; a larger one is answered with 413. "
        "Default 32Mi; 1 byte to 256Mi.",
    )
    max_concurrent_requests: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=1000,
        description="Most requests under way at once, per proxy and model; more are answered with 503. "
        "Default 1000; 1 to 100000.",
    )


class Sidecars(StrEnum):
    """Whether Envoys in applications' own pods may carry a pool."""

    FORBIDDEN = "Forbidden"
    ALLOWED = "Allowed"


class TlsSecretRef(Model):
    """A Secret of the type kubernetes.io/tls in the pool's namespace."""

    name: SecretName = Field(
        description="Name of the Secret, of the type kubernetes.io/tls, in the pool's namespace; cert-manager writes "
        "such. Required."
    )


class GatewayTls(Model):
    """HTTPS to clients."""

    secret_ref: TlsSecretRef = Field(
        description="Secret with the serving certificate (tls.crt) and its key (tls.key), for the pool's host names. "
        "Read again when it changes. Required."
    )


class GatewayRef(Model):
    """Where the pool answers."""

    name: Label = Field(default="default", description="Name of the gateway that serves the pool. Default default.")
    hostnames: tuple[Hostname, ...] = Field(
        default=(),
        max_length=16,
        description="Host names at which the pool answers besides /<namespace>/<pool>/, in lower case, without "
        "port. Default none. At most 16; no two pools of one gateway may share one.",
        json_schema_extra=LIST_SET,
    )
    tls: GatewayTls | None = Field(
        default=None,
        description="HTTPS to clients: the pool is then served on the gateway's HTTPS port only. Default: HTTP.",
    )
    sidecars: Sidecars = Field(
        default=Sidecars.FORBIDDEN,
        description="Whether Envoys in applications' own pods may carry the pool: Forbidden or Allowed. Such an Envoy "
        "holds the endpoints' credentials, and so does whoever may enter its pod. Default Forbidden.",
    )


class AllowedNamespaces(Model):
    """Whose tenants may refer to the pool."""

    from_: NamespacesFrom = Field(
        default=NamespacesFrom.SAME,
        description="Which namespaces: Same (the pool's own), All, or List (those in names, and the pool's own). "
        "Default Same.",
    )
    names: tuple[Label, ...] = Field(
        default=(),
        max_length=64,
        description="The namespaces, when from is List. Default none. At most 64.",
        json_schema_extra=LIST_SET,
    )

    def allows(self, namespace: str, *, own: str) -> bool:
        """Whether tenants of `namespace` may refer to a pool of the namespace `own`."""
        return namespace == own or self.from_ is NamespacesFrom.ALL or namespace in self.names


class AOAIBackendPoolSpec(Model):
    """What is wanted of a pool."""

    models: tuple[Annotated[PoolModel, Field(json_schema_extra=MODEL_RULES)], ...] = Field(
        min_length=1,
        max_length=64,
        description="Models that tenants may ask for. At least 1, at most 64, with unique names.",
        json_schema_extra=list_map("name"),
    )
    endpoints: tuple[Endpoint, ...] = Field(
        default=(),
        max_length=64,
        description="Azure OpenAI resources that serve them. Default none: those that discovery finds. At most 64, "
        "with unique names.",
        json_schema_extra=list_map("name"),
    )
    # No default of the schema's: the API server would fill it in, and a version before this field refuses it.
    discovery: Discovery | None = Field(
        default=None,
        description="Where endpoints are found, besides those of spec.endpoints, which win over found ones of the same "
        "account. Default: nowhere.",
    )
    balancing: Balancing = Field(
        default=Balancing(), description="How requests are shared among endpoints. Default: Headroom."
    )
    failover: Failover = Field(
        default=Failover(),
        description="When another endpoint is tried within the same request. Default: as its fields say.",
    )
    throttling: Throttling = Field(
        default=Throttling(),
        description="What a 429 of Azure does to the deployment that sent it. Default: as its fields say.",
    )
    # No default of the schema's: the API server would fill it in, and a version before this field refuses it.
    sharing: Sharing | None = Field(
        default=None,
        description="How tenants share what the deployments can give. Default: as its fields say.",
    )
    health: Health = Field(
        default=Health(),
        description="When an endpoint counts as sick, and when as well again. Default: as its fields say.",
    )
    timeouts: Timeouts = Field(
        default=Timeouts(), description="How long a request and its parts may take. Default: as its fields say."
    )
    limits: Limits = Field(default=Limits(), description="What clients may send. Default: as its fields say.")
    auth: PoolAuth = Field(default=PoolAuth(), description="Who may call the pool. Default: tenants only.")
    gateway: GatewayRef = Field(
        default=GatewayRef(),
        description="Where the pool answers. Default: the gateway `default`, no host names.",
        json_schema_extra=rules(
            rule(
                "!has(self.tls) || self.hostnames.size() > 0",
                "hostnames must name at least one when tls is given: the certificate is chosen by it",
                field_path=".hostnames",
                reason="FieldValueRequired",
            )
        ),
    )
    allowed_namespaces: AllowedNamespaces = Field(
        default=AllowedNamespaces(),
        description="Namespaces whose TenantQuotas may refer to this pool, in the form of the Gateway API: a "
        "choice in `from`, and `names` for List, since one field cannot be a word or a list. Default Same.",
        json_schema_extra=rules(
            rule(
                "self.from == 'List' || self.names.size() == 0",
                "names may only be given when from is List",
                field_path=".names",
            ),
            rule(
                "self.from != 'List' || self.names.size() > 0",
                "names must name at least one namespace when from is List",
                field_path=".names",
                reason="FieldValueRequired",
            ),
        ),
    )
    suspend: bool = Field(
        default=False,
        description="Whether changes of this resource are held back: the last good routing table keeps serving; "
        "a pool that has none yet gets its first. Default false.",
    )


_FALLBACKS_EXIST = "every fallback model must be one of spec.models"
_DEPLOYED_EXIST = "every deployment's model must be one of spec.models"
_FOUND_EXIST = "every model of discovery must be one of spec.models"
MODEL_REFERENCE_RULES = frozenset({_FALLBACKS_EXIST, _DEPLOYED_EXIST, _FOUND_EXIST})
"""Messages of the rules that CEL can only break as a whole; unknown_models tells each place."""

SPEC_RULES = rules(
    rule(
        "self.endpoints.size() > 0 || has(self.discovery)",
        "must name at least one endpoint, or say where they are found in discovery",
        field_path=".endpoints",
        reason="FieldValueRequired",
    ),
    rule(
        "!has(self.discovery) || self.discovery.azure.models.all(d, self.models.exists(m, m.name == d.model))",
        _FOUND_EXIST,
        field_path=".discovery",
    ),
    rule(
        "self.models.all(m, m.fallbackModels.all(f, self.models.exists(x, x.name == f)))",
        _FALLBACKS_EXIST,
        field_path=".models",
    ),
    rule(
        "self.endpoints.all(e, e.deployments.all(d, self.models.exists(m, m.name == d.model)))",
        _DEPLOYED_EXIST,
        field_path=".endpoints",
    ),
)


class AOAIBackendPool(Model):
    """A pool of regional Azure OpenAI endpoints behind one address."""

    KIND: ClassVar[str] = "AOAIBackendPool"

    metadata: ObjectMeta
    spec: Annotated[AOAIBackendPoolSpec, Field(json_schema_extra=SPEC_RULES)]

    @cached_property
    def key(self) -> PoolKey:
        """The pool's key "namespace/name"."""
        return PoolKey(self.metadata.namespace, self.metadata.name)

"""What the operator writes into `.status` of both kinds."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from aoai_operator.core.api.base import LIST_ATOMIC, Label, Model, ModelName, list_map
from aoai_operator.core.api.usage import TenantUsage, Timestamp
from aoai_operator.core.observed import State

_COUNT = Annotated[int, Field(ge=0, le=1_000_000)]


class Condition(Model):
    """One observed fact about a resource, in the form of Kubernetes' `metav1.Condition`."""

    type: Annotated[str, Field(min_length=1, max_length=63, pattern="^[A-Z][A-Za-z]*$")] = Field(
        description="Which fact: Accepted, ResolvedRefs, Programmed, Healthy, Discovered, Uniform, "
        "Provisioned, Current, Guaranteed, Enforced, Exact or Ready; "
        "Reconciling or Stalled while it is so. Set by the operator."
    )
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds: True, False or Unknown.")
    observed_generation: Annotated[int, Field(ge=-1)] = Field(
        default=-1, description="metadata.generation that the condition was worked out from. Default -1: none yet."
    )
    last_transition_time: Timestamp = Field(description="When status last changed, in RFC 3339.")
    reason: Annotated[str, Field(min_length=1, max_length=128, pattern="^[A-Z][A-Za-z0-9]*$")] = Field(
        description="Why, in one CamelCase word for programs."
    )
    message: Annotated[str, Field(max_length=32768)] = Field(default="", description="Why, for people. Default empty.")


class EndpointStatus(Model):
    """The state of one deployment of one endpoint."""

    name: Label = Field(description="Name of the endpoint in spec.endpoints, or of the one that was found.")
    deployment: ModelName = Field(description="Name of the deployment in Azure.")
    state: State = Field(
        description="Healthy and Unknown get requests; Throttled waits for its Retry-After; Unhealthy and Draining "
        "get none."
    )
    reason: Annotated[str, Field(max_length=128)] = Field(
        default="", description="Why it is in this state, in one CamelCase word. Default empty."
    )
    since: Timestamp | None = Field(default=None, description="When it came into this state, in RFC 3339. Optional.")
    throttled_until: Timestamp | None = Field(
        default=None, description="When the Retry-After of a Throttled deployment is over, in RFC 3339. Optional."
    )


class RoutingTableStatus(Model):
    """Where the compiled routing table is."""

    config_map: Annotated[str, Field(max_length=253)] = Field(
        default="", description="ConfigMap that holds the pool's routing table. Default empty: none yet."
    )
    revision: Annotated[str, Field(max_length=64)] = Field(
        default="", description="Content hash of the routing table that serves. Default empty: none yet."
    )


class ProxiesStatus(Model):
    """How many Envoys carry the pool."""

    connected: _COUNT = Field(default=0, description="Envoys connected to the operator for this pool. Default 0.")
    programmed: _COUNT = Field(
        default=0, description="Envoys among them that accepted the present revision. Default 0."
    )


class OmittedStatus(Model):
    """An account, or a deployment in one, that is as asked for and does not serve."""

    name: Annotated[str, Field(max_length=256)] = Field(
        description="Name of the account in Azure, for a deployment followed by a slash and its own."
    )
    reason: Annotated[str, Field(max_length=128)] = Field(description="Why, in one CamelCase word.")
    message: Annotated[str, Field(max_length=1024)] = Field(default="", description="Why, for people. Default empty.")


class DiscoveryStatus(Model):
    """What was found in Azure."""

    accounts: _COUNT = Field(default=0, description="Accounts that are as asked for. Default 0.")
    endpoints: _COUNT = Field(default=0, description="Endpoints made of them. Default 0.")
    deployments: _COUNT = Field(default=0, description="Deployments of those that serve. Default 0.")
    stale_since: Timestamp | None = Field(
        default=None,
        description="While Azure cannot be read: when it last could, in RFC 3339. What was found then serves on. "
        "Optional.",
    )
    omitted: tuple[OmittedStatus, ...] = Field(
        default=(),
        max_length=64,
        description="What was found and does not serve. Default none. The first 64 by name.",
        json_schema_extra=LIST_ATOMIC,
    )


_CONDITIONS = Field(
    default=(),
    max_length=16,
    description="Observed facts, one for each type. Default none. At most 16.",
    json_schema_extra=list_map("type"),
)
_HANDLED = Field(
    default="",
    description="The value of the annotation reconcile.aoai.dev/requestedAt that was last acted upon. Default empty.",
)
_GENERATION = Field(
    default=-1, description="metadata.generation that the status was worked out from. Default -1: none yet."
)


class AOAIBackendPoolStatus(Model):
    """What the operator observed of a pool."""

    observed_generation: Annotated[int, Field(ge=-1)] = _GENERATION
    conditions: tuple[Condition, ...] = _CONDITIONS
    endpoints: tuple[EndpointStatus, ...] = Field(
        default=(),
        max_length=2048,
        description="State of each deployment of each endpoint. Default none. At most 2048.",
        json_schema_extra=list_map("name", "deployment"),
    )
    healthy_endpoints: Annotated[str, Field(max_length=16, pattern="^([0-9]+/[0-9]+)?$")] = Field(
        default="", description="Endpoints that can serve, of all: `3/4`. Default empty: not known yet."
    )
    routing_table: RoutingTableStatus = Field(
        default=RoutingTableStatus(), description="Where the compiled routing table is. Default: none yet."
    )
    proxies: ProxiesStatus = Field(
        default=ProxiesStatus(), description="How many Envoys carry the pool. Default: none."
    )
    discovery: DiscoveryStatus | None = Field(
        default=None, description="What was found in Azure, where spec.discovery asks for it. Optional."
    )
    last_handled_reconcile_at: Annotated[str, Field(max_length=64)] = _HANDLED


class TenantQuotaStatus(Model):
    """What the operator observed of a tenant."""

    observed_generation: Annotated[int, Field(ge=-1)] = _GENERATION
    conditions: tuple[Condition, ...] = _CONDITIONS
    last_handled_reconcile_at: Annotated[str, Field(max_length=64)] = _HANDLED
    usage: TenantUsage | None = Field(
        default=None, description="What the tenant used, as far as something is limited. Optional."
    )


S = TypeVar("S", bound=BaseModel)


def read_status(model: type[S], raw: object) -> S | None:
    """Return a status as the API server gives it; None for none, and for one that this version could not have written.

    Fields that a newer version may have added are read over: what is the same must not be told a second time.
    """
    try:
        # Strictly, a list is no tuple and a text no enum.
        return model.model_validate(raw, strict=False, extra="ignore") if raw else None
    except ValidationError:
        return None

"""What a pool is made of: its models, and the Azure OpenAI resources and deployments that serve them."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field

from aoai_operator.core.api.base import (
    LABEL,
    LIST_ATOMIC,
    Label,
    Model,
    ModelName,
    ResourceName,
    list_map,
    rule,
    rules,
)
from aoai_operator.core.api.endpoint_auth import AUTH_RULES, EndpointAuth
from aoai_operator.core.api.quota import Currency
from aoai_operator.core.names import PoolKey

_HOST_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_PORT = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
URL = rf"^https?://({_HOST_LABEL}(\.{_HOST_LABEL})*|\[[0-9a-fA-F:.]{{2,45}}\])(:{_PORT})?/?$"
REGION = "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$"

Price = Annotated[float, Field(ge=0, le=1_000_000)]
Url = Annotated[str, Field(min_length=8, max_length=300, pattern=URL)]


class Prices(Model):
    """What a million tokens of a model cost."""

    currency: Currency = Field(description="ISO 4217 code in capitals, such as USD. Required.")
    input: Price = Field(description="Of the prompt, in the currency, per million tokens. Required; 0 to 1000000.")
    cached_input: Price | None = Field(
        default=None,
        description="Of the prompt, where Azure had it in its cache, in the currency, per million tokens. "
        "Default: as input. 0 to 1000000.",
    )
    output: Price = Field(
        default=0.0,
        description="Of the answer, reasoning included, in the currency, per million tokens. Default 0 (embeddings). "
        "0 to 1000000.",
    )


class PoolModel(Model):
    """A model that tenants may ask the pool for."""

    name: ModelName = Field(
        description="Name that clients use: path segment, `model` of the body, or `?deployment=`. Required, "
        "unique in the pool, at most 64 letters, digits, dots, underscores and hyphens."
    )
    fallback_models: tuple[ModelName, ...] = Field(
        default=(),
        max_length=8,
        description="Models of this pool that answer, in this order, when every endpoint of this one is out. "
        "Only these are tried, not the fallbacks of a fallback. Default none. At most 8.",
        json_schema_extra={
            **LIST_ATOMIC,
            **rules(
                rule(
                    "self.all(f, self.exists_one(g, g == f))",
                    "must not name a model twice",
                )
            ),
        },
    )

    # No default of the schema's: the API server would fill it in, and a version before this field refuses it.
    context_tokens: Annotated[int, Field(ge=1, le=100_000_000)] | None = Field(
        default=None,
        description="Most tokens that the model takes, and the most that it gives: no reservation is larger. "
        "Default 128000; 1 to 100000000.",
    )
    prices: Prices | None = Field(
        default=None,
        description="What a million tokens cost, for budgets in money. Optional.",
    )


MODEL_RULES = rules(
    rule(
        "!(self.name in self.fallbackModels)",
        "a model must not be its own fallback",
        field_path=".fallbackModels",
    )
)


class Capacity(Model):
    """What Azure grants a deployment."""

    tokens_per_minute: Annotated[int, Field(ge=1, le=2_000_000_000)] | None = Field(
        default=None,
        description="Quota in tokens per minute, as Azure shows it for the deployment. Optional; 1 to 2000000000.",
    )
    requests_per_minute: Annotated[int, Field(ge=1, le=100_000_000)] | None = Field(
        default=None,
        description="Quota in requests per minute, as Azure shows it for the deployment. Optional; 1 to 100000000.",
    )


class DeploymentType(StrEnum):
    """How Azure serves and bills a deployment. Source: Azure OpenAI, "Deployment types"; ARM, `sku.name`."""

    STANDARD = "Standard"
    DATA_ZONE_STANDARD = "DataZoneStandard"
    GLOBAL_STANDARD = "GlobalStandard"
    PROVISIONED = "ProvisionedManaged"
    DATA_ZONE_PROVISIONED = "DataZoneProvisionedManaged"
    GLOBAL_PROVISIONED = "GlobalProvisionedManaged"

    @property
    def provisioned(self) -> bool:
        """Whether its throughput is paid for, used or not."""
        return "Provisioned" in self.value


class Deployment(Model):
    """A model's deployment in an Azure OpenAI resource."""

    model: ModelName = Field(
        description="Model of this pool that the deployment serves, by its name in spec.models. Required."
    )
    name: ModelName = Field(
        description="Name of the deployment in Azure; clients never see it. Required, at most 64 characters."
    )
    capacity: Capacity | None = Field(
        default=None,
        description="What Azure grants the deployment; under Weighted, the share of an endpoint without a weight "
        "follows its tokens per minute, or where a model's deployments give none, its requests per minute. "
        "Optional; without it all deployments of a model count as equal.",
        json_schema_extra=rules(
            rule(
                "has(self.tokensPerMinute) || has(self.requestsPerMinute)",
                "must give tokensPerMinute, requestsPerMinute or both",
                reason="FieldValueRequired",
            )
        ),
    )
    # No default of the schema's: the API server would fill it in, and a version before this field refuses it.
    type: DeploymentType | None = Field(
        default=None,
        description="How Azure serves it: Standard, DataZoneStandard, GlobalStandard, ProvisionedManaged, "
        "DataZoneProvisionedManaged or GlobalProvisionedManaged; deployments for batches serve no requests. Optional.",
    )
    priority: Annotated[int, Field(ge=0, le=15)] | None = Field(
        default=None,
        description="Rank: of this deployment instead of its endpoint's: 0 for provisioned throughput, 1 for what "
        "takes over when that is used up. Default: the endpoint's. 0 to 15.",
    )
    drain: bool | None = Field(
        default=None,
        description="Whether it gets no new request while those under way finish. Default: as its endpoint.",
    )


class TenantRef(Model):
    """A tenant, by its TenantQuota."""

    name: ResourceName = Field(description="Name of the TenantQuota. Required.")
    namespace: Annotated[str, Field(max_length=63, pattern=f"^({LABEL})?$")] = Field(
        default="", description="Namespace of the TenantQuota. Default empty: the namespace of this pool."
    )

    def key(self, own_namespace: str) -> PoolKey:
        """Return the tenant's key, for a pool that lives in `own_namespace`."""
        return PoolKey(self.namespace or own_namespace, self.name)


class Endpoint(Model):
    """An Azure OpenAI resource in one region."""

    name: Label = Field(
        description="Name of the endpoint in this pool, in logs, metrics and status. Required, unique, a DNS label."
    )
    url: Url = Field(
        description="Address of the Azure OpenAI resource: https://host, optionally :port; no path, query or "
        "credentials. http:// is for tests: it sends the key in the clear. Required."
    )
    region: Annotated[str, Field(max_length=63, pattern=REGION)] = Field(
        default="", description="Azure region, such as swedencentral, for logs and metrics. Default empty."
    )
    priority: Annotated[int, Field(ge=0, le=15)] = Field(
        default=0,
        description="Rank: 0 is served first, a higher number only when every endpoint of the lower ones is "
        "out. Default 0, at most 15.",
    )
    weight: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        default=None,
        description="Share of the requests within a priority, relative to the other endpoints. "
        "Default: by capacity. 1 to 1000.",
    )
    deployments: tuple[Deployment, ...] = Field(
        min_length=1,
        max_length=32,
        description="What is deployed there. At least 1, at most 32; no two with the same model and name.",
        json_schema_extra=list_map("model", "name"),
    )
    auth: EndpointAuth = Field(
        description="How the pool proves itself to the endpoint. Required.", json_schema_extra=AUTH_RULES
    )
    # No default of the schema's: the API server would fill it in, and a version before this field refuses it.
    dedicated_to: Annotated[tuple[TenantRef, ...], Field(min_length=1, max_length=32)] | None = Field(
        default=None,
        description="Tenants that it serves alone: no other caller reaches it, and they use only what is dedicated to "
        "them, unless they spill over. Default: it serves everybody. At most 32.",
        json_schema_extra=list_map("name", "namespace"),
    )
    drain: bool = Field(
        default=False,
        description="Whether the endpoint gets no new request while those under way finish. Default false.",
    )

    @property
    def tls(self) -> bool:
        """Whether the endpoint is spoken to over TLS."""
        return self.url.startswith("https:")

    @property
    def host(self) -> str:
        """The host name or address, lower-case, without the brackets of an IPv6 address."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """The port, 443 or 80 when the URL names none."""
        return urlsplit(self.url).port or (443 if self.tls else 80)

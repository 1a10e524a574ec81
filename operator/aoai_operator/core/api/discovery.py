"""Where a pool's endpoints are found: the Azure OpenAI accounts of subscriptions, by group, tag and kind."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from aoai_operator.core.api.base import LIST_SET, Between, Model, ModelName, ObjectId, list_map, rule, rules
from aoai_operator.core.api.endpoint_auth import ENTRA_RULES, EntraEndpointAuth, EntraIdentity

RESOURCE_MANAGER = r"^(https://[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?/?)?$"

GroupName = Annotated[str, Field(min_length=1, max_length=90, pattern=r"^[-\w._()]*[-\w_()]$")]
"""Source: Azure Resource Manager, "Naming rules", resourceGroups."""
TagValue = Annotated[str, Field(max_length=256)]
Version = Annotated[str, Field(min_length=1, max_length=64, pattern="^[A-Za-z0-9._-]+$")]


class AccountKind(StrEnum):
    """A kind of account that has Azure OpenAI deployments."""

    OPEN_AI = "OpenAI"
    AI_SERVICES = "AIServices"


class AzureModel(Model):
    """Which of Azure's models a model of the pool is."""

    model: ModelName = Field(description="Model of this pool, by its name in spec.models. Required.")
    name: ModelName | None = Field(
        default=None, description="Azure's name of it, such as gpt-4o. Default: as the pool names it."
    )
    versions: tuple[Version, ...] = Field(
        default=(),
        max_length=16,
        description="Versions of it that serve. Default none: all. At most 16.",
        json_schema_extra=LIST_SET,
    )


class AzureKeys(Model):
    """The two keys of each account, as Azure gives them to whoever may list them."""


class FoundKey(Model):
    """An API key that nobody writes down."""

    from_azure: AzureKeys = Field(description="Keys read from Azure: needs the right to list keys. Write {}. Required.")


class FoundAuth(Model):
    """How the pool proves itself to the endpoints that are found."""

    api_key: FoundKey | None = Field(default=None, description="The accounts' keys. One of apiKey and entra.")
    entra: Annotated[EntraEndpointAuth, Field(json_schema_extra=ENTRA_RULES)] | None = Field(
        default=None, description="Tokens of Entra ID instead of a key. One of apiKey and entra."
    )


FOUND_AUTH_RULES = rules(
    rule("has(self.apiKey) != has(self.entra)", "must give one of apiKey and entra", reason="FieldValueRequired")
)


class AzureDiscovery(Model):
    """Accounts that are looked for in Azure Resource Manager. Nothing is written there."""

    subscription_ids: tuple[ObjectId, ...] = Field(
        min_length=1,
        max_length=16,
        description="Ids of the subscriptions. At least 1, at most 16.",
        json_schema_extra=LIST_SET,
    )
    resource_groups: tuple[GroupName, ...] = Field(
        default=(),
        max_length=64,
        description="Names of resource groups. Default none: all. At most 64.",
        json_schema_extra=LIST_SET,
    )
    tags: dict[str, TagValue] = Field(
        default={},
        max_length=16,
        description="Tags that an account has, all of them, with their values. Default none: any account.",
    )
    kinds: tuple[AccountKind, ...] = Field(
        default=tuple(AccountKind),
        min_length=1,
        max_length=2,
        description="Kinds of accounts: OpenAI, AIServices (Azure AI Foundry). Default both.",
        json_schema_extra=LIST_SET,
    )
    models: tuple[AzureModel, ...] = Field(
        default=(),
        max_length=64,
        description="Which of Azure's models the pool's models are, where their names differ or not all versions "
        "serve. Default none: those of the same name. At most 64.",
        json_schema_extra=list_map("model"),
    )
    priority: Annotated[int, Field(ge=0, le=14)] = Field(
        default=0,
        description="Rank: of what is found. Of a model with provisioned throughput among it, that has this rank, and "
        "the others the next one. Default 0, at most 14.",
    )
    identity: Annotated[EntraIdentity, Field(json_schema_extra=ENTRA_RULES)] = Field(
        default=EntraIdentity(),
        description="As whom Azure Resource Manager is read; the role Reader does. Default: the operator's workload "
        "identity.",
    )
    resource_manager: Annotated[str, Field(max_length=300, pattern=RESOURCE_MANAGER)] = Field(
        default="",
        description="Where Azure Resource Manager is: https://management.azure.com, or that of a national cloud. "
        "Default empty: the one of identity.authorityHost.",
    )
    auth: Annotated[FoundAuth, Field(json_schema_extra=FOUND_AUTH_RULES)] | None = Field(
        default=None,
        description="How the pool proves itself to them. Default: tokens of the operator's workload identity.",
    )
    interval: Annotated[timedelta, Between("5s", "24h")] = Field(
        default=timedelta(minutes=5), description="Time between two readings, more or less. Default 300s; 5s to 24h."
    )


class Discovery(Model):
    """Where endpoints are found."""

    azure: AzureDiscovery = Field(description="Accounts in Azure Resource Manager. Required.")

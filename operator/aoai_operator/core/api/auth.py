"""Who may call: whose tokens a pool takes, and what proves that a caller is a tenant."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import Field

from aoai_operator.core.api.base import LABEL, LIST_SET, ApiKey, Between, Model, ObjectId, ResourceName, rule, rules
from aoai_operator.core.api.endpoint import Url

AUDIENCE = "^[A-Za-z0-9][A-Za-z0-9._~:/-]*$"
ISSUER = r"^(https?://[A-Za-z0-9.:\[\]-]{1,200}(/[A-Za-z0-9._~/-]*)?)?$"


class EntraAuth(Model):
    """Tokens of a tenant (a directory) of Entra ID."""

    tenant_id: ObjectId = Field(description="Directory (tenant) id whose tokens are taken. Required.")
    audience: Annotated[str, Field(min_length=1, max_length=300, pattern=AUDIENCE)] = Field(
        default="https://cognitiveservices.azure.com",
        description="Audience that a token must be for (`aud`). Default https://cognitiveservices.azure.com, for which "
        "applications of Azure OpenAI ask anyway.",
    )
    authority_host: Url = Field(
        default="https://login.microsoftonline.com",
        description="Where Entra ID is; another one for national clouds; http:// is for tests. Default "
        "https://login.microsoftonline.com.",
    )


class ServiceAccountAuth(Model):
    """Tokens of Kubernetes service accounts."""

    audience: Annotated[str, Field(min_length=1, max_length=300, pattern=AUDIENCE)] = Field(
        default="aoai.dev/tenants",
        description="Audience that a token must be for (`aud`), as in a pod's projected volume. Default "
        "aoai.dev/tenants.",
    )
    issuer: Annotated[str, Field(max_length=300, pattern=ISSUER)] = Field(
        default="",
        description="OIDC issuer of another cluster: https://..., without what follows it in "
        "/.well-known/openid-configuration; http:// is for tests. Default empty: the cluster that the operator runs "
        "in.",
    )


class PoolAuth(Model):
    """Who may call the pool."""

    required: bool = Field(
        default=True,
        description="Whether a caller must be a tenant. Default true; false lets anonymous callers in.",
    )
    # No default of the schema's: the API server would fill it in, and a version before this field refuses it.
    entra: EntraAuth | None = Field(
        default=None,
        description="Takes tokens of Entra ID as a proof of who calls, besides API keys. Default: it takes none.",
    )
    service_accounts: ServiceAccountAuth | None = Field(
        default=None,
        description="Takes tokens of Kubernetes service accounts, besides API keys. Default: it takes none.",
    )


class EntraIdentity(Model):
    """Callers that show a token of Entra ID."""

    app_ids: tuple[ObjectId, ...] = Field(
        default=(),
        max_length=32,
        description="Applications (client ids) whose tokens are the tenant's: `appid` or `azp` of the token. "
        "Default none. At most 32.",
        json_schema_extra=LIST_SET,
    )
    groups: tuple[ObjectId, ...] = Field(
        default=(),
        max_length=32,
        description="Groups (object ids) whose members are the tenant: `groups` of the token. Default none. "
        "At most 32.",
        json_schema_extra=LIST_SET,
    )


class ServiceAccountIdentity(Model):
    """Pods that show a token of their service account."""

    name: ResourceName = Field(description="Name of the ServiceAccount. Required.")
    namespace: Annotated[str, Field(max_length=63, pattern=f"^({LABEL})?$")] = Field(
        default="", description="Namespace of the ServiceAccount. Default empty: the namespace of this TenantQuota."
    )


class Identity(Model):
    """One way for a caller to show that it is the tenant."""

    api_key: ApiKey | None = Field(
        default=None,
        description="API key that the tenant sends as `api-key` or as `Authorization: Bearer`. "
        "One of apiKey, entra and serviceAccount.",
    )
    entra: (
        Annotated[
            EntraIdentity,
            Field(
                json_schema_extra=rules(
                    rule(
                        "self.appIds.size() > 0 || self.groups.size() > 0",
                        "must give appIds, groups or both",
                        reason="FieldValueRequired",
                    )
                )
            ),
        ]
        | None
    ) = Field(
        default=None,
        description="Applications and groups of Entra ID, by the tokens that the pool's spec.auth.entra takes.",
    )
    service_account: ServiceAccountIdentity | None = Field(
        default=None,
        description="A Kubernetes ServiceAccount, by the tokens that the pool's spec.auth.serviceAccounts takes.",
    )


IDENTITY_RULES = rules(
    rule(
        "(has(self.apiKey) ? 1 : 0) + (has(self.entra) ? 1 : 0) + (has(self.serviceAccount) ? 1 : 0) == 1",
        "must give one of apiKey, entra and serviceAccount",
        reason="FieldValueRequired",
    )
)


class Credentials(Model):
    """A Secret that the operator makes for the tenant."""

    generate_secret: ResourceName = Field(
        description="Name of the Secret, in the namespace of this resource: AZURE_OPENAI_ENDPOINT, "
        "AZURE_OPENAI_API_KEY, OPENAI_BASE_URL and OPENAI_API_KEY, of its first pool. One that is somebody else's is "
        "left alone. Required."
    )
    rotate_every: Annotated[timedelta, Between("1m", "8760h")] | None = Field(
        default=None, description="How often its key is replaced. Default: never; 1m to 8760h."
    )
    overlap: Annotated[timedelta, Between("1s", "8760h")] = Field(
        default=timedelta(hours=24),
        description="How long the key before is good as well: until then every pod must have started anew. "
        "Default 86400s (a day); 1s to 8760h.",
    )


CREDENTIALS_RULES = rules(
    rule(
        "!has(self.rotateEvery) || duration(self.overlap) < duration(self.rotateEvery)",
        "overlap must be shorter than rotateEvery",
        field_path=".overlap",
    )
)

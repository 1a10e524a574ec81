"""How a pool proves itself to an Azure OpenAI resource: by an API key, or as somebody whom Entra ID knows."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from aoai_operator.core.api.base import ApiKey, Model, ObjectId, SecretName, rule, rules

SCOPE = r"^https://(cognitiveservices|ai)\.azure\.(com|us|cn)/\.default$"
AUTHORITY = r"^(https://[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?/?)?$"


class IdentityKind(StrEnum):
    """As whom the operator asks Entra ID for a token."""

    WORKLOAD = "WorkloadIdentity"
    MANAGED = "ManagedIdentity"
    SERVICE_PRINCIPAL = "ServicePrincipal"


class SecretEntryRef(Model):
    """One entry of a Secret in the namespace of the resource that refers to it."""

    name: SecretName = Field(description="Name of the Secret, in the namespace of this resource. Required.")
    key: Annotated[str, Field(min_length=1, max_length=253, pattern="^[-._a-zA-Z0-9]+$")] = Field(
        description="Key of the Secret's data. Required."
    )


class SecretEntry(Model):
    """A value, by reference; no resource ever holds it itself."""

    secret_ref: SecretEntryRef = Field(description="Where it is. Required.")


class EntraIdentity(Model):
    """As whom Entra ID is asked for tokens."""

    identity: IdentityKind = Field(
        default=IdentityKind.WORKLOAD,
        description="As whom the operator asks for them: WorkloadIdentity (its own projected service-account token; "
        "in `aoai-operator local` the developer's own sign-in, where there is none), ManagedIdentity (of the node; "
        "where the operator has a workload identity, azure-identity takes that), or ServicePrincipal (clientSecret or "
        "clientCertificate). Default WorkloadIdentity.",
    )
    client_id: ObjectId | None = Field(
        default=None,
        description="Application (client) id. Default: AZURE_CLIENT_ID of the operator; of a managed identity, the one "
        "that is system-assigned. Required for a ServicePrincipal.",
    )
    tenant_id: ObjectId | None = Field(
        default=None,
        description="Directory (tenant) id. Default: AZURE_TENANT_ID of the operator. Required for a ServicePrincipal.",
    )
    authority_host: Annotated[str, Field(max_length=300, pattern=AUTHORITY)] = Field(
        default="",
        description="Where Entra ID is: https://login.microsoftonline.com, or that of a national cloud. Default empty: "
        "AZURE_AUTHORITY_HOST of the operator, or https://login.microsoftonline.com.",
    )
    client_secret: SecretEntry | None = Field(
        default=None, description="Client secret of a ServicePrincipal. One of clientSecret and clientCertificate."
    )
    client_certificate: SecretEntry | None = Field(
        default=None,
        description="Certificate of a ServicePrincipal with its private key, both as PEM in one entry.",
    )


class EntraEndpointAuth(EntraIdentity):
    """Tokens of Entra ID, for an identity with the role Cognitive Services OpenAI User."""

    scope: Annotated[str, Field(max_length=100, pattern=SCOPE)] = Field(
        default="https://cognitiveservices.azure.com/.default",
        description="Scope of the tokens: https://cognitiveservices.azure.com/.default or "
        "https://ai.azure.com/.default, or those of a national cloud. Default "
        "https://cognitiveservices.azure.com/.default.",
    )


_GIVEN = "((has(self.clientSecret) ? 1 : 0) + (has(self.clientCertificate) ? 1 : 0))"
ENTRA_RULES = rules(
    rule(
        f"self.identity == 'ServicePrincipal' ? {_GIVEN} == 1 : {_GIVEN} == 0",
        "clientSecret or clientCertificate, one of them, is for a ServicePrincipal, and only for it",
        field_path=".identity",
    ),
    rule(
        "self.identity != 'ServicePrincipal' || (has(self.clientId) && has(self.tenantId))",
        "a ServicePrincipal needs clientId and tenantId",
        field_path=".identity",
        reason="FieldValueRequired",
    ),
    rule(
        "self.identity != 'ManagedIdentity' || (!has(self.tenantId) && self.authorityHost == '')",
        "tenantId and authorityHost are not for a ManagedIdentity: the node knows them",
        field_path=".identity",
    ),
)


class EndpointAuth(Model):
    """How the pool proves itself to an endpoint."""

    api_key: ApiKey | None = Field(
        default=None, description="API key of the Azure OpenAI resource. One of apiKey and entra."
    )
    entra: Annotated[EntraEndpointAuth, Field(json_schema_extra=ENTRA_RULES)] | None = Field(
        default=None, description="Tokens of Entra ID instead of a key. One of apiKey and entra."
    )


AUTH_RULES = rules(
    rule(
        "has(self.apiKey) != has(self.entra)",
        "must give one of apiKey and entra",
        reason="FieldValueRequired",
    )
)

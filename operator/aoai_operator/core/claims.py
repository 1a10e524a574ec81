"""What a TenantQuota's identities claim: API keys, Entra ID applications and groups, Kubernetes service accounts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from aoai_operator.core.api import TenantQuota
from aoai_operator.core.credentials import RESERVED, is_sendable, reference
from aoai_operator.core.generated import generated_refs
from aoai_operator.core.names import PoolKey, SecretRef
from aoai_operator.core.secret import SecretValue


class SubjectKind(StrEnum):
    """Whom a token speaks for, in words for people."""

    APP = "application"
    GROUP = "group"
    SERVICE_ACCOUNT = "service account"


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a token speaks for: an object id of Entra ID, or "namespace/name"."""

    kind: SubjectKind
    name: str

    def __str__(self) -> str:
        return f"the {self.kind} {self.name}"


Proof = SecretValue | Subject
"""What tells a caller: at most one tenant has it."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One thing that an identity names.

    Attributes:
        field: where, such as `spec.identities[0].apiKey.secretRef`.
        proof: what is claimed; None for a key that cannot be read, or be anybody's.
        ref: where a key is; None for a subject.
    """

    field: str
    proof: Proof | None
    ref: SecretRef | None = None


def key_refs(quota: TenantQuota) -> tuple[SecretRef, ...]:
    """Return the entries of Secrets that a quota's identities name."""
    named = (identity.api_key.secret_ref for identity in quota.spec.identities if identity.api_key)
    return *(reference(quota.metadata.namespace, ref) for ref in named), *generated_refs(quota)


def claims_of(quota: TenantQuota, secrets: Mapping[SecretRef, SecretValue]) -> Iterator[Claim]:
    """Yield what a quota's identities claim, in their order."""
    for i, identity in enumerate(quota.spec.identities):
        field = f"spec.identities[{i}]"
        if identity.api_key:
            ref = reference(quota.metadata.namespace, identity.api_key.secret_ref)
            yield Claim(f"{field}.apiKey.secretRef", _key(secrets, ref), ref)
        if identity.entra:
            for j, app in enumerate(identity.entra.app_ids):
                yield Claim(f"{field}.entra.appIds[{j}]", Subject(SubjectKind.APP, app.lower()))
            for j, group in enumerate(identity.entra.groups):
                yield Claim(f"{field}.entra.groups[{j}]", Subject(SubjectKind.GROUP, group.lower()))
        if identity.service_account:
            account = identity.service_account
            name = PoolKey(account.namespace or quota.metadata.namespace, account.name)
            yield Claim(f"{field}.serviceAccount", Subject(SubjectKind.SERVICE_ACCOUNT, str(name)))
    for ref in generated_refs(quota):
        # It is made in a moment, in a cluster; why it cannot be, its writer tells.
        if ref in secrets:
            yield Claim("spec.credentials.generateSecret", _key(secrets, ref), ref)


def _key(secrets: Mapping[SecretRef, SecretValue], ref: SecretRef) -> SecretValue | None:
    value = secrets.get(ref)
    return value if value is not None and is_sendable(value) and value.reveal() != RESERVED else None

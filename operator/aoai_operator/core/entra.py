"""As whom Entra ID is asked for a token, and for what: from a resource's words to an `Identity`."""

from __future__ import annotations

from typing import Literal

from aoai_operator.core.api import EntraIdentity, IdentityKind
from aoai_operator.core.names import SecretRef
from aoai_operator.core.table import Identity


def identity_of(spec: EntraIdentity, credential: SecretRef | None, *, scope: str) -> Identity:
    """Return the identity that a resource describes, for tokens of one scope; `credential` is what it proves."""
    kind: Literal["workload", "managed", "secret", "certificate"]
    match spec.identity:
        case IdentityKind.WORKLOAD:
            kind = "workload"
        case IdentityKind.MANAGED:
            kind = "managed"
        case IdentityKind.SERVICE_PRINCIPAL:
            kind = "secret" if spec.client_secret else "certificate"
    return Identity(
        kind=kind,
        client_id=(spec.client_id or "").lower(),
        tenant_id=(spec.tenant_id or "").lower(),
        authority_host=spec.authority_host.rstrip("/").lower(),
        scope=scope,
        credential=credential,
    )

"""What compile() finds wrong between resources: which object, which field, what, and the mend."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from aoai_operator.core.names import PoolKey


class Fault(StrEnum):
    """The reasons that conditions give; stable, documented in the spec pages."""

    SECRET_NOT_FOUND = "SecretNotFound"  # noqa: S105
    SECRET_INVALID = "SecretInvalid"  # noqa: S105
    POOL_NOT_FOUND = "PoolNotFound"
    NAMESPACE_NOT_ALLOWED = "NamespaceNotAllowed"
    MODEL_NOT_FOUND = "ModelNotFound"
    NO_DEPLOYMENT = "NoDeployment"
    KEY_CONFLICT = "KeyConflict"
    HOSTNAME_CONFLICT = "HostnameConflict"
    CONFIG_MAP_CONFLICT = "ConfigMapConflict"
    CERTIFICATE_INVALID = "CertificateInvalid"
    HOST_UNRESOLVED = "HostUnresolved"

    @property
    def of_reference(self) -> bool:
        """Tell whether it is a fault of what the object refers to (ResolvedRefs) and not of the object (Accepted)."""
        own = (Fault.NO_DEPLOYMENT, Fault.KEY_CONFLICT, Fault.HOSTNAME_CONFLICT, Fault.CONFIG_MAP_CONFLICT)
        return self not in own


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong. `field` is a path such as `spec.endpoints[1].auth.apiKey.secretRef`; no value of a Secret."""

    kind: str
    key: PoolKey
    fault: Fault
    field: str
    message: str
    mend: str

    def sentence(self) -> str:
        """Return field, message and mend as one line."""
        return f"{self.field}: {self.message}; {self.mend}"
